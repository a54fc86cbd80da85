"""Threshold: two environmental sources in every mixture; what is separated well no longer counts.

    python -m jaxsep.main --config configs/threshold.py

p is equal over the mixtures whose SI-SDR improvement is below 15 dB, and 0 on the others:
--config.weighting.threshold_db=20.

Cost: about 2 minutes on 2 CPU cores; at the scales `:cpu`, `:open` and `:paper` see
configs/README.md. Expected: the start of ordinary training; an effective sample size (`ess`) that
falls as more mixtures pass the threshold.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(scale: str = "demo") -> ConfigDict:
    """The mixtures of the paper's robustness experiment, without those that are good enough."""
    config = default.get_config(scale)
    config.data.slots = ("environment", "environment")
    config.weighting.name = "threshold"
    return config
