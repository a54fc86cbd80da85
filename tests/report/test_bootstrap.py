"""Paired intervals, against loops that do the same the slow way, and against closed forms."""

import numpy as np
import pytest

from jaxsep.evaluation.statistics import QUANTILES
from jaxsep.report.bootstrap import (
    RESAMPLES,
    STATISTICS,
    compare,
    draw_mixtures,
    draw_runs,
    run_statistics,
    verdict,
    weighted_quantiles,
)

MEAN, STD = STATISTICS.index("mean"), STATISTICS.index("std")


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def make_design(rng, mixtures=40, *, sets=3, ragged=False):
    """(mixture, members): two sources in every mixture, or one to three; sets of a third each."""
    sizes = rng.integers(1, 4, mixtures) if ragged else np.full(mixtures, 2)
    mixture = np.repeat(np.arange(mixtures), sizes)
    return mixture, rng.random((mixture.size, sets)) < 0.34


def make_scores(rng, mixture, runs=1):
    return rng.normal(4.0, 6.0, (runs, mixture.size))


def slow_statistics(scores, mixture, members, counts):
    """The statistics of one resample: every mixture with all its sources, as often as it counts."""
    drawn_mixtures = np.repeat(np.arange(counts.size), counts)
    rows = np.concatenate([np.flatnonzero(mixture == m) for m in drawn_mixtures])
    drawn = scores[rows]
    sets = [drawn[chosen] for chosen in members[rows].T]
    means = [values.mean() if values.size else np.nan for values in sets]
    return np.array([drawn.mean(), drawn.std(), *np.percentile(drawn, QUANTILES), *means])


def test_quantiles_of_counted_values_are_those_of_repeated_ones(rng):
    values = np.sort(rng.normal(size=30))
    values[10:13] = values[10]
    counts = rng.integers(0, 4, (50, 30))
    counts[0] = np.eye(30, dtype=int)[7]  # a single value
    expected = [np.percentile(np.repeat(values, row), QUANTILES) for row in counts]
    np.testing.assert_allclose(weighted_quantiles(values, counts), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ragged", [False, True])
def test_statistics_of_resamples_are_those_of_a_slow_loop(rng, ragged):
    mixture, members = make_design(rng, 17, ragged=ragged)
    members[:, 2] = mixture == 4  # in one mixture only: some resamples have none
    scores = make_scores(rng, mixture)[0]
    draws = draw_mixtures(17, 40)
    expected = np.array([slow_statistics(scores, mixture, members, row) for row in draws])
    assert np.isnan(expected[:, -1]).any()
    computed = run_statistics(scores, mixture, members, draws)
    np.testing.assert_allclose(computed, expected, rtol=0, atol=1e-10)


def test_intervals_are_those_of_a_slow_loop_over_runs_and_mixtures(rng):
    mixture, members = make_design(rng, 12)
    sides = make_scores(rng, mixture, 3), make_scores(rng, mixture, 2)
    (computed,) = compare(sides, mixture, members, resamples=60)
    drawn = []
    for r, counts in enumerate(draw_mixtures(12, 60)):
        means = []
        for stream, scores in enumerate(sides):
            times = np.rint(draw_runs(len(scores), stream, 60)[r] * len(scores)).astype(int)
            runs = [slow_statistics(run, mixture, members, counts) for run in scores]
            means.append(np.average(runs, axis=0, weights=times))
        drawn.append(means[1] - means[0])
    ones = np.ones(12, int)
    once = [
        np.mean([slow_statistics(run, mixture, members, ones) for run in side], axis=0)
        for side in sides
    ]
    bounds = np.nanpercentile(drawn, (2.5, 97.5), axis=0)
    expected = [*once, once[1] - once[0], *bounds]
    np.testing.assert_allclose(computed.to_numpy().T, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("shift", "sign"), [(2.5, "higher"), (-2.5, "lower"), (0.0, "–")])
def test_a_constant_shift_is_certain(rng, shift, sign):
    mixture, members = make_design(rng)
    scores = make_scores(rng, mixture)
    (result,) = compare([scores, scores + shift], mixture, members)
    expected = np.full(len(result), shift)
    expected[STD] = 0.0
    for column in ("difference_db", "low_db", "high_db"):
        np.testing.assert_allclose(result[column], expected, rtol=0, atol=1e-12)
    verdicts = [verdict(result["low_db"][k], result["high_db"][k]) for k in (MEAN, STD)]
    assert verdicts == [sign, "–"]


def test_the_interval_of_a_mean_is_as_wide_as_theory_says(rng):
    mixture = np.arange(400)
    scores, change = make_scores(rng, mixture), rng.normal(0.3, 2.0, 400)
    (result,) = compare([scores, scores + change], mixture, np.ones((400, 1), bool))
    mean = result.iloc[MEAN]
    # A mean of independent values is normal with standard deviation s / √M: ± 1.96 of these.
    half = 1.96 * change.std() / np.sqrt(400)
    assert (mean["high_db"] - mean["low_db"]) / 2 == pytest.approx(half, rel=0.08)
    assert mean["difference_db"] == pytest.approx(change.mean())


def test_sets_in_few_mixtures_get_no_interval(rng):
    mixture, _ = make_design(rng, 20)
    members = np.stack([mixture < 4, mixture < 5], axis=1)
    scores = make_scores(rng, mixture)
    (result,) = compare([scores, scores + 1.0], mixture, members)
    rare, enough = result.iloc[-2], result.iloc[-1]
    assert np.isnan([rare["low_db"], rare["high_db"]]).all()
    assert rare["difference_db"] == pytest.approx(1.0)
    assert verdict(rare["low_db"], rare["high_db"]) == "–"
    assert verdict(enough["low_db"], enough["high_db"]) == "higher"


def test_draws_are_fixed_and_whole():
    draws = draw_mixtures(300)
    assert draws.shape == (RESAMPLES, 300)
    assert set(draws.sum(axis=1)) == {300}
    np.testing.assert_array_equal(draws, draw_mixtures(300))
    assert set(draw_runs(3, 0).sum(axis=1).round(9)) == {1.0}
    assert (draw_runs(3, 0) != draw_runs(3, 1)).any()
