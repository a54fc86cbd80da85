"""Results as text: the table on the screen, and the CSV with one row per source."""

import csv
from collections.abc import Sequence
from pathlib import Path

from jaxsep.evaluation.evaluate import COLUMNS, Rows
from jaxsep.evaluation.statistics import QUANTILES, Summary
from jaxsep.files import atomic_file

_EXTREMES = 3  # classes shown at either end
_ABOUT = ("mixture", "slot", "class", "group", "corpus", "num_active")
_SCORES = ("input_snr_db", "si_sdr_db", "si_sdri_db")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text columns, the first aligned left and the others right.

    >>> print(table(["", "mean"], [["speech", "7.25"], ["environment", "11.50"]]))
                  mean
    speech        7.25
    environment  11.50
    """
    lines = [header, *rows]
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join(
            [label.ljust(first), *(x.rjust(n) for x, n in zip(cells, others, strict=True))]
        ).rstrip()
        for label, *cells in lines
    )


def distribution_table(summaries: dict[str, Summary]) -> str:
    """SI-SDRi in dB: mean, std and quantiles; combined, per corpus, best and worst classes."""
    header = ["SI-SDRi (dB)", "mean", "std", *(f"{q} %" for q in QUANTILES), "sources"]
    overall = [(key, summaries[key]) for key in summaries if not key.startswith("class:")]
    classes = [
        (key.removeprefix("class:"), summary)
        for key, summary in summaries.items()
        if key.startswith("class:")
    ]
    classes.sort(key=lambda item: -item[1]["mean"])
    if len(classes) > 2 * _EXTREMES:
        best = [(f"best: {name}", summary) for name, summary in classes[:_EXTREMES]]
        worst = [(f"worst: {name}", summary) for name, summary in classes[-_EXTREMES:]]
        classes = best + worst
    return table(header, [_line(label, summary) for label, summary in overall + classes])


def _line(label: str, summary: Summary) -> list[str]:
    numbers = [summary["mean"], summary["std"], *summary["quantiles"].values()]
    cells = ["-" if value is None else f"{value:.2f}" for value in numbers]
    return [label, *cells, str(summary["n"])]


def write_csv(
    path: Path,
    rows: Rows,
    names: Sequence[str],
    groups: Sequence[str],
    corpora: Sequence[str],
    *,
    data: str,
) -> None:
    """One line per source: mixture index, slot, class, group, corpus, active sources in the
    mixture, input SNR, SI-SDR and SI-SDRi in dB (empty where the source is alone), kind of sound.

    Args:
      rows: see `jaxsep.evaluation.evaluate.evaluate`.
      names, groups, corpora: [classes], by class id.
      data: the last column, 'recordings' or 'synthetic'.
    """
    with atomic_file(path, "w") as stream:
        writer = csv.writer(stream)
        writer.writerow([*_ABOUT, *_SCORES, "data"])
        columns = [rows[name] for name in COLUMNS]
        for index, slot, class_id, num_active, *decibels in zip(*columns, strict=True):
            snr, si_sdr, si_sdri = (f"{value:.4f}" for value in decibels)
            about = [names[class_id], groups[class_id], corpora[class_id], num_active]
            improvement = "" if num_active == 1 else si_sdri
            writer.writerow([index, slot, *about, snr, si_sdr, improvement, data])
