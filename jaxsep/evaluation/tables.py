"""Results for people and for spreadsheets: the table on the screen, the CSV with one row per source."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from jaxsep.evaluation.evaluate import Rows
from jaxsep.evaluation.statistics import QUANTILES, Summary

_EXTREMES = 3  # classes shown at either end


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text columns, the first aligned left and the others right.

    >>> print(table(["", "mean"], [["speech", "7.25"], ["environment", "11.50"]]))
                  mean
    speech        7.25
    environment  11.50
    """
    widths = [
        max(len(str(line[column])) for line in [header, *rows]) for column in range(len(header))
    ]
    return "\n".join(
        "  ".join(
            [str(line[0]).ljust(widths[0])]
            + [str(cell).rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]
        ).rstrip()
        for line in [header, *rows]
    )


def distribution_table(summaries: dict[str, Summary]) -> str:
    """SI-SDRi in dB: mean, std and quantiles; combined, per corpus, and the best and worst classes by mean."""
    header = ["SI-SDRi (dB)", "mean", "std", *[f"{q} %" for q in QUANTILES], "sources"]
    overall = [key for key in summaries if not key.startswith("class:")]
    classes = sorted(
        (key for key in summaries if key.startswith("class:")),
        key=lambda key: -summaries[key]["mean"],
    )
    lines = [_line(key, summaries[key]) for key in overall]
    if len(classes) > 2 * _EXTREMES:
        lines += [_line(f"best: {key[6:]}", summaries[key]) for key in classes[:_EXTREMES]]
        lines += [_line(f"worst: {key[6:]}", summaries[key]) for key in classes[-_EXTREMES:]]
    else:
        lines += [_line(key[6:], summaries[key]) for key in classes]
    return table(header, lines)


def _line(label: str, summary: Summary) -> list[str]:
    numbers = [summary["mean"], summary["std"], *summary["quantiles"].values()]
    return [
        label,
        *["-" if value is None else f"{value:.2f}" for value in numbers],
        str(summary["n"]),
    ]


def write_csv(
    path: Path,
    rows: Rows,
    names: Sequence[str],
    groups: Sequence[str],
    corpora: Sequence[str],
    *,
    data: str,
) -> None:
    """One line per source: mixture index, slot, class, group, corpus, sources active in the mixture, input SNR, SI-SDR and
    SI-SDRi in dB (empty where the source is alone), and what the sound was ('recordings' or 'synthetic').

    Args:
      path: written under a temporary name and renamed.
      rows: see `jaxsep.evaluation.evaluate.evaluate`.
      names, groups, corpora: [classes], by class id.
      data: the last column.
    """
    header = [
        "mixture",
        "slot",
        "class",
        "group",
        "corpus",
        "num_active",
        "input_snr_db",
        "si_sdr_db",
        "si_sdri_db",
        "data",
    ]
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for row in range(len(rows["index"])):
                class_id = int(rows["class_id"][row])
                decibels = [f"{rows[name][row]:.4f}" for name in ("input_snr", "si_sdr", "si_sdri")]
                if rows["num_active"][row] == 1:
                    decibels[-1] = ""
                place = [int(rows["index"][row]), int(rows["slot"][row])]
                kind = [
                    names[class_id],
                    groups[class_id],
                    corpora[class_id],
                    int(rows["num_active"][row]),
                ]
                writer.writerow([*place, *kind, *decibels, data])
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
