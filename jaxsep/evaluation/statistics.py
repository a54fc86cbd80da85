"""Distributions of scores: what summary.json holds."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

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
    if values.size == 0:
        return {"mean": None, "std": None, "n": 0, "quantiles": {str(q): None for q in QUANTILES}}
    quantiles = np.percentile(values, QUANTILES)
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "n": int(values.size),
        "quantiles": {str(q): float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
    }


def summarise_rows(rows: Rows, names: Sequence[str], corpora: Sequence[str]) -> dict[str, Summary]:
    """SI-SDRi over all rows, per corpus and per class.

    Args:
      rows: see `jaxsep.evaluation.evaluate.evaluate`; mixtures with one active source are left out.
      names: [classes] class names by class id.
      corpora: [classes] the corpus of each class.

    Returns:
      {"combined": …, "speech": …, "environment": …, "class:NAME": …}, those that occur; see
      `summarise`.
    """
    among_others = rows["num_active"] > 1
    class_ids, scores = rows["class_id"][among_others], rows["si_sdri"][among_others]
    summaries = {"combined": summarise(scores)}
    for prefix, labels in (("", corpora), ("class:", names)):
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
      summaries: at least one, as `summarise_rows` gives them; keys that not all hold are left out.

    Returns:
      The same form with "epochs", their number. "n" is that of one evaluation.
    """

    def mean(values: Iterable[float]) -> float:
        return float(np.mean(list(values)))

    averages = {}
    for key, first in summaries[0].items():
        same = [summary[key] for summary in summaries if key in summary]
        if len(same) == len(summaries):
            averages[key] = {
                "mean": mean(s["mean"] for s in same),
                "std": mean(s["std"] for s in same),
                "n": first["n"],
                "quantiles": {q: mean(s["quantiles"][q] for s in same) for q in first["quantiles"]},
                "epochs": len(same),
            }
    return averages


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
