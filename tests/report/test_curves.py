"""From runs to the arrays that tables and figures show."""

import numpy as np
import pandas as pd
import pytest

from jaxsep.report import curves
from jaxsep.report.runs import Run

CONFIG = {
    "train": {"batch_size": 16},
    "model": {"num_sources": 2},
    "weighting": {"granularity": "source"},
}
LAST = {"combined": {"epochs": 2, "mean": 9.0}, "speech": {"mean": 9.0}}
SUMMARY = {"training": {"epochs": 4}, "test_last_epochs": {"si_sdri": LAST}}


def run(**metrics):
    """A run with nothing but metrics, a batch of 16 and 4 epochs."""
    return Run("run", None, CONFIG, SUMMARY, {"train": [], "val": [], "test": [], **metrics}, None)


def validated(curve):
    return run(val=[{"epoch": epoch, "combined": value} for epoch, value in curve.items()])


def test_validation_takes_the_epochs_of_all_runs():
    runs = [validated({0: 1.0, 1: 2.0, 2: 4.0}), validated({0: 3.0, 1: 6.0})]
    table = curves.validation(runs)
    assert list(table.index) == [1, 2]
    np.testing.assert_array_equal(table, [[1.0, 3.0], [2.0, 6.0]])
    assert curves.validation([run()]).empty


@pytest.mark.parametrize(
    ("target", "expected"), [(0.5, 3), (2.0, 3), (2.1, 7), (4.0, 7), (4.1, None)]
)
def test_first_epoch_at_a_score(target, expected):
    assert curves.first_epoch_at(pd.Series({3: 2.0, 5: 1.0, 7: 4.0}), target) == expected


def test_test_means_are_of_the_last_epochs_alone():
    # Epochs 0 and 1 were once the last ones of a shorter training.
    records = [{"epoch": e, "combined": float(e), "speech": 10.0 * e} for e in range(4)]
    means = curves.last_test_means([run(test=records)], ["speech", "combined"])
    np.testing.assert_array_equal(means, [[20, 2], [30, 3]])
    means = curves.last_test_means([run(), run()], ["combined"])
    np.testing.assert_array_equal(means, [[9.0], [9.0]])


def test_medians_by_input_snr():
    snr = np.array([-5.0, -0.1, 0.0, 4.9, 21.0])
    table = curves.medians_by_snr(snr, np.array([[1.0, 2, 3, 4, 5], [3.0, 4, 5, 6, 7]]))
    expected = [[-5, 0, 2, 2.5], [0, 5, 2, 4.5], [20, 25, 1, 6.0]]
    np.testing.assert_array_equal(table[["low", "high", "sources", "median"]], expected)


def test_score_counts_hold_every_score_and_average_runs():
    scores = [np.array([[-1.5, 2.0], [-1.2, 0.0]]), np.array([[0.5, 0.6]])]
    edges, counts = curves.score_counts(scores)
    assert list(edges) == [-2, -1, 0, 1, 2, 3]
    np.testing.assert_array_equal(counts, [[1.0, 0, 0.5, 0, 0.5], [0, 0, 2, 0, 0]])


def test_effective_sample_size_as_a_share_of_the_weights():
    often = [{"step": step, "ess": 32.0 if step <= 20 else 8.0} for step in range(5, 41, 5)]
    seldom = [{"step": 20, "ess": 16.0}, {"step": 40, "ess": 16.0}]
    share = curves.ess_share([run(train=often), run(train=seldom)])
    assert list(share.index) == [10, 30]
    np.testing.assert_allclose(share, [(1.0 + 0.5) / 2, (0.25 + 0.5) / 2])
    assert curves.ess_share([run(train=often), run()]).empty


def test_effective_sample_size_by_batch():
    losses, sizes = np.array([0.0, 0.0, 0.0, 10.0]), (4, 64, 4096)
    np.testing.assert_allclose(curves.ess_by_batch(losses, 0.0, sizes), sizes)
    ess = curves.ess_by_batch(losses, 0.2, sizes)
    powers = np.exp(0.2 * losses)
    assert ess[2] / 4096 == pytest.approx(powers.mean() ** 2 / np.square(powers).mean(), rel=0.02)
    assert np.all(np.diff(ess) > 0)


def test_weights_are_averaged_over_the_last_quarter():
    records = [{"step": s, "ess": float(s), "weight_max": 0.5, "loss": 1.0} for s in (30, 31, 40)]
    records[0]["weight_speech"] = records[2]["weight_speech"] = 1.0  # not in all of the quarter
    assert curves.weight_means(run(train=records)) == {"ess": 35.5, "weight_max": 0.5}
    assert curves.weight_means(run()) == {}
