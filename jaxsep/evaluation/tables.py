"""Results as text: the table on the screen, and the CSV with one row per source."""

import csv
from collections.abc import Sequence
from pathlib import Path

from jaxsep.data.packs.format import ClassTable
from jaxsep.evaluation.evaluate import Rows
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
    first, *others = (max(map(len, column)) for column in zip(header, *rows, strict=True))
    form = "  ".join([f"{{:{first}}}", *(f"{{:>{width}}}" for width in others)])
    return "\n".join(form.format(*cells).rstrip() for cells in (header, *rows))


def distribution_table(summaries: dict[str, Summary]) -> str:
    """SI-SDRi in dB: mean, std and quantiles; combined, per corpus, best and worst classes."""
    header = ["SI-SDRi (dB)", "mean", "std", *(f"{q} %" for q in QUANTILES), "sources"]
    shown = {key: value for key, value in summaries.items() if not key.startswith("class:")}
    classes = [key for key in summaries if key not in shown]
    classes.sort(key=lambda key: -summaries[key]["mean"])
    labels = [""] * len(classes)
    if len(classes) > 2 * _EXTREMES:
        classes = classes[:_EXTREMES] + classes[-_EXTREMES:]
        labels = ["best: "] * _EXTREMES + ["worst: "] * _EXTREMES
    for label, key in zip(labels, classes, strict=True):
        shown[label + key.removeprefix("class:")] = summaries[key]
    lines = []
    for label, summary in shown.items():
        numbers = [summary["mean"], summary["std"], *summary["quantiles"].values()]
        cells = ["-" if value is None else f"{value:.2f}" for value in numbers]
        lines.append([label, *cells, str(summary["n"])])
    return table(header, lines)


def write_csv(path: Path, rows: Rows, table: ClassTable, data: str) -> None:
    """One line per source: mixture index, slot, class, group, corpus, active sources in the
    mixture, input SNR, SI-SDR and SI-SDRi in dB (empty where the source is alone), kind of sound.

    Args:
      rows: see `jaxsep.evaluation.evaluate.evaluate`.
      table: the classes that class_id counts.
      data: the last column, 'recordings' or 'synthetic'.
    """
    with atomic_file(path, "w") as stream:
        writer = csv.writer(stream)
        writer.writerow([*_ABOUT, *_SCORES, "data"])
        columns = ("index", "slot", "class_id", "num_active", "input_snr", "si_sdr", "si_sdri")
        for index, slot, i, active, *scores in zip(*(rows[name] for name in columns), strict=True):
            about = [table.names[i], table.groups[i], table.corpora[i], active]
            snr, si_sdr, si_sdri = (f"{value:.4f}" for value in scores)
            writer.writerow([index, slot, *about, snr, si_sdr, si_sdri if active > 1 else "", data])
