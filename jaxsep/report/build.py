"""A whole report as plain data.

What the report says, and in which order, is decided here; how it looks, in `render` and templates/.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxsep.report import figures, tables
from jaxsep.report.bootstrap import RESAMPLES
from jaxsep.report.excerpts import Excerpt, chosen_runs, excerpt_folders, read_excerpt
from jaxsep.report.figures import Figure
from jaxsep.report.grouping import Experiment
from jaxsep.report.tables import Table


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in the order of the attributes.

    Attributes:
      title: plain text, as all that follows.
      text: paragraphs, in which `backticks` set code.
      tables: as they are shown.
      figures: to be drawn.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()


def build(experiments: Sequence[Experiment], audio: str) -> tuple[list[Section], list[Excerpt]]:
    """Sections, and excerpts to listen to; audio: whose are taken, see `chosen_runs`.

    Raises:
      ReportError: a sound file cannot be used.
    """
    chosen = chosen_runs(experiments, audio)
    excerpts = [read_excerpt(*one, folder) for one in chosen for folder in excerpt_folders(one[1])]
    style = figures.styles([label for experiment in experiments for label in experiment.labels])
    sections = [part for e in experiments for part in _sections(e, style)]
    return [*sections, about(experiments, audio)], excerpts


def _sections(experiment: Experiment, style: figures.Styles) -> list[Section]:
    several = len(experiment.conditions) > 1
    validated = not any(tables.validation(c.runs).empty for c in experiment.conditions)
    runs = "; ".join(f"{c.label} ({len(c.runs)})" for c in experiment.conditions)
    scored = (
        f"Weightings, with their number of runs: {runs}. All are scored on the same "
        f"{experiment.rows['mixture'].nunique():,} test mixtures, {len(experiment.rows):,} sources."
    )
    sections = [
        Section(
            "test scores",
            [scored],
            [tables.distribution(experiment)]
            + [tables.corpora(experiment)] * (len(experiment.corpora) > 1),
            [figures.histogram(experiment, style)],
        )
    ]
    if validated:
        parts = [tables.epochs_to_reference(experiment)] if several else []
        drawn = [figures.validation_curves(experiment, style)]
        sections.append(Section("over the epochs", [], parts, drawn))
    if several:
        shown = [*tables.differences(experiment), *tables.by_seed(experiment)]
        title = f"compared with {experiment.labels[0]}"
        sections.append(Section(title, [_basis(experiment)], shown))
    sections += [
        Section("score against input SNR", [], [], [figures.input_snr(experiment, style)]),
        Section(
            "what the weights did",
            [],
            [tables.weights(experiment), tables.batch_sizes(experiment)],
            figures.effective_sample_size(experiment, style),
        ),
    ]
    return [_of(experiment, section) for section in sections]


def _of(experiment: Experiment, section: Section) -> Section:
    """With the experiment's title and slug, and its flag wherever something is shown."""
    flag = experiment.flag
    note = f" {flag.strip(' []').capitalize()}." if flag else ""

    def shown(part: Any, suffix: str) -> Any:
        name = f"{experiment.slug}-{part.name}" if part.name else ""
        return replace(part, title=part.title + suffix, note=part.note + note, name=name)

    return Section(
        f"{experiment.title}: {section.title}{flag}",
        section.text,
        [shown(table, flag) for table in section.tables],
        [shown(figure, f": {experiment.title}{flag}") for figure in section.figures],
    )


def _basis(experiment: Experiment) -> str:
    text = (
        "Best epoch of each run, mean over runs; 95 % bootstrap intervals over test mixtures and "
        "runs."
    )
    single = [c.label for c in experiment.conditions if len(c.runs) == 1]
    if single:
        text += " One run only, so that the intervals leave out what another seed would change: "
        text += f"{'; '.join(single)}."
    if experiment.conditions[0].factors:
        text += " There is no ordinary training here: the first weighting is the reference."
    return text


def about(experiments: Sequence[Experiment], audio: str) -> Section:
    """The runs, and how the numbers were made."""
    table = tables.runs(experiments)
    versions = ", ".join(sorted(set(table.cells["jaxsep"])))
    heard = [run.name for _, run in chosen_runs(experiments, audio)]
    text = [
        f"{len(table.cells)} finished runs of jaxsep {versions}. Runs are compared where test "
        "mixtures, data, network, training and loss are the same and only weighting and seed "
        "differ; runs of one weighting are its seeds.",
        "SI-SDRi: SI-SDR of the estimate after the best permutation minus that of the mixture, dB, "
        "one value per source. Standard deviations divide by the number of values; quantiles are "
        "linear.",
        f"Intervals: {RESAMPLES:,} bootstrap resamples with fixed random numbers. Each draws test "
        "mixtures with all their sources, the same ones for both conditions, and runs of each "
        "condition; the interval lies between the 2.5 and 97.5 % quantiles of the differences. "
        "With a single run they say nothing about other seeds, with two or three they are too "
        "narrow. They are for one statistic at a time: of 20 without any effect, about one leaves "
        "out 0 by chance.",
        f"Excerpts to listen to on the page (`--audio {audio}`): {', '.join(heard) or 'none'}.",
    ]
    return Section("About", text, [table])
