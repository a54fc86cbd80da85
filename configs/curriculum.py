"""Curriculum: two speakers in every mixture, easy mixtures first.

    python -m jaxsep.main --config configs/curriculum.py

β(κ) = −1/(10 + 0.5·κ), κ running over 100 whatever the number of epochs; ordinary training to compare with:
--config.weighting.name=uniform.
Scales: `:demo` (the default), `:cpu`, `:open`, `:paper`; see configs/default.py for their cost, README.md for their results.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(scale: str = "demo") -> ConfigDict:
    """The paper's curriculum experiment at a scale."""
    config = default.get_config(scale)
    config.data.slots = ("speech", "speech")
    if scale in ("demo", "cpu"):
        config.data.max_snr_db = (
            5.0  # two voices 30 dB apart are more than a small network learns from in minutes
        )
    config.weighting.name = "curriculum"
    config.weighting.beta = (10.0, 0.5)
    return config
