"""Scores and weights over the course of training, and scores over the level of the input.

What the figures draw and the tables count: from runs to arrays.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from jaxsep.report.runs import Run, is_number

SNR_BIN = 5.0  # dB
SCORE_BIN = 1.0  # dB
_POINTS = 100  # of a curve over steps
_DRAWS = 200  # batches of a size


def validation(runs: Sequence[Run]) -> pd.DataFrame:
    """Mean validation SI-SDRi (dB) at the epochs, counted from 1, that every run validated.

    A row for each epoch, a column for each run.
    """
    curves = [
        pd.Series({r["epoch"] + 1: r["combined"] for r in run.metrics["val"]}, dtype=float)
        for run in runs
    ]
    return pd.concat(curves, axis=1, join="inner").sort_index()


def first_epoch_at(curve: pd.Series, target: float) -> int | None:
    """The first epoch, of the index, at which a curve is at or above target; None: it never is.

    >>> first_epoch_at(pd.Series({1: 0.0, 2: 5.0, 3: 4.0}), 4.5)
    2
    """
    reached = curve.index[curve >= target]
    return int(reached[0]) if len(reached) else None


def last_test_means(runs: Sequence[Run], corpora: Sequence[str]) -> np.ndarray:
    """[epochs of all runs together, corpora] dB: mean test SI-SDRi after each of the last epochs.

    A run whose metrics have no record of these gives one row, its last epoch's.
    """
    rows = []
    for run in runs:
        first = run.summary["training"]["epochs"] - run.epochs_averaged
        records = [
            [record[name] for name in corpora]
            for record in run.metrics["test"]
            if record["epoch"] >= first and all(is_number(record.get(name)) for name in corpora)
        ]
        rows += records or [[run.last_scores[name]["mean"] for name in corpora]]
    return np.array(rows, float)


def score_counts(scores: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A histogram of the scores of each condition.

    Args:
      scores: [runs, rows] dB of each condition.

    Returns:
      edges [bins + 1] in dB, whole multiples of SCORE_BIN that hold all scores; and counts
      [conditions, bins], means over the condition's runs.
    """
    pooled = np.concatenate([np.ravel(array) for array in scores])
    low, high = np.floor(pooled.min() / SCORE_BIN), np.floor(pooled.max() / SCORE_BIN) + 1
    edges = np.arange(low, high + 1) * SCORE_BIN
    return edges, np.array([np.histogram(array, edges)[0] / len(array) for array in scores])


def medians_by_snr(input_snr: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """The median score (dB) in each bin of SNR_BIN of input SNR that holds a source.

    Args:
      input_snr: [rows] dB.
      scores: [runs, rows] dB, pooled over runs.

    Returns:
      Columns low and high, the bounds of the bin in dB; sources, how many of the rows; median.
    """
    low = np.floor(np.asarray(input_snr) / SNR_BIN) * SNR_BIN
    pooled = pd.DataFrame({"low": np.tile(low, len(scores)), "score": np.ravel(scores)})
    table = pooled.groupby("low", as_index=False)["score"].agg(["size", "median"])
    sources, high = table["size"] // len(scores), table["low"] + SNR_BIN
    return pd.DataFrame(
        {"low": table["low"], "high": high, "sources": sources, "median": table["median"]}
    )


def number_of_weights(run: Run) -> int:
    """How many weights sum to 1 in a step: the batch, or its sources where each has its own."""
    by_source = run.config["weighting"]["granularity"] == "source"
    return run.config["train"]["batch_size"] * (
        run.config["model"]["num_sources"] if by_source else 1
    )


def ess_share(runs: Sequence[Run]) -> pd.Series:
    """Effective sample size over training, as a share of the weights: 1 is ordinary training.

    Training is cut into equal parts, at most _POINTS and no more than any run has records; a run's
    records are averaged within each part, then the runs. The index holds the step in the middle of
    each part that every run has records of. Empty where a run has no records.
    """
    parts = min(_POINTS, *(len(run.metrics["train"]) for run in runs))
    if not parts:
        return pd.Series(dtype=float)
    last = max(record["step"] for run in runs for record in run.metrics["train"])
    shares = []
    for run in runs:
        part = [(record["step"] - 1) * parts // last for record in run.metrics["train"]]
        ess = pd.Series([record["ess"] for record in run.metrics["train"]], dtype=float)
        shares.append((ess / float(number_of_weights(run))).groupby(part).mean())
    mean = pd.concat(shares, axis=1, join="inner").mean(axis=1).sort_index()
    return mean.set_axis((mean.index.to_numpy() + 0.5) * last / parts)


def ess_by_batch(losses: np.ndarray, alpha: float, sizes: Sequence[int]) -> np.ndarray:
    """Effective sample size 1/Σ p² of robust weights p = softmax(α·L) for batches of some sizes.

    Means over _DRAWS batches of each size, drawn from losses [any] dB with replacement, from a
    generator of seed 0. As a batch grows, its share tends to E[exp(α·L)]² / E[exp(2α·L)]: a number
    of examples that few large losses set, not the batch.
    """
    rng = np.random.default_rng(0)
    sample_sizes = []
    for size in sizes:
        logits = alpha * rng.choice(losses, (_DRAWS, size))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        ess = powers.sum(axis=1) ** 2 / np.square(powers).sum(axis=1)
        sample_sizes.append(float(np.mean(ess)))
    return np.array(sample_sizes)


def weight_means(run: Run) -> dict[str, float]:
    """Means of what a run's records hold about its weights, over the last quarter of training.

    'ess' and every 'weight_…' that all these records hold; {} where there are no records.
    """
    records = run.metrics["train"]
    last = max((record["step"] for record in records), default=0)
    late = [record for record in records if record["step"] > 0.75 * last]
    names = [name for name in (late or [{}])[0] if name == "ess" or name.startswith("weight_")]
    return {
        name: float(np.mean([record[name] for record in late]))
        for name in names
        if all(is_number(record.get(name)) for record in late)
    }
