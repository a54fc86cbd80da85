"""Rows, statistics, tables and the choice of excerpts, on numbers worked out by hand."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsep
from jaxsep.data.packs.format import ClassTable
from jaxsep.evaluation.evaluate import evaluate, make_eval_step
from jaxsep.evaluation.excerpts import aligned, pick_excerpts
from jaxsep.evaluation.statistics import (
    QUANTILES,
    average,
    metric,
    summarise,
    summarise_alone,
    summarise_rows,
)
from jaxsep.evaluation.tables import distribution_table, write_csv

TABLE = ClassTable(
    ("dog", "rain", "anna"),
    ("animals", "nature", "speech"),
    ("environment", "environment", "speech"),
)


def rows(scores, class_ids, num_active=2):
    scores = np.asarray(scores, np.float32)
    return {
        "index": np.arange(scores.size) // 2,
        "slot": np.arange(scores.size) % 2,
        "class_id": np.asarray(class_ids),
        "num_active": np.broadcast_to(num_active, scores.shape),
        "input_snr": np.zeros_like(scores),
        "si_sdr": scores - 1,
        "si_sdri": scores,
    }


def halves(variables, mixture):
    """A 'network' with estimates known exactly: half of the mixture, and its square."""
    return jnp.stack([0.5 * mixture, jnp.square(mixture)], axis=1)


STEP = jax.jit(make_eval_step(halves))


def batch(lengths, samples, seed=0):
    rng = np.random.default_rng(seed)
    sources = np.zeros((len(lengths), 2, samples), np.float32)
    for b, length in enumerate(lengths):
        sources[b, :, :length] = rng.standard_normal((2, length)) + 0.3
    return {
        "mixture": sources.sum(1),
        "sources": sources,
        "active": np.ones((len(lengths), 2), bool),
        "class_ids": np.tile([0, 2], (len(lengths), 1)),
        "lengths": np.array(lengths, np.int32),
        "index": np.arange(len(lengths)),
        "valid": np.ones(len(lengths), bool),
    }


def test_every_source_is_scored_once_and_padding_never():
    full, last = batch([500, 500], 500), batch([500, 500], 500, seed=1)
    last["index"], last["valid"] = np.array([2, 2]), np.array([True, False])
    full["active"][1, 0] = False
    scored = evaluate(STEP, {}, [full, last])
    places = list(zip(scored["index"], scored["slot"], strict=True))
    assert places == [(0, 0), (0, 1), (1, 1), (2, 0), (2, 1)]
    assert list(scored["num_active"]) == [2, 2, 1, 2, 2]


def test_scores_are_those_of_the_library_at_the_true_length():
    padded = batch([300, 411], 500)
    scored = evaluate(STEP, {}, [padded])
    for b, length in enumerate([300, 411]):
        mixture, sources = padded["mixture"][b, :length], padded["sources"][b, :, :length]
        estimates = halves({}, mixture[None])[0]
        expected = jax.jit(jaxsep.si_sdr_improvement)(estimates, sources, mixture)
        rows_of_mixture = scored["index"] == b
        np.testing.assert_allclose(scored["si_sdri"][rows_of_mixture], expected, atol=1e-3)
        power = np.sum(np.square(sources - sources.mean(-1, keepdims=True)), axis=-1)
        snr = 10 * np.log10(power[0] / power[1])
        np.testing.assert_allclose(scored["input_snr"][rows_of_mixture], [snr, -snr], atol=1e-3)


def test_statistics_are_population_and_linear():
    values = np.arange(101.0)
    summary = summarise(values)
    assert summary["quantiles"] == {str(q): float(q) for q in QUANTILES}
    assert (summary["mean"], summary["n"]) == (50.0, 101)
    assert summary["std"] == pytest.approx(np.sqrt((101**2 - 1) / 12))
    assert summarise(np.array([]))["mean"] is None


def test_summaries_by_corpus_and_class_leave_lone_sources_out():
    scored = rows([1, 2, 3, 4, 50, 60], [0, 2, 1, 2, 0, 2], num_active=[2, 2, 2, 2, 1, 1])
    summaries = summarise_rows(scored, TABLE)
    assert {key: summary["mean"] for key, summary in summaries.items()} == {
        "combined": 2.5,
        "environment": 2.0,
        "speech": 3.0,
        "class:dog": 1.0,
        "class:rain": 3.0,
        "class:anna": 3.0,
    }
    assert summarise_alone(scored)["mean"] == 54.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [("mean", 2.5), ("q50", 2.5), ("q01", 1.03), ("speech", 3.0), ("dog", 1.0), ("rain", 3.0)],
)
def test_best_metric_names(name, expected):
    assert metric(summarise_rows(rows([1, 2, 3, 4], [0, 2, 1, 2]), TABLE), name) == pytest.approx(
        expected
    )


def test_average_is_taken_statistic_by_statistic():
    one = summarise_rows(rows([0, 2], [0, 2]), TABLE)
    other = summarise_rows(rows([2, 8], [0, 2]), TABLE)
    mean = average([one, other])
    assert mean.keys() == one.keys()
    assert list(mean["combined"]["quantiles"]) == list(one["combined"]["quantiles"])
    assert mean["combined"]["n"] == 2
    assert mean["combined"]["mean"] == 3.0
    assert mean["combined"]["std"] == 2.0  # of 1 and 3, not of the four scores together
    assert mean["combined"]["epochs"] == 2


def test_excerpts_come_from_their_places_and_none_twice():
    scores = np.repeat(np.random.default_rng(0).permutation(1000), 2)
    picked = pick_excerpts(rows(scores, np.zeros(2000, int)))
    rank = {label: scores[2 * index] for label, index in picked}
    assert [rank[f"worst-{k}"] for k in range(1, 6)] == [0, 1, 2, 3, 4]
    assert [rank[f"best-{k}"] for k in range(1, 6)] == [995, 996, 997, 998, 999]
    assert all(
        abs(rank[f"p05-{k}"] - 50) <= 3 and abs(rank[f"p01-{k}"] - 10) <= 3 for k in range(1, 6)
    )
    assert len({index for _, index in picked}) == 25
    assert len(pick_excerpts(rows(np.repeat([1.0, 2.0], 2), np.zeros(4, int)))) == 2


def test_estimates_are_put_in_the_order_of_the_sources():
    sources = np.random.default_rng(0).standard_normal((3, 400)).astype(np.float32)
    estimates = sources[[2, 0, 1]] + 0.01
    np.testing.assert_array_equal(
        aligned(estimates, sources, np.ones(3, bool)), estimates[[1, 2, 0]]
    )


def test_table_shows_best_and_worst_classes():
    scores, ids = np.repeat(np.arange(8.0), 2), np.repeat(np.arange(8), 2)
    names = tuple(f"kind{i}" for i in range(8))
    table = ClassTable(names, names, ("environment",) * 8)
    text = distribution_table(summarise_rows(rows(scores, ids), table))
    lines = text.splitlines()
    assert lines[0].split()[:4] == ["SI-SDRi", "(dB)", "mean", "std"]
    shown = [line.split()[:3] for line in lines[3:]]
    best = [["best:", f"kind{i}", f"{i}.00"] for i in (7, 6, 5)]
    assert shown == best + [["worst:", f"kind{i}", f"{i}.00"] for i in (2, 1, 0)]
    assert len({len(line.rstrip()) for line in lines}) == 1


def test_csv_has_one_row_per_source(tmp_path):
    path = tmp_path / "test.csv"
    scored = rows([1, 2, 3], [0, 2, 1], num_active=[2, 2, 1])
    write_csv(path, scored, TABLE, "synthetic")
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    assert (lines[2]["si_sdr_db"], lines[2]["si_sdri_db"]) == ("2.0000", "")
    assert lines[1] == {
        "mixture": "0",
        "slot": "1",
        "class": "anna",
        "group": "speech",
        "corpus": "speech",
        "num_active": "2",
        "input_snr_db": "0.0000",
        "si_sdr_db": "1.0000",
        "si_sdri_db": "2.0000",
        "data": "synthetic",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["test.csv"]
