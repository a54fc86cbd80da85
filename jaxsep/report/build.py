"""A whole report as plain data: a list of sections, and excerpts to listen to.

What the report says, and in which order, is decided here; how it looks, in `render` and templates/.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from jaxsep.report import curves, figures, tables
from jaxsep.report.bootstrap import RESAMPLES
from jaxsep.report.excerpts import Excerpt, chosen_runs, has_audio, read_excerpts
from jaxsep.report.figures import Figure, Line, Styles
from jaxsep.report.grouping import Experiment
from jaxsep.report.tables import Table, Tables, note

_POINTS = 2000  # in a panel of sources


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in the order of the attributes.

    Attributes:
      title: plain text, as all that follows.
      text: paragraphs, in which `backticks` set code.
      tables: as they are shown.
      figures: to be drawn.
      csvs: numbers for spreadsheets, by the name of the file without suffix; not shown.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    csvs: Mapping[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All that is written."""

    sections: list[Section]
    excerpts: list[Excerpt]


def build(experiments: Sequence[Experiment], audio: str) -> Report:
    """The report on experiments; audio: whose excerpts are taken, see `chosen_runs`.

    Raises:
      ReportError: a sound file cannot be used.
    """
    style = figures.styles([c.label for experiment in experiments for c in experiment.conditions])
    excerpts = [
        excerpt
        for label, run in chosen_runs(experiments, audio)
        for excerpt in read_excerpts(label, run)
    ]
    sections = []
    for experiment in experiments:
        sections += [distribution(experiment, style), validation(experiment, style)]
        if len(experiment.conditions) > 1:
            sections.append(comparison(experiment))
        sections += [input_snr(experiment, style), weights(experiment, style)]
    return Report([*sections, about(experiments, audio)], excerpts)


def distribution(experiment: Experiment, style: Styles) -> Section:
    """The tables in the paper's form, and the distribution as a figure."""
    parts = {"distribution": tables.distribution(experiment)}
    if len(experiment.corpora) > 1:
        parts["corpora"] = tables.corpora(experiment)
    scores = [condition.scores for condition in experiment.conditions]
    labels = [condition.label for condition in experiment.conditions]
    edges, heights = curves.score_counts(scores)
    counts = dict(zip(labels, heights, strict=True))
    figure = figures.histogram(
        f"{experiment.slug}-histogram",
        f"Distribution of test SI-SDR improvement: {experiment.title}{experiment.flag}",
        note(
            experiment,
            "Every source of the test set, best epoch of each run; counts are means over runs.",
        ),
        edges,
        counts,
        style,
    )
    bins = {
        label: pd.DataFrame(
            {
                "si_sdri_from_db": edges[:-1],
                "si_sdri_to_db": edges[1:],
                "sources_mean_over_runs": height,
            }
        )
        for label, height in counts.items()
    }
    rows = experiment.runs[0].rows
    runs = [f"{condition.label} ({len(condition.runs)})" for condition in experiment.conditions]
    text = (
        f"Weightings, with their number of runs: {'; '.join(runs)}. All are scored on the same "
        f"{rows['mixture'].nunique():,} test mixtures, {len(rows):,} sources."
    )
    csvs = {"histogram": _by_condition(bins)}
    return _section(experiment, "test scores", parts, [text], [figure], csvs)


