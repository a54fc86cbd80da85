"""Product: one speech and one environmental source in every mixture, weight on hard examples of a favoured class.

    python -m jaxsep.main --config configs/product.py

p ∝ p_robust · p_class_bias, α = 0.1 and γ = 1 for speech. Others: --config.weighting.factors="('cvar','class_bias')".
Scales: `:demo` (the default), `:cpu`, `:open`, `:paper`; see configs/default.py for their cost.
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
