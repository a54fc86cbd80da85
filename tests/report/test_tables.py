"""From runs to the numbers that tables and figures show."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from slim import slim_run

from jaxsep.report import figures, tables
from jaxsep.report.grouping import group
from jaxsep.report.runs import Run, read_runs

CONFIG = SimpleNamespace(
    train=SimpleNamespace(batch_size=16),
    model=SimpleNamespace(num_sources=2),
    weighting=SimpleNamespace(granularity="source"),
)


def run(**metrics):
    """A run with nothing but metrics, and a batch of 16."""
    empty = pd.DataFrame(columns=["step", "epoch", "ess", "combined"], dtype=float)
    tables = {kind: pd.DataFrame(metrics[kind], dtype=float) for kind in metrics}
    return Run("run", None, CONFIG, None, {"train": empty, "val": empty, **tables}, None)


def validated(curve):
    return run(val=[{"epoch": epoch, "combined": value} for epoch, value in curve.items()])


def test_validation_takes_the_epochs_of_all_runs():
    runs = [validated({0: 1.0, 1: 2.0, 2: 4.0}), validated({0: 3.0, 1: 6.0})]
    table = tables.validation(runs)
    assert list(table.index) == [1, 2]
    np.testing.assert_array_equal(table, [[1.0, 3.0], [2.0, 6.0]])
    assert tables.validation([run()]).empty


@pytest.mark.parametrize(("target", "expected"), [(0.5, 3), (2.0, 3), (2.1, 7), (4.1, np.nan)])
def test_first_epoch_at_a_score(target, expected):
    first = tables.first_epoch_at(pd.Series({3: 2.0, 5: 1.0, 7: 4.0}), target)
    np.testing.assert_equal(first, expected)


def test_effective_sample_size_as_a_share_of_the_weights():
    often = [{"step": step, "ess": 32.0 if step <= 20 else 8.0} for step in range(5, 41, 5)]
    seldom = [{"step": 20, "ess": 16.0}, {"step": 40, "ess": 16.0}]
    share = figures.ess_share([run(train=often), run(train=seldom)])
    assert list(share.index) == [10, 30]
    np.testing.assert_allclose(share, [(1.0 + 0.5) / 2, (0.25 + 0.5) / 2])
    assert figures.ess_share([run(train=often), run()]).empty


def test_effective_sample_size_by_batch():
    losses, sizes = np.array([0.0, 0.0, 0.0, 10.0]), (4, 64, 4096)
    np.testing.assert_allclose(tables.ess_by_batch(losses, 0.0, sizes), sizes)
    ess = tables.ess_by_batch(losses, 0.2, sizes)
    powers = np.exp(0.2 * losses)
    assert ess[2] / 4096 == pytest.approx(powers.mean() ** 2 / np.square(powers).mean(), rel=0.02)
    assert np.all(np.diff(ess) > 0)


@pytest.mark.parametrize("name", ["max", "sources", "condition", ""])
def test_a_corpus_may_have_any_name(tmp_path, name):
    """Also those that the report itself gives to columns."""
    slim_run(tmp_path / "a", "weighting.name=uniform", corpus=name)
    slim_run(tmp_path / "b", seed=1, corpus=name)
    (experiment,) = group(read_runs([tmp_path / "a", tmp_path / "b"]))
    assert f"mean weight, {name}" in tables.weights(experiment).cells or name == "max"
    assert "speech (corpus)" in list(tables.differences(experiment)[1].cells["SI-SDRi (dB)"])
    assert name in tables.corpora(experiment).cells
    assert len(tables.by_seed(experiment)) == 0


def test_weights_are_averaged_over_the_last_quarter(tmp_path):
    slim_run(tmp_path / "a")
    records = '{{"kind": "train", "epoch": 0, "step": {}, "ess": {}, "weight_max": 0.5{}}}\n'
    lines = [(30, 10, ', "weight_dog": 1'), (31, 20, ""), (40, 30, ', "weight_dog": 1')]
    (tmp_path / "a" / "metrics.jsonl").write_text("".join(records.format(*one) for one in lines))
    (experiment,) = group(read_runs([tmp_path / "a"]))
    numbers = tables.weights(experiment).numbers.iloc[0]
    assert list(numbers[["runs", "weights", "ess", "ess_share"]]) == [1, 32, 25.0, 25 / 32]
    assert numbers["weight_max"] == 0.5
    assert np.isnan([numbers["weight_dog"], numbers["weight_entropy"]]).all()
