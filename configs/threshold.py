"""Threshold: two environmental sources in every mixture; what is separated well enough no longer counts.

    python -m jaxsep.main --config configs/threshold.py

p is equal over the mixtures whose SI-SDR improvement is below 15 dB: --config.weighting.threshold_db=20.
Scales: `:demo` (the default), `:cpu`, `:open`, `:paper`; see configs/default.py for their cost.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(scale: str = "demo") -> ConfigDict:
    """The mixtures of the paper's robustness experiment, without those that are good enough."""
    config = default.get_config(scale)
    config.data.slots = ("environment", "environment")
    config.weighting.name = "threshold"
    return config
