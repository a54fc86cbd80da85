"""CVaR: two environmental sources in every mixture, and only the worst quarter of a batch counts.

    python -m jaxsep.main --config configs/cvar.py

p = 1/(q·B) on the q·B mixtures that come out worst, 0 elsewhere: --config.weighting.fraction=0.5.

Cost: about 2 minutes on 2 CPU cores; at the scales `:cpu`, `:open` and `:paper` see
configs/README.md. Expected: as robust.py, with a hard limit in place of the softmax; an effective
sample size (`ess`) of a quarter of the batch.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(scale: str = "demo") -> ConfigDict:
    """The mixtures of the robustness experiment, with a hard limit in place of a softmax."""
    config = default.get_config(scale)
    config.data.slots = ("environment", "environment")
    config.weighting.name = "cvar"
    return config
