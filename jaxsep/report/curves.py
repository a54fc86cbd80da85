"""Courses of training and of the score over input SNR: what the figures draw and the tables count. NumPy only."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxsep.report.runs import Run

SNR_BIN = 5.0  # dB
SCORE_BIN = 1.0  # dB
_POINTS = 100  # of a curve over steps
_DRAWS = 200  # batches of a size


def validation(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
    """Epochs [E], counted from 1, that every run validated, and its mean validation SI-SDRi then, [runs, E] dB."""
    curves = [
        {record["epoch"] + 1: float(record["combined"]) for record in run.metrics["val"]}
        for run in runs
    ]
    epochs = sorted(set.intersection(*map(set, curves)))
    return np.array(epochs, int), np.array(
        [[curve[epoch] for epoch in epochs] for curve in curves], float
    )


def first_at_least(epochs: np.ndarray, curve: np.ndarray, target: float) -> int | None:
    """The first of epochs [E] at which curve [E] is at or above target; None where it never is.

    >>> first_at_least(np.array([1, 2, 3]), np.array([0.0, 5.0, 4.0]), 4.5)
    2
    """
    reached = np.flatnonzero(curve >= target)
    return int(epochs[reached[0]]) if reached.size else None


def last_test_means(runs: Sequence[Run], corpora: Sequence[str]) -> np.ndarray:
    """[epochs of all runs together, corpora] dB: mean SI-SDRi on the test set after each of a run's last epochs.

    A run whose metrics have no record of these gives one row, its last epoch's.
    """
    rows = []
    for run in runs:
        first = run.summary["training"]["epochs"] - run.epochs_averaged
        records = [
            record
            for record in run.metrics["test"]
            if record["epoch"] >= first and all(_is_number(record.get(name)) for name in corpora)
        ]
        if not records:
            records = [{name: run.last_scores[name]["mean"] for name in corpora}]
        rows += [[float(record[name]) for name in corpora] for record in records]
    return np.array(rows)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def score_counts(scores: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Edges [bins + 1] in dB, whole multiples of SCORE_BIN that hold all scores, and counts [conditions, bins].

    Args:
      scores: [runs, rows] dB of each condition. Counts are means over its runs.
    """
    everything = np.concatenate([np.ravel(array) for array in scores])
    low, high = np.floor(everything.min() / SCORE_BIN), np.floor(everything.max() / SCORE_BIN) + 1
    edges = np.arange(low, high + 1) * SCORE_BIN
    return edges, np.array([np.histogram(array, edges)[0] / len(array) for array in scores])


def medians_by_snr(
    input_snr: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median score per SNR_BIN of input SNR.

    Args:
      input_snr: [rows] dB.
      scores: [runs, rows] dB, pooled over runs.

    Returns:
      lower edges [bins] in dB, multiples of SNR_BIN, of the bins that hold a source; how many of the rows each holds [bins];
      medians [bins] dB.
    """
    place = np.floor(input_snr / SNR_BIN).astype(int)
    bins = np.unique(place)
    medians = [float(np.median(scores[:, place == number])) for number in bins]
    return bins * SNR_BIN, np.array([np.sum(place == number) for number in bins]), np.array(medians)


def thinned(rows: int, most: int) -> np.ndarray:
    """Which of `rows` to draw: all, or `most` of them, at random and always the same. Ascending indices."""
    return (
        np.arange(rows)
        if rows <= most
        else np.sort(np.random.default_rng(0).permutation(rows)[:most])
    )


def number_of_weights(run: Run) -> int:
    """How many weights sum to 1 in a step: the batch, or all its sources where each has its own."""
    config = run.config
    per_example = (
        config["model"]["num_sources"] if config["weighting"]["granularity"] == "source" else 1
    )
    return int(config["train"]["batch_size"] * per_example)


def ess_share(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
    """Effective sample size over training, as a share of the number of weights: 1 is ordinary training.

    Training is cut into equal parts, at most _POINTS and no more than any run has records; a run's records are averaged
    within each part, then the runs.

    Returns:
      steps [parts], the middle of each part; shares [parts]; empty where a run has no records. A part without records is NaN.
    """
    number = min(_POINTS, *(len(run.metrics["train"]) for run in runs))
    if not number:
        return np.array([]), np.array([])
    last = max(record["step"] for run in runs for record in run.metrics["train"])
    shares = np.full((len(runs), number), np.nan)
    for row, run in zip(shares, runs, strict=True):
        part = np.array([(record["step"] - 1) * number // last for record in run.metrics["train"]])
        ess = np.array(
            [record["ess"] for record in run.metrics["train"]], float
        ) / number_of_weights(run)
        for index in np.unique(part):
            row[index] = ess[part == index].mean()
    return (np.arange(number) + 0.5) * last / number, shares.mean(axis=0)


def ess_by_batch(losses: np.ndarray, alpha: float, sizes: Sequence[int]) -> np.ndarray:
    """Effective sample size 1/Σ p² of robust weights p = softmax(α·L) for batches of several sizes, drawn from losses [any] dB.

    Means over _DRAWS batches of each size, drawn with replacement from a generator of seed 0. As a batch grows, its share tends
    to E[exp(α·L)]² / E[exp(2α·L)]: a number of examples that few large losses set, not the batch.
    """
    rng = np.random.default_rng(0)
    found = []
    for size in sizes:
        logits = alpha * rng.choice(losses, (_DRAWS, size))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        found.append(float(np.mean(powers.sum(axis=1) ** 2 / np.square(powers).sum(axis=1))))
    return np.array(found)


def weight_means(run: Run) -> dict[str, float]:
    """Means of what a run's records say of its weights, over the last quarter of training.

    'ess' and every 'weight_…' that all these records hold; {} where there are no records.
    """
    records: list[dict[str, Any]] = run.metrics["train"]
    last = max((record["step"] for record in records), default=0)
    late = [record for record in records if record["step"] > 0.75 * last]
    names = [
        name for name in (late[0] if late else ()) if name == "ess" or name.startswith("weight_")
    ]
    return {
        name: float(np.mean([record[name] for record in late]))
        for name in names
        if all(_is_number(record.get(name)) for record in late)
    }
