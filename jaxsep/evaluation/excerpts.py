"""Which mixtures to listen to: the worst, those at low quantiles, the median and the best."""

import jax.numpy as jnp
import numpy as np

from jaxsep.evaluation.evaluate import Rows
from jaxsep.objective.permutation import best_permutation
from jaxsep.objective.si_sdr import pairwise_si_sdr

PLACES = {
    "worst": 0.0,
    "best": 1.0,
    "p01": 0.01,
    "p05": 0.05,
    "median": 0.5,
}  # the ends choose first


def pick_excerpts(rows: Rows, each: int = 5) -> list[tuple[str, int]]:
    """`each` mixtures at every place of PLACES, by the mixture's mean SI-SDRi; none is taken twice.

    Args:
      rows: see `jaxsep.evaluation.evaluate.evaluate`; mixtures with a single active source are left out.

    Returns:
      [(label, mixture index)], labels such as 'worst-1'; fewer where there are fewer mixtures.
    """
    among_others = rows["num_active"] > 1
    indices, inverse = np.unique(rows["index"][among_others], return_inverse=True)
    if not indices.size:
        return []
    means = np.bincount(inverse, weights=rows["si_sdri"][among_others]) / np.bincount(inverse)
    free = list(np.argsort(means, kind="stable"))
    rank = {mixture: place for place, mixture in enumerate(free)}
    picked = []
    for label, quantile in PLACES.items():
        target = quantile * (indices.size - 1)
        nearest = sorted(free, key=lambda mixture: abs(rank[mixture] - target))[:each]
        nearest.sort(key=rank.__getitem__)
        picked += [
            (f"{label}-{number + 1}", int(indices[mixture]))
            for number, mixture in enumerate(nearest)
        ]
        free = [mixture for mixture in free if mixture not in nearest]
    return picked


def aligned(estimates: np.ndarray, sources: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Estimates [N, T] in the order of the sources [N, T]; active [N] bool."""
    pairwise = pairwise_si_sdr(jnp.asarray(estimates), jnp.asarray(sources))
    return estimates[np.asarray(best_permutation(pairwise, active=jnp.asarray(active))[0])]
