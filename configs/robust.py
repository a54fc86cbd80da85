"""Robustness: two environmental sources in every mixture, more weight on the mixtures that the network separates worst.

    python -m jaxsep.main --config configs/robust.py

α = 1/10; the paper tries 0 (ordinary training), 1/15, 1/10 and 1/5: --config.weighting.alpha=0.2.
Scales: `:demo` (the default), `:cpu`, `:open`, `:paper`; see configs/default.py for their cost, README.md for their results.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(scale: str = "demo") -> ConfigDict:
    """The paper's robustness experiment at a scale."""
    config = default.get_config(scale)
    config.data.slots = ("environment", "environment")
    config.weighting.name = "robust"
    config.weighting.alpha = 0.1
    if scale in ("open", "paper"):
        config.evaluation.last_epochs = 10
    return config
