"""Paired intervals, against loops that do the same the slow way, and against closed forms."""

import numpy as np
import pytest

from jaxsep.evaluation.statistics import QUANTILES
from jaxsep.report.bootstrap import (
    RESAMPLES,
    STATISTICS,
    Design,
    difference,
    draw_mixtures,
    draw_runs,
    resample,
    run_statistics,
    verdict,
    weighted_quantiles,
)

MEAN, STD = STATISTICS.index("mean"), STATISTICS.index("std")


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def make_design(rng, mixtures=40, *, sets=3, ragged=False):
    """Two sources in every mixture, or one to three; sets of a third of the sources each."""
    sizes = rng.integers(1, 4, mixtures) if ragged else np.full(mixtures, 2)
    mixture = np.repeat(np.arange(mixtures), sizes)
    return Design(mixture, rng.random((mixture.size, sets)) < 0.34)


def make_scores(rng, design, runs=1):
    return rng.normal(4.0, 6.0, (runs, design.mixture.size))


def slow_statistics(scores, design, counts):
    """The statistics of one resample: every mixture with all its sources, as often as it counts."""
    drawn_mixtures = np.repeat(np.arange(counts.size), counts)
    rows = np.concatenate([np.flatnonzero(design.mixture == m) for m in drawn_mixtures])
    drawn = scores[rows]
    sets = [drawn[members] for members in design.members[rows].T]
    means = [values.mean() if values.size else np.nan for values in sets]
    return np.array([drawn.mean(), drawn.std(), *np.percentile(drawn, QUANTILES), *means])


def compare(first, second, design, **options):
    resampled = resample([first, second], design, **options)
    return difference(resampled[1], resampled[0], design)


def test_quantiles_of_counted_values_are_those_of_repeated_ones(rng):
    values = np.sort(rng.normal(size=30))
    values[10:13] = values[10]
    counts = rng.integers(0, 4, (50, 30))
    counts[0] = np.eye(30, dtype=int)[7]  # a single value
    expected = [np.percentile(np.repeat(values, row), QUANTILES) for row in counts]
    np.testing.assert_allclose(weighted_quantiles(values, counts), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ragged", [False, True])
def test_statistics_of_resamples_are_those_of_a_slow_loop(rng, ragged):
    design = make_design(rng, 17, ragged=ragged)
    design.members[:, 2] = design.mixture == 4  # in one mixture only: some resamples have none
    scores = make_scores(rng, design)[0]
    draws = draw_mixtures(17, 40)
    expected = np.array([slow_statistics(scores, design, row) for row in np.concatenate(draws)])
    assert np.isnan(expected[:, -1]).any()
    computed = run_statistics(scores, design, draws)
    np.testing.assert_allclose(computed, expected, rtol=0, atol=1e-10)


def test_intervals_are_those_of_a_slow_loop_over_runs_and_mixtures(rng):
    design = make_design(rng, 12)
    sides = make_scores(rng, design, 3), make_scores(rng, design, 2)
    computed = compare(*sides, design, resamples=60)
    counts = np.concatenate(draw_mixtures(12, 60))
    drawn = []
    for r in range(60):
        means = []
        for stream, scores in enumerate(sides):
            times = np.rint(draw_runs(len(scores), stream, 60)[r] * len(scores)).astype(int)
            assert times.sum() == len(scores)
            runs = np.repeat(scores, times, axis=0)
            means.append(np.mean([slow_statistics(run, design, counts[r]) for run in runs], axis=0))
        drawn.append(means[1] - means[0])
    once = [[slow_statistics(s, design, np.ones(12, int)) for s in side] for side in sides]
    expected = [
        np.mean(once[1], axis=0) - np.mean(once[0], axis=0),
        *np.nanpercentile(drawn, (2.5, 97.5), axis=0),
    ]
    result = [computed.value, computed.low, computed.high]
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("shift", "sign"), [(2.5, "higher"), (-2.5, "lower"), (0.0, "–")])
def test_a_constant_shift_is_certain(rng, shift, sign):
    design = make_design(rng)
    scores = make_scores(rng, design)
    result = compare(scores, scores + shift, design)
    expected = np.full(result.value.size, shift)
    expected[STD] = 0.0
    for values in (result.value, result.low, result.high):
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)
    verdicts = [verdict(result.low[k], result.high[k]) for k in (MEAN, STD)]
    assert verdicts == [sign, "–"]


def test_the_interval_of_a_mean_is_as_wide_as_theory_says(rng):
    mixtures = 400
    design = Design(np.arange(mixtures), np.ones((mixtures, 1), bool))
    scores, change = make_scores(rng, design), rng.normal(0.3, 2.0, mixtures)
    result = compare(scores, scores + change, design)
    # A mean of independent values is normal with standard deviation s / √M: ± 1.96 of these.
    half = 1.96 * change.std() / np.sqrt(mixtures)
    assert (result.high[MEAN] - result.low[MEAN]) / 2 == pytest.approx(half, rel=0.08)
    assert result.value[MEAN] == pytest.approx(change.mean())


def test_sets_in_few_mixtures_get_no_interval(rng):
    design = make_design(rng, 20, sets=2)
    design.members[:] = np.stack([design.mixture < 4, design.mixture < 5], axis=1)
    scores = make_scores(rng, design)
    result = compare(scores, scores + 1.0, design)
    rare, enough = len(STATISTICS), len(STATISTICS) + 1
    assert np.isnan([result.low[rare], result.high[rare]]).all()
    assert result.value[rare] == pytest.approx(1.0)
    assert verdict(result.low[rare], result.high[rare]) == "–"
    assert verdict(result.low[enough], result.high[enough]) == "higher"


def test_draws_are_fixed_and_whole():
    first, again, other = (np.concatenate(draw_mixtures(300, seed=seed)) for seed in (0, 0, 1))
    assert first.shape == (RESAMPLES, 300)
    assert set(first.sum(axis=1)) == {300}
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert set(draw_runs(3, 0).sum(axis=1).round(9)) == {1.0}
    assert (draw_runs(3, 0) != draw_runs(3, 1)).any()
