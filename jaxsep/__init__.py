"""jaxsep: audio source separation trained where you choose.

Any probability mass function over the batch reweights the gradients, see `jaxsep.weighting`. The
functions here are pure and work under jit, grad and vmap; `load` gives a trained separator.
"""

__version__ = "0.2.0"

from jaxsep import models
from jaxsep.inference.separator import load
from jaxsep.objective import weighting
from jaxsep.objective.permutation import best_permutation, si_sdr_improvement
from jaxsep.objective.si_sdr import pairwise_si_sdr, si_sdr

__all__ = [
    "best_permutation",
    "load",
    "models",
    "pairwise_si_sdr",
    "si_sdr",
    "si_sdr_improvement",
    "weighting",
]
