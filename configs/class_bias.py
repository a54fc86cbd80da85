"""Class bias: one speech and one environmental source in every mixture, more weight on the class that matters.

    python -m jaxsep.main --config configs/class_bias.py

γ = 3 for speech, 0 for environment: a speech source's loss weighs e³ ≈ 20 times an environmental one's, so weights are per
source. The other way round: --config.weighting.gamma.speech=0 --config.weighting.gamma.environment=3.
Scales: `:demo` (the default), `:cpu`, `:open`, `:paper`; see configs/default.py for their cost, README.md for their results.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(scale: str = "demo") -> ConfigDict:
    """The paper's class experiment at a scale."""
    config = default.get_config(scale)
    config.data.slots = ("speech", "environment")
    config.weighting.name = "class_bias"
    config.weighting.granularity = "source"
    config.weighting.gamma = ConfigDict({"speech": 3.0, "environment": 0.0})
    return config
