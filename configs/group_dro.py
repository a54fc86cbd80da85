"""Group DRO: one speech and one environmental source in every mixture, weight on the classes that have been worst.

    python -m jaxsep.main --config configs/group_dro.py

Each class's share q grows by exp(η·(L − mean L)) with its mean loss L, step after step. Over corpora or ESC-50's five
categories: --config.weighting.dro_groups=corpus (or group); faster: --config.weighting.dro_step=0.02.
Scales: `:demo` (the default), `:cpu`, `:open`, `:paper`; see configs/default.py for their cost.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(scale: str = "demo") -> ConfigDict:
    """The mixtures of the paper's class experiment; nobody says which class matters, the worst one does."""
    config = default.get_config(scale)
    config.data.slots = ("speech", "environment")
    config.weighting.name = "group_dro"
    config.weighting.granularity = "source"
    return config
