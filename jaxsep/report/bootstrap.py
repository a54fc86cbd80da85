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
from dataclasses import dataclass

import numpy as np

from jaxsep.console import progress
from jaxsep.evaluation.statistics import QUANTILES

RESAMPLES = 2000
SEED = 0
LEAST_MIXTURES = 5  # of fewer no interval is given
STATISTICS = ("mean", "std", *(f"{q} %" for q in QUANTILES))
_ROUNDING = 1e-9  # dB; nearer to 0 is 0
_CHUNK = 300_000  # numbers in the largest arrays of a step


@dataclass(frozen=True)
class Design:
    """What all runs of an experiment share.

    Attributes:
      mixture: [rows] int, which of the mixtures 0…M−1 a source belongs to.
      members: [rows, sets] bool, the sources in each set (a class, a group) whose mean is compared.
    """

    mixture: np.ndarray
    members: np.ndarray

    @property
    def mixtures(self) -> int:
        return int(self.mixture.max()) + 1


@dataclass(frozen=True)
class Resampled:
    """The K statistics of a condition: STATISTICS, then the means of the design's sets, in dB.

    Attributes:
      observed: [K], averaged over the condition's runs.
      drawn: [resamples, K], those of the resamples; NaN where nothing of a set was drawn.
    """

    observed: np.ndarray
    drawn: np.ndarray


@dataclass(frozen=True)
class Difference:
    """value, low, high [K], dB: D and its 95 % interval, NaN for a set in few mixtures."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def verdict(low: float, high: float) -> str:
    """'higher' or 'lower' where the interval [low, high] dB leaves 0 out, else '–'."""
    return "higher" if low > _ROUNDING else "lower" if high < -_ROUNDING else "–"


def draw_mixtures(mixtures: int, resamples: int = RESAMPLES, seed: int = SEED) -> list[np.ndarray]:
    """[some resamples, mixtures] int32 each, `resamples` together: how often a mixture is drawn.

    The draws depend on the arguments alone.
    """
    rng = np.random.default_rng(seed)
    size = max(1, _CHUNK // mixtures)
    counts = [min(size, resamples - start) for start in range(0, resamples, size)]
    share = np.full(mixtures, 1 / mixtures)
    return [rng.multinomial(mixtures, share, size=count).astype(np.int32) for count in counts]


def draw_runs(runs: int, stream: int, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """[resamples, runs]: the share of each run; `stream` tells an experiment's conditions apart."""
    rng = np.random.default_rng([seed, 1 + stream])
    return rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples) / runs


def resample(
    conditions: Sequence[np.ndarray],
    design: Design,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> list[Resampled]:
    """The resamples of all conditions of an experiment, from the same draws of mixtures.

    Shows progress where it takes longer than 5 s.

    Args:
      conditions: scores [runs, rows] in dB of each condition; the place of a condition in this
        list decides which of its runs are drawn.
      design: rows as in the scores.
    """
    draws = draw_mixtures(design.mixtures, resamples, seed)
    once = [np.ones((1, design.mixtures), np.int32)]
    results = []
    total = sum(map(len, conditions))
    with progress(total=total, desc="intervals", unit="run", leave=False, delay=5) as bar:
        for stream, scores in enumerate(conditions):
            share = draw_runs(len(scores), stream, resamples, seed)
            observed, drawn = np.zeros(()), np.zeros(())
            for run, values in enumerate(scores):
                observed = observed + run_statistics(values, design, once)[0] / len(scores)
                drawn = drawn + share[:, run, None] * run_statistics(values, design, draws)
                bar.update()
            results.append(Resampled(observed, drawn))
    return results


def difference(of: Resampled, against: Resampled, design: Design) -> Difference:
    """`of` minus `against`, dB. A resample without a source of a set does not count for that set.

    A set that occurs in fewer than LEAST_MIXTURES mixtures has no interval.
    """
    drawn = of.drawn - against.drawn
    mixtures = [np.unique(design.mixture[chosen]).size for chosen in design.members.T]
    few = np.array([False] * len(STATISTICS) + [number < LEAST_MIXTURES for number in mixtures])
    drawn[:, few] = 0.0  # replaced below; a column of NaN alone has no quantiles
    low, high = np.nanpercentile(drawn, (2.5, 97.5), axis=0)
    low[few] = high[few] = np.nan
    return Difference(of.observed - against.observed, low, high)


def run_statistics(scores: np.ndarray, design: Design, draws: Sequence[np.ndarray]) -> np.ndarray:
    """The K statistics of one run's scores in every resample.

    Args:
      scores: [rows] dB.
      design: rows as in the scores.
      draws: [some resamples, mixtures] int each, how often each mixture is taken.

    Returns:
      [resamples of all draws, K]
    """
    scores = np.asarray(scores, np.float64)
    centred = scores - scores.mean()  # sums of small numbers lose less
    ranks = np.argsort(centred, kind="stable")
    members = design.members.T.astype(np.float64)
    columns = [np.ones_like(centred), centred, np.square(centred), *members, *(members * centred)]
    # Sums over the sources of each mixture, [mixtures, 3 + 2 sets]: a resample's are these, as
    # often as the mixture counts.
    sums = [np.bincount(design.mixture, column, design.mixtures) for column in columns]
    results = []
    for counts in draws:
        drawn = counts.astype(np.float64) @ np.stack(sums, axis=1)
        number, first, second = drawn[:, :1], drawn[:, 1:2], drawn[:, 2:3]
        set_number, set_first = np.split(drawn[:, 3:], 2, axis=1)
        mean = first / number
        std = np.sqrt(np.maximum(second / number - np.square(mean), 0.0))
        quantiles = weighted_quantiles(centred[ranks], counts[:, design.mixture[ranks]])
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
