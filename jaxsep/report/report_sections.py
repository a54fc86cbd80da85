"""A whole report as plain data: sections, excerpts to listen to, tables for spreadsheets and drawings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxsep.report import curves, figures, report_compare
from jaxsep.report import tables as report_tables
from jaxsep.report.bootstrap import RESAMPLES
from jaxsep.report.figures import Drawing, Line, Style
from jaxsep.report.grouping import Experiment
from jaxsep.report.players import chosen_runs, has_audio, read_excerpts
from jaxsep.report.sections import Excerpt, Section, Table
from jaxsep.report.tables import Csv, mean_and_std, note, scores

_POINTS = 2000  # in a panel of sources
Styles = Mapping[str, Style]


@dataclass(frozen=True)
class Report:
    """All that is written: sections and excerpts for the pages, csvs for tables/, drawings for figures/."""

    sections: list[Section]
    excerpts: list[Excerpt]
    csvs: list[Csv]
    drawings: list[Drawing]


@dataclass(frozen=True)
class Part:
    """A section with the files that belong to it."""

    section: Section
    csvs: list[Csv]
    drawings: list[Drawing]


def part(
    title: str, text: list[str], tables: list[Table], csvs: list[Csv], drawings: list[Drawing]
) -> Part:
    """A part whose section shows the tables, then the drawings."""
    return Part(
        Section(title, text, tables, [drawing.figure for drawing in drawings]), csvs, drawings
    )


def build(experiments: Sequence[Experiment], audio: str) -> Report:
    """The report on experiments; audio: 'all', 'first' or 'none', whose excerpts are taken (see `chosen_runs`).

    Raises:
      ReportError: matplotlib is missing, or a sound file cannot be used.
    """
    style = figures.styles(
        [condition.label for experiment in experiments for condition in experiment.conditions]
    )
    heard = [
        excerpt
        for label, run in chosen_runs(experiments, audio)
        for excerpt in read_excerpts(label, run)
    ]
    parts = []
    for experiment in experiments:
        parts += [distribution(experiment, style), validation(experiment, style)]
        if len(experiment.conditions) > 1:
            parts.append(comparison(experiment))
        parts += [input_snr(experiment, style), weights(experiment, style)]
    parts.append(about(experiments, audio))
    return Report(
        [one.section for one in parts],
        heard,
        [csv for one in parts for csv in one.csvs],
        [drawing for one in parts for drawing in one.drawings],
    )


def distribution(experiment: Experiment, style: Styles) -> Part:
    """The tables in the paper's form, and the distribution as a figure."""
    table, csv = report_tables.distribution(experiment)
    tables, csvs = [table], [csv]
    if (found := report_tables.corpora(experiment)) is not None:
        tables.append(found[0])
        csvs.append(found[1])
    labels = [condition.label for condition in experiment.conditions]
    edges, counts = curves.score_counts([scores(condition) for condition in experiment.conditions])
    name = f"{experiment.slug}-histogram"
    title = f"Distribution of test SI-SDR improvement: {experiment.title}{experiment.flag}"
    caption = note(
        experiment,
        "Every source of the test set, best epoch of each run; counts are means over runs.",
    )
    drawing = figures.distribution(
        name, title, caption, edges, dict(zip(labels, counts, strict=True)), style
    )
    rows = [
        [label, float(low), float(high), float(count)]
        for label, heights in zip(labels, counts, strict=True)
        for low, high, count in zip(edges[:-1], edges[1:], heights, strict=True)
    ]
    csvs.append(
        Csv(name, ["condition", "si_sdri_from_db", "si_sdri_to_db", "sources_mean_over_runs"], rows)
    )
    first = experiment.runs[0]
    mixtures = np.unique(first.rows["mixture"]).size
    runs = [f"{condition.label} ({len(condition.runs)})" for condition in experiment.conditions]
    text = [
        f"Weightings, with their number of runs: {'; '.join(runs)}. All are scored on the same {mixtures:,} test mixtures, "
        f"{first.rows['mixture'].size:,} sources."
    ]
    return part(f"{experiment.title}: test scores{experiment.flag}", text, tables, csvs, [drawing])


