"""Distributions of scores: what summary.json holds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxsep.data.packs.format import ClassTable
from jaxsep.evaluation.evaluate import Rows

QUANTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)  # per cent, as in the paper's Table 1

Summary = dict[str, Any]


def summarise(values: np.ndarray) -> Summary:
    """Mean, population standard deviation, count and linear quantiles of values [n] (dB).

    Returns:
      {"mean", "std", "n", "quantiles": {"1": …, "99": …}}; for no values n is 0 and the rest None.

    >>> summarise(np.array([1.0, 3.0]))["quantiles"]["25"]
    1.5
    """
    values = np.asarray(values, np.float64)
    numbers: list[Any] = [None] * (2 + len(QUANTILES))
    if values.size:
        numbers = [
            float(x) for x in (values.mean(), values.std(), *np.percentile(values, QUANTILES))
        ]
    mean, std, *quantiles = numbers
    named = {str(q): value for q, value in zip(QUANTILES, quantiles, strict=True)}
    return {"mean": mean, "std": std, "n": int(values.size), "quantiles": named}


def summarise_rows(rows: Rows, table: ClassTable) -> dict[str, Summary]:
    """SI-SDRi over all rows, per corpus and per class.

    Args:
      rows: see `jaxsep.evaluation.evaluate.evaluate`; mixtures with one active source are left out.
      table: the classes that class_id counts.

    Returns:
      {"combined": …, "speech": …, "environment": …, "class:NAME": …}, those that occur; see
      `summarise`.
    """
    among_others = rows["num_active"] > 1
    class_ids, scores = rows["class_id"][among_others], rows["si_sdri"][among_others]
    summaries = {"combined": summarise(scores)}
    for prefix, labels in (("", table.corpora), ("class:", table.names)):
        labels_of_rows = np.array(labels, dtype=str)[class_ids]
        for label in np.unique(labels_of_rows):  # one name in two corpora is one class
            summaries[f"{prefix}{label}"] = summarise(scores[labels_of_rows == label])
    return summaries


def summarise_alone(rows: Rows) -> Summary:
    """SI-SDR of the sources alone in their mixture, where SI-SDRi means nothing."""
    return summarise(rows["si_sdr"][rows["num_active"] == 1])


def average(summaries: Sequence[dict[str, Summary]]) -> dict[str, Summary]:
    """The mean of each statistic over several evaluations of one test set.

    So the paper averages its last epochs.

    Args:
      summaries: at least one, as `summarise_rows` gives them.

    Returns:
      The same form with "epochs", their number. "n" is that of one evaluation.
    """

    def mean(values: Sequence[Any]) -> Any:
        if isinstance(values[0], dict):
            return {key: mean([value[key] for value in values]) for key in values[0]}
        return float(np.mean(values)) if isinstance(values[0], float) else values[0]

    return {key: {**value, "epochs": len(summaries)} for key, value in mean(summaries).items()}


def metric(summaries: dict[str, Summary], name: str) -> float:
    """One number of a summary to choose checkpoints by (dB, higher is better).

    Args:
      name: 'mean'; a quantile of the combined scores, 'q01', 'q05', … 'q99'; a corpus; a class.

    Raises:
      KeyError: the name stands for nothing in the summary.
    """
    if name == "mean":
        return summaries["combined"]["mean"]
    if name in quantile_names():
        return summaries["combined"]["quantiles"][str(int(name[1:]))]
    return summaries[name if name in summaries else f"class:{name}"]["mean"]


def quantile_names() -> list[str]:
    """'q01', 'q05', … 'q99'."""
    return [f"q{q:02d}" for q in QUANTILES]
