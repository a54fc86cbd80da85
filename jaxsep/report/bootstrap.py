"""Two conditions on the same test mixtures: paired differences with bootstrap intervals.

For a statistic T of the scores of one run (the mean, the standard deviation, a quantile, the mean
of a class) and conditions A and B with runs a = 1…R_A and b = 1…R_B, all scored on the same M
mixtures:

    D = 1/R_B · Σ_b T(b) − 1/R_A · Σ_a T(a)

A resample draws M mixtures with replacement, the same ones for A and B, a mixture with all its
sources; and R_A of the runs of A and R_B of those of B, with replacement, each condition by itself.
D* is D of what was drawn. The 95 % interval lies between the 2.5 and 97.5 % quantiles of RESAMPLES
values of D* (percentile interval). With one run of a condition nothing is drawn among runs: the
interval is then about other mixtures, not about another training; with two or three it is too
narrow.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", Chapman & Hall 1993: percentile
intervals in chapter 13, data in several levels in chapter 8. `scipy.stats.bootstrap` has no such
levels, and does not give the same mixtures to several conditions.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from jaxsep.console import progress
from jaxsep.evaluation.statistics import QUANTILES

RESAMPLES = 2000
LEAST_MIXTURES = 5  # of fewer no interval is given
STATISTICS = ("mean", "std", *(f"{q} %" for q in QUANTILES))
_ROUNDING = 1e-9  # dB; nearer to 0 is 0
_CHUNK = 300_000  # numbers in the largest arrays of a step


def verdict(low: float, high: float) -> str:
    """'higher' or 'lower' where the interval [low, high] dB leaves 0 out, else '–'."""
    return "higher" if low > _ROUNDING else "lower" if high < -_ROUNDING else "–"


def draw_mixtures(mixtures: int, resamples: int = RESAMPLES) -> np.ndarray:
    """[resamples, mixtures] int32: how often a mixture is drawn; the same ones every time."""
    share = np.full(mixtures, 1 / mixtures)
    return np.random.default_rng(0).multinomial(mixtures, share, size=resamples).astype(np.int32)


def draw_runs(runs: int, stream: int, resamples: int = RESAMPLES) -> np.ndarray:
    """[resamples, runs]: the share of each run; `stream` tells an experiment's conditions apart."""
    rng = np.random.default_rng([0, 1 + stream])
    return rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples) / runs


def compare(
    conditions: Sequence[np.ndarray],
    mixture: np.ndarray,
    members: np.ndarray,
    resamples: int = RESAMPLES,
) -> list[pd.DataFrame]:
    """Every condition but the first against the first. Shows progress where it takes over 5 s.

    Args:
      conditions: scores [runs, rows] in dB of each condition; the place of a condition in this
        list decides which of its runs are drawn.
      mixture: [rows] int, which of the mixtures 0…M−1 a source belongs to.
      members: [rows, sets] bool, the sources in each set (a class, a group) whose mean is compared.

    Returns:
      For each condition a row for each of STATISTICS and then the mean of each set. Columns:
      reference_db and condition_db, averaged over runs; difference_db; low_db and high_db, its
      95 % interval. A resample without a source of a set does not count for that set; a set in
      fewer than LEAST_MIXTURES mixtures has no interval (NaN).
    """
    draws = draw_mixtures(int(mixture.max()) + 1, resamples)
    results = []
    total = sum(map(len, conditions))
    with progress(total=total, desc="intervals", unit="run", leave=False, delay=5) as bar:
        for stream, scores in enumerate(conditions):
            observed, drawn = np.zeros(()), np.zeros(())
            shares = draw_runs(len(scores), stream, resamples).T
            for values, share in zip(scores, shares, strict=True):
                once = run_statistics(values, mixture, members, np.ones_like(draws[:1]))[0]
                observed = observed + once / len(scores)
                drawn = drawn + share[:, None] * run_statistics(values, mixture, members, draws)
                bar.update()
            results.append((observed, drawn))
    in_mixtures = [np.unique(mixture[chosen]).size for chosen in members.T]
    few = np.array([LEAST_MIXTURES] * len(STATISTICS) + in_mixtures) < LEAST_MIXTURES
    (reference, resampled), *others = results
    tables = []
    for observed, drawn in others:
        differences = np.where(few, 0.0, drawn - resampled)  # NaN alone has no quantiles
        low, high = np.where(few, np.nan, np.nanpercentile(differences, (2.5, 97.5), axis=0))
        columns = {"reference_db": reference, "condition_db": observed}
        columns |= {"difference_db": observed - reference, "low_db": low, "high_db": high}
        tables.append(pd.DataFrame(columns))
    return tables


def run_statistics(
    scores: np.ndarray, mixture: np.ndarray, members: np.ndarray, draws: np.ndarray
) -> np.ndarray:
    """STATISTICS and means of sets of one run's scores in every resample, [resamples, K] dB.

    Args:
      scores: [rows] dB.
      mixture, members: see `compare`.
      draws: [resamples, mixtures] int, how often each mixture is taken.
    """
    centred = scores - scores.mean()  # sums of small numbers lose less
    ranks = np.argsort(centred, kind="stable")
    sets = members.T.astype(np.float64)
    columns = [np.ones_like(centred), centred, np.square(centred), *sets, *(sets * centred)]
    # Sums over the sources of each mixture, [mixtures, 3 + 2 sets]: a resample's are these, as
    # often as the mixture counts.
    sums = np.stack([np.bincount(mixture, column) for column in columns], axis=1)
    results = []
    for counts in np.array_split(draws, max(1, draws.size // _CHUNK)):
        drawn = counts.astype(np.float64) @ sums
        number, first, second = drawn[:, :1], drawn[:, 1:2], drawn[:, 2:3]
        set_number, set_first = np.split(drawn[:, 3:], 2, axis=1)
        mean = first / number
        std = np.sqrt(np.maximum(second / number - np.square(mean), 0.0))
        quantiles = weighted_quantiles(centred[ranks], counts[:, mixture[ranks]])
        none = np.full_like(set_first, np.nan)
        set_mean = np.divide(set_first, set_number, out=none, where=set_number > 0)
        results.append(np.concatenate([mean, std, quantiles, set_mean], axis=1))
    result = np.concatenate(results)
    result[:, np.arange(result.shape[1]) != STATISTICS.index("std")] += scores.mean()
    return result


def weighted_quantiles(ascending: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Linear quantiles, as `numpy.percentile` of each value repeated as often as it counts.

    Args:
      ascending: [n] sorted values.
      counts: [resamples, n] int, how often each occurs; at least one in every resample.

    Returns:
      [resamples, quantiles of QUANTILES].

    >>> weighted_quantiles(np.array([1.0, 2.0]), np.array([[1, 3]]))[0, :3].tolist()
    [1.03, 1.15, 1.3]
    """
    cumulative = np.cumsum(counts, axis=1, dtype=np.int64)
    total = cumulative[:, -1:]
    position = np.array(QUANTILES) / 100 * (total - 1)  # among the repeated values
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, total - 1)
    # All rows are searched as one ascending array: each is lifted above the one before.
    row = np.arange(len(counts))[:, None]
    lift, start = row * (int(total.max()) + 1), row * counts.shape[1]
    joined = (cumulative + lift).ravel()
    low = ascending[np.searchsorted(joined, below + lift, side="right") - start]
    high = ascending[np.searchsorted(joined, above + lift, side="right") - start]
    return low + (high - low) * (position - below)
