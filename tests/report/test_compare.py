"""The statistics of a report, against loops that do the same the slow way, and against closed forms."""

import numpy as np
import pytest

from jaxsep.evaluation.statistics import QUANTILES
from jaxsep.report import curves
from jaxsep.report.bootstrap import (
    RESAMPLES,
    STATISTICS,
    Design,
    difference,
    draw_mixtures,
    draw_runs,
    resample,
    run_statistics,
    weighted_quantiles,
)
from jaxsep.report.runs import Run

RNG = np.random.default_rng(5)
MEAN, STD = STATISTICS.index("mean"), STATISTICS.index("std")


@pytest.fixture(autouse=True)
def _same_numbers_in_every_order(monkeypatch):
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(5))


def design(mixtures=40, *, sets=3, ragged=False):
    """Two sources in every mixture, or one to three; sets of a third of the sources each."""
    sizes = RNG.integers(1, 4, mixtures) if ragged else np.full(mixtures, 2)
    mixture = np.repeat(np.arange(mixtures), sizes)
    return Design(mixture, RNG.random((mixture.size, sets)) < 0.34)


def normal(made, runs=1):
    return RNG.normal(4.0, 6.0, (runs, made.mixture.size))


def slow_statistics(scores, made, counts):
    """The statistics of one resample: every mixture with all its sources, as often as it counts."""
    chosen = np.concatenate(
        [np.flatnonzero(made.mixture == m) for m in np.repeat(np.arange(counts.size), counts)]
    )
    drawn = scores[chosen]
    sets = [drawn[made.members[chosen, s]] for s in range(made.members.shape[1])]
    means = [values.mean() if values.size else np.nan for values in sets]
    return np.array([drawn.mean(), drawn.std(), *np.percentile(drawn, QUANTILES), *means])


def slow_difference(first, second, made, resamples):
    """Interval of second − first: draws of mixtures and runs, one after the other."""
    counts = np.concatenate(draw_mixtures(made.mixtures, resamples, 0))
    shares = [
        draw_runs(len(scores), stream, resamples, 0)
        for stream, scores in enumerate((first, second))
    ]
    drawn = []
    for r in range(resamples):
        sides = []
        for scores, share in zip((first, second), shares, strict=True):
            picked = np.repeat(np.arange(len(scores)), np.rint(share[r] * len(scores)).astype(int))
            assert picked.size == len(scores)
            sides.append(
                np.mean([slow_statistics(scores[run], made, counts[r]) for run in picked], axis=0)
            )
        drawn.append(sides[1] - sides[0])
    return np.nanpercentile(np.array(drawn), (2.5, 97.5), axis=0)


def compared(first, second, made, **options):
    resampled = resample([first, second], made, **options)
    return difference(resampled[1], resampled[0], made)