def validation(experiment: Experiment, style: Styles) -> Part:
    """Validation over the epochs, and how long until the reference's final score."""
    title = f"{experiment.title}: over the epochs{experiment.flag}"
    found = [curves.validation(condition.runs) for condition in experiment.conditions]
    if not all(epochs.size for epochs, _ in found):
        text = "No epoch has a validation record of every run in `metrics.jsonl`: nothing to show."
        return part(title, [text], [], [], [])
    lines, rows = [], []
    for condition, (epochs, values) in zip(experiment.conditions, found, strict=True):
        mean, std = values.mean(axis=0), values.std(axis=0)
        lines.append(Line(condition.label, epochs, mean, 2 * std if len(values) > 1 else None))
        rows += [
            [condition.label, int(e), *mean_and_std(column), len(values)]
            for e, column in zip(epochs, values.T, strict=True)
        ]
    name = f"{experiment.slug}-validation"
    drawing = figures.lines(
        name,
        f"Validation during training: {experiment.title}{experiment.flag}",
        note(
            experiment,
            "Mean over runs; bands of two standard deviations over runs, where there are several.",
        ),
        lines,
        style,
        xlabel="epoch",
        ylabel="mean validation SI-SDRi (dB)",
    )
    csv = Csv(name, ["condition", "epoch", "mean_db", "std_over_runs_db", "runs"], rows)
    if len(found) == 1:
        return part(title, [], [], [csv], [drawing])
    table, table_csv = report_tables.epochs_to_reference(experiment)
    return part(title, [], [table], [table_csv, csv], [drawing])


def comparison(experiment: Experiment) -> Part:
    """Every condition against the reference on the same mixtures."""
    found = report_compare.compare(experiment)
    tables, csv = report_compare.statistics(found)
    by_class, class_csv = report_compare.classes(found)
    mixed, mixed_csv = report_compare.combinations(experiment)
    text = report_compare.findings(found)
    if not mixed:
        text.append(
            "No combination of classes is mixed often enough to be shown; the CSV file has them all."
        )
    title = f"{experiment.title}: compared with {experiment.reference.label}{experiment.flag}"
    csvs = [csv, class_csv, mixed_csv]
    if (seeds := report_compare.by_seed(experiment)) is not None:
        tables.append(seeds[0])
        csvs.append(seeds[1])
    return part(title, text, [*tables, by_class, *mixed], csvs, [])


def input_snr(experiment: Experiment, style: Styles) -> Part:
    """Scores over input SNR."""
    table, csv = report_tables.input_snr(experiment)
    snr = experiment.runs[0].rows["input_snr"]
    points, medians = {}, {}
    for condition in experiment.conditions:
        values = scores(condition)
        chosen = curves.thinned(values.size, _POINTS)
        points[condition.label] = (np.tile(snr, len(values))[chosen], values.ravel()[chosen])
        low, _, middle = curves.medians_by_snr(snr, values)
        medians[condition.label] = (low + curves.SNR_BIN / 2, middle)
    title = f"Score against input SNR: {experiment.title}{experiment.flag}"
    caption = note(
        experiment,
        f"Points: sources, at most {_POINTS:,} of each condition. Lines: medians per {curves.SNR_BIN:g} dB of all sources"
        + (f"; dashed: {experiment.reference.label}." if len(points) > 1 else "."),
    )
    drawing = figures.snr_panels(csv.name, title, caption, points, medians, style)
    return part(
        f"{experiment.title}: score against input SNR{experiment.flag}",
        [],
        [table],
        [csv],
        [drawing],
    )


