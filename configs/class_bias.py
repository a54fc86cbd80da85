"""Class bias: one speech and one environmental source in every mixture, more weight on speech.

    python -m jaxsep.main --config configs/class_bias.py

γ = 3 for speech, 0 for environment: a speech source's loss weighs e³ ≈ 20 times an environmental
one's, so weights are per source. The other way round:
--config.weighting.gamma.speech=0 --config.weighting.gamma.environment=3.

Cost: about 2 minutes on 2 CPU cores; at the scales `:cpu`, `:open` and `:paper` see
configs/README.md. Expected at `:demo`: SI-SDRi of 12.5 dB for speech and 6.3 dB for environment.
With recordings at `:cpu`, γ = 1 gains speech 0.3 dB over ordinary training and costs the other
class 0.5 dB.
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
