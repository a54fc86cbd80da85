"""Product: one speech and one environmental source in every mixture, weight on hard speech.

    python -m jaxsep.main --config configs/product.py

p ∝ p_robust · p_class_bias, with α = 0.1 and γ = 1 for speech. Other factors:
--config.weighting.factors="('cvar','class_bias')".

Cost: about 2 minutes on 2 CPU cores; at the scales `:cpu`, `:open` and `:paper` see
configs/README.md. Expected: `weight_speech` above 1 in metrics.jsonl, and within speech more weight
on what is hard.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(scale: str = "demo") -> ConfigDict:
    """Two aims at once: robust within what matters."""
    config = default.get_config(scale)
    config.data.slots = ("speech", "environment")
    config.weighting.name = "product"
    config.weighting.granularity = "source"
    config.weighting.factors = ("robust", "class_bias")
    config.weighting.gamma = ConfigDict({"speech": 1.0, "environment": 0.0})
    return config