def weights(experiment: Experiment, style: Styles) -> Part:
    """What the weights did during training."""
    (table, csv), (sizes, by_size) = (
        report_tables.weights(experiment),
        report_tables.batch_sizes(experiment),
    )
    csvs = [csv, by_size]
    drawings, lines, rows = [], [], []
    for condition in experiment.conditions:
        steps, share = curves.ess_share(condition.runs)
        lines += [Line(condition.label, steps, share)] * bool(steps.size)
        rows += [
            [condition.label, float(s), float(v)]
            for s, v in zip(steps, share, strict=True)
            if np.isfinite(v)
        ]
    if lines:
        name = f"{experiment.slug}-ess"
        title = f"Effective sample size of the weights: {experiment.title}{experiment.flag}"
        caption = note(
            experiment,
            "1 / Σ p² over the number of weights, mean over runs: 1 is ordinary training.",
        )
        labels = {"xlabel": "step", "ylabel": "effective sample size / weights"}
        drawings.append(figures.lines(name, title, caption, lines, style, **labels, bottom=0.0))
        csvs.append(Csv(name, ["condition", "step", "ess_share"], rows))
    return part(
        f"{experiment.title}: what the weights did{experiment.flag}",
        [],
        [table, sizes],
        csvs,
        drawings,
    )


def about(experiments: Sequence[Experiment], audio: str) -> Part:
    """The runs, and how the numbers were made."""
    header = [
        "run",
        "experiment",
        "weighting",
        "seed",
        "epochs",
        "steps",
        "min",
        "parameters",
        "jaxsep",
        "sound",
    ]
    raw = []
    for experiment in experiments:
        for condition in experiment.conditions:
            copies = {
                copy.name: (copy, kept)
                for copy, kept in experiment.copies
                if kept in condition.runs
            }
            for run in [*condition.runs, *(copy for copy, _ in copies.values())]:
                training, minutes = run.summary["training"], run.summary["training"]["seconds"] / 60
                label = condition.label
                if run.name in copies:
                    label += f" (scores of {copies[run.name][1].name}: not counted again)"
                numbers = [
                    run.config["seed"],
                    training["epochs"],
                    training["steps"],
                    minutes,
                    training["parameters"],
                ]
                kind = [run.summary["jaxsep"], run.summary["data"]["kind"]]
                raw.append([run.name, experiment.title, label, *numbers, *kind])
    rows = [
        [f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in line] for line in raw
    ]
    versions = ", ".join(sorted({line[-2] for line in raw}))
    text = [
        f"{len(raw)} finished runs of jaxsep {versions}. Runs are compared where test mixtures, data, network, training and "
        "loss are the same and only weighting and seed differ; runs of one weighting are its seeds.",
        "SI-SDRi: SI-SDR of the estimate after the best permutation minus that of the mixture, dB, one value per source. "
        "Standard deviations divide by the number of values; quantiles are linear.",
        f"Intervals: {RESAMPLES:,} bootstrap resamples with fixed random numbers. Each draws test mixtures with all their "
        "sources, the same ones for both conditions, and runs of each condition; the interval lies between the 2.5 and 97.5 % "
        "quantiles of the differences. With a single run they say nothing about other seeds, with two or three they are too "
        "narrow. They are for one statistic at a time: of 20 without any effect, about one leaves out 0 by chance.",
        _audio_line(experiments, audio),
    ]
    csv_header = [*header[:6], "training_min", *header[7:]]
    return part("About", text, [Table("Runs", header, rows)], [Csv("runs", csv_header, raw)], [])


def _audio_line(experiments: Sequence[Experiment], audio: str) -> str:
    if audio == "none":
        return "No excerpts to listen to: `--audio none`."
    runs = [run for _, run in chosen_runs(experiments, audio)]
    heard, silent = (
        [run.name for run in runs if has_audio(run)],
        [run.name for run in runs if not has_audio(run)],
    )
    which = (
        "the first seed of each weighting; `--audio all` takes every run"
        if audio == "first"
        else "every run"
    )
    line = f"Excerpts to listen to ({which}), on the HTML page: {', '.join(heard) or 'none'}."
    return line + (f" Without `evaluation/audio`: {', '.join(silent)}." if silent else "")
