"""Mixtures to listen to: the worst, those at low quantiles, the median and the best."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxsep.console import progress
from jaxsep.data.audio import write_wav
from jaxsep.evaluation.evaluate import Rows
from jaxsep.files import atomic_folder
from jaxsep.objective.permutation import best_permutation
from jaxsep.objective.si_sdr import pairwise_si_sdr

# Place -> quantile. The two ends choose first.
PLACES = {"worst": 0.0, "best": 1.0, "p01": 0.01, "p05": 0.05, "median": 0.5}
# Index of a mixture -> what was rendered of it, without the batch axis, and its estimates [N, T].
Separate = Callable[[int], tuple[dict[str, np.ndarray], np.ndarray]]


def write_excerpts(
    folder: Path, rows: Rows, separate: Separate, names: Sequence[str], sample_rate: int
) -> None:
    """Write FOLDER/PLACE-RANK-mixtureINDEX/{mixture,sourceN-CLASS,estimateN}.wav; replaces FOLDER.

    Args:
      rows: see `jaxsep.evaluation.evaluate.evaluate`.
      names: [classes] by class id.
    """
    with atomic_folder(folder, replace=True) as partial:
        picked = pick_excerpts(rows)
        for place, index in progress(picked, unit="excerpt", desc="excerpts", leave=False):
            batch, estimates = separate(index)
            length, active = int(batch["lengths"]), batch["active"]
            sources = batch["sources"][:, :length]
            estimates = aligned(estimates[:, :length], sources, active)
            signals = {"mixture": batch["mixture"][:length]}
            for n, source in enumerate(sources):
                name = names[batch["class_ids"][n]] if active[n] else "silent"
                signals[f"source{n + 1}-{name}"] = source
                signals[f"estimate{n + 1}"] = estimates[n]
            # One gain for all files of a mixture: they stay comparable, and none clips.
            gain = 0.9 / max(1e-9, *(float(np.abs(signal).max()) for signal in signals.values()))
            for name, signal in signals.items():
                path = partial / f"{place}-mixture{index}" / f"{name}.wav"
                write_wav(path, gain * signal, sample_rate)


def pick_excerpts(rows: Rows, each: int = 5) -> list[tuple[str, int]]:
    """`each` mixtures at every place of PLACES, by the mixture's mean SI-SDRi; none is taken twice.

    Args:
      rows: see `jaxsep.evaluation.evaluate.evaluate`; mixtures with one active source are left out.

    Returns:
      [(label, mixture index)], labels such as 'worst-1'; fewer where there are fewer mixtures.
    """
    among_others = rows["num_active"] > 1
    indices, inverse = np.unique(rows["index"][among_others], return_inverse=True)
    means = np.bincount(inverse, weights=rows["si_sdri"][among_others]) / np.bincount(inverse)
    ranked = indices[np.argsort(means, kind="stable")]
    free = list(range(ranked.size))
    picked = []
    for label, quantile in PLACES.items():
        target = quantile * (ranked.size - 1)
        nearest = sorted(sorted(free, key=lambda rank: abs(rank - target))[:each])
        picked += [(f"{label}-{n + 1}", int(ranked[rank])) for n, rank in enumerate(nearest)]
        free = [rank for rank in free if rank not in nearest]
    return picked


def aligned(estimates: np.ndarray, sources: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Estimates [N, T] in the order of the sources [N, T]; active [N] bool."""
    pairwise = pairwise_si_sdr(jnp.asarray(estimates), jnp.asarray(sources))
    return estimates[np.asarray(best_permutation(pairwise, active=jnp.asarray(active))[0])]