def test_quantiles_of_counted_values_are_those_of_repeated_ones():
    values = np.sort(RNG.normal(size=30))
    values[10:13] = values[10]
    counts = RNG.integers(0, 4, (50, 30))
    counts[0] = np.eye(30, dtype=int)[7]  # a single value
    expected = [np.percentile(np.repeat(values, row), QUANTILES) for row in counts]
    np.testing.assert_allclose(weighted_quantiles(values, counts), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ragged", [False, True])
def test_statistics_of_resamples_are_those_of_a_slow_loop(ragged):
    made = design(17, ragged=ragged)
    made.members[:, 2] = made.mixture == 4  # in one mixture only: some resamples have none
    scores = normal(made)[0]
    parts = draw_mixtures(17, 40)
    expected = np.array([slow_statistics(scores, made, row) for row in np.concatenate(parts)])
    assert np.isnan(expected[:, -1]).any()
    np.testing.assert_allclose(run_statistics(scores, made, parts), expected, rtol=0, atol=1e-10)


def test_intervals_are_those_of_a_slow_loop_over_runs_and_mixtures():
    made = design(12)
    first, second = normal(made, 3), normal(made, 2)
    found = compared(first, second, made, resamples=60, seed=0)
    low, high = slow_difference(first, second, made, 60)
    np.testing.assert_allclose(found.low, low, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.high, high, rtol=0, atol=1e-10)
    means = [
        np.mean([slow_statistics(s, made, np.ones(12, int)) for s in side], axis=0)
        for side in (first, second)
    ]
    np.testing.assert_allclose(found.value, means[1] - means[0], rtol=0, atol=1e-10)


def test_a_constant_shift_is_certain():
    made = design()
    scores = normal(made)
    found = compared(scores, scores + 2.5, made)
    expected = np.full(found.value.size, 2.5)
    expected[STD] = 0.0
    for bound in (found.value, found.low, found.high):
        np.testing.assert_allclose(bound, expected, rtol=0, atol=1e-12)
    assert [found.verdict(k) for k in (MEAN, STD, 2)] == ["higher", "–", "higher"]


def test_equal_scores_do_not_differ():
    made = design()
    scores = normal(made)
    found = compared(scores, scores.copy(), made)
    assert not found.value.any()
    assert not found.low.any()
    assert not found.high.any()
    assert {found.verdict(k) for k in range(found.value.size)} == {"–"}


def test_the_other_way_round_the_sign_flips():
    made = design()
    resampled = resample([normal(made, 2), normal(made, 3) + 9.0], made, resamples=200)
    there, back = (
        difference(resampled[1], resampled[0], made),
        difference(resampled[0], resampled[1], made),
    )
    np.testing.assert_array_equal(back.value, -there.value)
    np.testing.assert_allclose(back.low, -there.high, rtol=0, atol=1e-12)
    np.testing.assert_allclose(back.high, -there.low, rtol=0, atol=1e-12)
    assert (there.verdict(MEAN), back.verdict(MEAN)) == ("higher", "lower")


def test_the_sources_of_a_mixture_stay_together():
    made = design(30)
    scores = normal(made)
    change = np.repeat(RNG.normal(0, 5, 30), 2) * np.tile(
        [1.0, -1.0], 30
    )  # nothing in the mean of a mixture
    found = compared(scores, scores + change, made)
    np.testing.assert_allclose([found.low[MEAN], found.high[MEAN]], 0.0, atol=1e-12)


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
    mixtures = 400
    made = Design(np.arange(mixtures), np.ones((mixtures, 1), bool))
    scores, change = normal(made), RNG.normal(0.3, 2.0, mixtures)
    found = compared(scores, scores + change, made)
    # A mean of independent values is normal with standard deviation s / √M: the interval is ± 1.96 of these.
    half = 1.96 * change.std() / np.sqrt(mixtures)
    assert (found.high[MEAN] - found.low[MEAN]) / 2 == pytest.approx(half, rel=0.08)
    assert found.value[MEAN] == pytest.approx(change.mean())


def test_runs_are_drawn_too():
    made = design()
    scores = normal(made)
    found = compared(scores, np.concatenate([scores + 1.0, scores + 3.0]), made)
    # Of two runs the first is drawn twice in a quarter of the resamples, the second in another.
    np.testing.assert_allclose(
        [found.value[MEAN], found.low[MEAN], found.high[MEAN]], [2.0, 1.0, 3.0], atol=1e-12
    )


def test_sets_in_few_mixtures_get_no_interval():
    made = design(20, sets=2)
    made.members[:, 0], made.members[:, 1] = made.mixture < 4, made.mixture < 5
    scores = normal(made)
    found = compared(scores, scores + 1.0, made)
    rare, enough = len(STATISTICS), len(STATISTICS) + 1
    assert np.isnan([found.low[rare], found.high[rare]]).all()
    assert found.value[rare] == pytest.approx(1.0)
    assert (found.verdict(rare), found.verdict(enough)) == ("–", "higher")


def test_draws_are_fixed_and_whole():
    first, again, other = (np.concatenate(draw_mixtures(900, seed=seed)) for seed in (0, 0, 1))
    assert first.shape == (RESAMPLES, 900)
    assert set(first.sum(axis=1)) == {900}
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert set(draw_runs(3, 0).sum(axis=1).round(9)) == {1.0}
    assert (draw_runs(3, 0) != draw_runs(3, 1)).any()


def run(config=None, **metrics):
    """A run with nothing but metrics, a batch of 16 and 4 epochs."""
    config = config or {
        "train": {"batch_size": 16},
        "model": {"num_sources": 2},
        "weighting": {"granularity": "source"},
    }
    summary = {
        "training": {"epochs": 4},
        "test_last_epochs": {
            "si_sdri": {"combined": {"epochs": 2, "mean": 9.0}, "speech": {"mean": 9.0}}
        },
    }
    return Run("run", None, config, summary, {"train": [], "val": [], "test": [], **metrics}, {})


def val(curve):
    return [{"epoch": epoch, "combined": value} for epoch, value in curve.items()]


def test_validation_takes_the_epochs_of_all_runs():
    epochs, values = curves.validation(
        [run(val=val({0: 1.0, 1: 2.0, 2: 4.0})), run(val=val({0: 3.0, 1: 6.0}))]
    )
    assert list(epochs) == [1, 2]
    np.testing.assert_array_equal(values, [[1.0, 2.0], [3.0, 6.0]])
    assert curves.validation([run()])[0].size == 0


@pytest.mark.parametrize(
    ("target", "expected"), [(0.5, 3), (2.0, 3), (2.1, 7), (4.0, 7), (4.1, None)]
)
def test_first_epoch_at_a_score(target, expected):
    assert curves.first_at_least(np.array([3, 5, 7]), np.array([2.0, 1.0, 4.0]), target) == expected


def test_test_means_are_of_the_last_epochs_alone():
    records = [
        {"epoch": e, "combined": float(e), "speech": 10.0 * e} for e in (0, 1, 2, 3)
    ]  # 0 and 1: an earlier end
    np.testing.assert_array_equal(
        curves.last_test_means([run(test=records)], ["speech", "combined"]), [[20, 2], [30, 3]]
    )
    np.testing.assert_array_equal(
        curves.last_test_means([run(), run()], ["combined"]), [[9.0], [9.0]]
    )


def test_medians_by_input_snr():
    snr, scores = (
        np.array([-5.0, -0.1, 0.0, 4.9, 21.0]),
        np.array([[1.0, 2, 3, 4, 5], [3.0, 4, 5, 6, 7]]),
    )
    low, counts, medians = curves.medians_by_snr(snr, scores)
    assert (list(low), list(counts), list(medians)) == ([-5, 0, 20], [2, 2, 1], [2.5, 4.5, 6.0])


def test_score_counts_hold_every_score_and_average_runs():
    edges, counts = curves.score_counts(
        [np.array([[-1.5, 2.0], [-1.2, 0.0]]), np.array([[0.5, 0.6]])]
    )
    assert list(edges) == [-2, -1, 0, 1, 2, 3]
    np.testing.assert_array_equal(counts, [[1.0, 0, 0.5, 0, 0.5], [0, 0, 2, 0, 0]])


def test_points_are_thinned_always_the_same():
    assert list(curves.thinned(5, 10)) == [0, 1, 2, 3, 4]
    chosen = curves.thinned(4000, 2000)
    np.testing.assert_array_equal(chosen, curves.thinned(4000, 2000))
    assert np.unique(chosen).size == 2000
    assert 800 < np.sum(chosen % 2) < 1200, "both slots of the mixtures"


def test_effective_sample_size_as_a_share_of_the_weights():
    often = [{"step": step, "ess": 32.0 if step <= 20 else 8.0} for step in range(5, 41, 5)]
    seldom = [{"step": 20, "ess": 16.0}, {"step": 40, "ess": 16.0}]
    steps, share = curves.ess_share([run(train=often), run(train=seldom)])
    assert list(steps) == [10, 30]
    np.testing.assert_allclose(share, [(1.0 + 0.5) / 2, (0.25 + 0.5) / 2])
    assert curves.ess_share([run(train=often), run()])[0].size == 0


def test_weights_are_averaged_over_the_last_quarter():
    records = [{"step": s, "ess": float(s), "weight_max": 0.5, "loss": 1.0} for s in (30, 31, 40)]
    records[0]["weight_speech"] = records[2]["weight_speech"] = (
        1.0  # not in all of the last quarter
    )
    assert curves.weight_means(run(train=records)) == {"ess": 35.5, "weight_max": 0.5}
    assert curves.weight_means(run()) == {}
