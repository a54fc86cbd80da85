"""The report in launch/results can be made again from the runs beside it."""

import pandas as pd
import pytest
from slim import ROOT

from jaxsep.report import tables
from jaxsep.report.grouping import group
from jaxsep.report.runs import read_runs

RESULTS = ROOT / "launch" / "results"


@pytest.mark.parametrize(
    ("place", "runs", "name", "table"),
    [
        ("cpu", "robust-*", "robustness-distribution", tables.distribution),
        ("cpu", "robust-*", "robustness-seeds", tables.by_seed),
        ("cpu/bias", "class_bias-tuned-*", "class-bias-corpora", tables.corpora),
        ("cpu/bias", "class_bias-tuned-*", "class-bias-epochs", tables.epochs_to_reference),
    ],
)
def test_a_table_is_made_again_from_the_compressed_runs(place, runs, name, table):
    (experiment,) = group(read_runs(sorted((RESULTS / place / "runs").glob(runs))))
    committed = pd.read_csv(RESULTS / place / "tables" / f"{name}.csv")
    made = made_table(table, experiment).astype(committed.dtypes)
    pd.testing.assert_frame_equal(made, committed, rtol=1e-9, atol=1e-9)


def made_table(table, experiment):
    made = table(experiment)
    return (made[0] if isinstance(made, list) else made).numbers.reset_index(drop=True)


def test_it_stays_small():
    assert sum(path.stat().st_size for path in RESULTS.rglob("*") if path.is_file()) < 3e6