def validation(experiment: Experiment, style: Styles) -> Section:
    """Validation over the epochs, and how long until the reference's final score."""
    validated = {c.label: curves.validation(c.runs) for c in experiment.conditions}
    if any(table.empty for table in validated.values()):
        text = "No epoch has a validation record of every run in `metrics.jsonl`: nothing to show."
        return _section(experiment, "over the epochs", {}, [text])
    lines, summaries = [], {}
    for label, table in validated.items():
        runs = table.shape[1]
        mean, std = table.mean(axis=1), table.std(axis=1, ddof=0) if runs > 1 else np.nan
        columns = {"epoch": table.index, "mean_db": mean, "std_over_runs_db": std, "runs": runs}
        summaries[label] = pd.DataFrame(columns)
        lines.append(Line(label, mean, 2 * std if runs > 1 else None))
    figure = figures.curves(
        f"{experiment.slug}-validation",
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
    several = len(experiment.conditions) > 1
    parts = {"epochs": tables.epochs_to_reference(experiment)} if several else {}
    csvs = {"validation": _by_condition(summaries)}
    return _section(experiment, "over the epochs", parts, [], [figure], csvs)


def comparison(experiment: Experiment) -> Section:
    """Every condition against the reference on the same mixtures."""
    compared = tables.compare(experiment)
    parts = {
        "differences": tables.differences(experiment, compared),
        "seeds": tables.by_seed(experiment),
        "classes": tables.classes(experiment, compared),
        "combinations": tables.combinations(experiment),
    }
    text = tables.findings(compared)
    if not parts["combinations"][0]:
        text.append(
            "No combination of classes is mixed often enough to be shown; the CSV file has them "
            "all."
        )
    return _section(experiment, f"compared with {experiment.reference.label}", parts, text)


def input_snr(experiment: Experiment, style: Styles) -> Section:
    """Scores over input SNR."""
    snr = experiment.runs[0].rows["input_snr"].to_numpy()
    points, medians = {}, {}
    for condition in experiment.conditions:
        scores = condition.scores
        # The same ones in every report.
        chosen = np.sort(np.random.default_rng(0).permutation(scores.size)[:_POINTS])
        points[condition.label] = (np.tile(snr, len(scores))[chosen], scores.ravel()[chosen])
        medians[condition.label] = curves.medians_by_snr(snr, scores)
    caption = (
        f"Points: sources, at most {_POINTS:,} of each condition. Lines: medians per "
        f"{curves.SNR_BIN:g} dB of all sources"
        + (f"; dashed: {experiment.reference.label}." if len(points) > 1 else ".")
    )
    figure = figures.snr_panels(
        f"{experiment.slug}-input-snr",
        f"Score against input SNR: {experiment.title}{experiment.flag}",
        note(experiment, caption),
        points,
        medians,
        style,
    )
    parts = {"input-snr": tables.input_snr(experiment)}
    return _section(experiment, "score against input SNR", parts, [], [figure])


def weights(experiment: Experiment, style: Styles) -> Section:
    """What the weights did during training."""
    parts = {
        "weights": tables.weights(experiment),
        "ess-by-batch": tables.batch_sizes(experiment),
    }
    shares = {c.label: curves.ess_share(c.runs) for c in experiment.conditions}
    shares = {label: share for label, share in shares.items() if len(share)}
    title = "what the weights did"
    if not shares:
        return _section(experiment, title, parts)
    figure = figures.curves(
        f"{experiment.slug}-ess",
        f"Effective sample size of the weights: {experiment.title}{experiment.flag}",
        note(
            experiment,
            "1 / Σ p² over the number of weights, mean over runs: 1 is ordinary training.",
        ),
        [Line(label, share) for label, share in shares.items()],
        style,
        xlabel="step",
        ylabel="effective sample size / weights",
        bottom=0.0,
    )
    steps = {
        label: pd.DataFrame({"step": share.index, "ess_share": share.to_numpy()})
        for label, share in shares.items()
    }
    return _section(experiment, title, parts, [], [figure], {"ess": _by_condition(steps)})


def about(experiments: Sequence[Experiment], audio: str) -> Section:
    """The runs, and how the numbers were made."""
    shown, numbers = tables.runs(experiments)
    text = [
        f"{len(numbers)} finished runs of jaxsep {', '.join(sorted(set(numbers['jaxsep'])))}. Runs "
        "are compared where test mixtures, data, network, training and loss are the same and only "
        "weighting and seed differ; runs of one weighting are its seeds.",
        "SI-SDRi: SI-SDR of the estimate after the best permutation minus that of the mixture, dB, "
        "one value per source. Standard deviations divide by the number of values; quantiles are "
        "linear.",
        f"Intervals: {RESAMPLES:,} bootstrap resamples with fixed random numbers. Each draws test "
        "mixtures with all their sources, the same ones for both conditions, and runs of each "
        "condition; the interval lies between the 2.5 and 97.5 % quantiles of the differences. "
        "With a single run they say nothing about other seeds, with two or three they are too "
        "narrow. They are for one statistic at a time: of 20 without any effect, about one leaves "
        "out 0 by chance.",
        _about_audio(experiments, audio),
    ]
    return Section("About", text, shown, [], {"runs": numbers})


def _about_audio(experiments: Sequence[Experiment], audio: str) -> str:
    if audio == "none":
        return "No excerpts to listen to: `--audio none`."
    runs = [run for _, run in chosen_runs(experiments, audio)]
    heard = ", ".join(run.name for run in runs if has_audio(run))
    silent = ", ".join(run.name for run in runs if not has_audio(run))
    first = "the first seed of each weighting; `--audio all` takes every run"
    which = first if audio == "first" else "every run"
    line = f"Excerpts to listen to ({which}), on the HTML page: {heard or 'none'}."
    return line + (f" Without `evaluation/audio`: {silent}." if silent else "")


def _section(
    experiment: Experiment,
    title: str,
    parts: Mapping[str, Tables],
    text: Sequence[str] = (),
    drawn: Sequence[Figure] = (),
    csvs: Mapping[str, pd.DataFrame] | None = None,
) -> Section:
    """A section on an experiment; parts, csvs: by what the names of the files end in."""
    numbers = {name: table for name, (_, table) in parts.items()} | dict(csvs or {})
    return Section(
        f"{experiment.title}: {title}{experiment.flag}",
        text,
        [table for shown, _ in parts.values() for table in shown],
        drawn,
        {f"{experiment.slug}-{name}": t for name, t in numbers.items() if not t.empty},
    )


def _by_condition(by_label: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables of conditions in one, with the condition's label as the first column."""
    named: Iterable[pd.DataFrame] = (
        table.assign(condition=label)[["condition", *table.columns]]
        for label, table in by_label.items()
    )
    return pd.concat(named)
