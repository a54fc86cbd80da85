"""Group DRO: one speech and one environmental source in every mixture, weight on the worst classes.

    python -m jaxsep.main --config configs/group_dro.py

Each class's share q grows by exp(η·(L − mean L)) with its mean loss L, from step to step. Over
corpora or ESC-50's five categories: --config.weighting.dro_groups=corpus (or group). Faster:
--config.weighting.dro_step=0.02.

Cost: about 2 minutes on 2 CPU cores; at the scales `:cpu`, `:open` and `:paper` see
configs/README.md. Expected: `weight_environment` above 1 in metrics.jsonl, since environmental
sounds are the harder ones.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(scale: str = "demo") -> ConfigDict:
    """The mixtures of the paper's class experiment; whichever class is worst matters most."""
    config = default.get_config(scale)
    config.data.slots = ("speech", "environment")
    config.weighting.name = "group_dro"
    config.weighting.granularity = "source"
    return config
