"""The figures of a report: their numbers first, drawn with matplotlib when they are written.

A condition has the same colour and dashes in all figures (`styles`).
"""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from PIL import Image

from jaxsep.report.grouping import Experiment
from jaxsep.report.runs import Run
from jaxsep.report.tables import number_of_weights, validation

SCORE_BIN, SNR_BIN = 1.0, 5.0  # dB
_STEPS = 100  # of a curve over steps
_POINTS = 2000  # in a panel of sources
_ABREAST = 3  # panels
# Okabe and Ito, "Color universal design", 2008, without the yellow that is lost on white; black is
# ordinary training.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--", ":", "-.")
_SETTINGS: dict[str, Any] = {
    "font.size": 9.0,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",
    "axes.titlesize": 9.0,
}
_DPI = 130
_FEW_POINTS = 30  # a curve of fewer has a mark at each

Styles = Mapping[str, Mapping[str, str]]  # label -> color and linestyle, as matplotlib has them


@dataclass(frozen=True)
class Figure:
    """A picture, not yet drawn.

    Attributes:
      title, note: above and below it, on the page.
      name: of its files, without suffix.
      fill: draws it: a function of a list of matplotlib's axes.
      numbers: what its CSV file holds; None: there is none.
      panels: how many axes.
    """

    title: str
    note: str
    name: str
    fill: Callable[[Sequence[Any]], None]
    numbers: pd.DataFrame | None = None
    panels: int = 1


def styles(labels: Sequence[str]) -> Styles:
    """A style for each label, in their order; 'uniform' is black.

    After as many labels as there are colours these come again, with other dashes.
    """
    others = [label for label in dict.fromkeys(labels) if label != "uniform"]
    looks = [{"color": colour, "linestyle": dashes} for dashes in _DASHES for colour in _COLOURS]
    chosen = {label: looks[number % len(looks)] for number, label in enumerate(others)}
    return {"uniform": {"color": "#000000", "linestyle": "-"}, **chosen}


def histogram(experiment: Experiment, style: Styles) -> Figure:
    """Test SI-SDRi with a logarithmic count, mean over runs."""
    pooled = np.concatenate([run.rows["si_sdri"] for run in experiment.runs])
    low, high = np.floor(pooled.min() / SCORE_BIN), np.floor(pooled.max() / SCORE_BIN) + 1
    edges = np.arange(low, high + 1) * SCORE_BIN
    tables = []
    for condition in experiment.conditions:
        counts = np.mean(
            [np.histogram(r.rows["si_sdri"], edges)[0] for r in condition.runs], axis=0
        )
        columns = {"condition": condition.label, "si_sdri_from_db": edges[:-1]}
        columns |= {"si_sdri_to_db": edges[1:], "sources_mean_over_runs": counts}
        tables.append(pd.DataFrame(columns))
    numbers = pd.concat(tables)

    def fill(panels: Sequence[Any]) -> None:
        axes = panels[0]
        # An empty bin at either end brings the curves down.
        wider = np.pad(edges, 1, mode="reflect", reflect_type="odd")
        for label, own in numbers.groupby("condition", sort=False):
            heights = np.pad(own["sources_mean_over_runs"], 1)
            axes.stairs(heights, wider, label=plain(label), baseline=None, **style[label])
        heights = numbers["sources_mean_over_runs"]
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(bottom=0.7 * heights[heights > 0].min())
        axes.set_xlabel("SI-SDR improvement on the test set (dB)")
        axes.set_ylabel(f"sources per {SCORE_BIN:g} dB, mean over runs")

    title = "Distribution of test SI-SDR improvement"
    note = "Every source of the test set, best epoch of each run; counts are means over runs."
    return Figure(title, note, "histogram", fill, numbers)


def validation_curves(experiment: Experiment, style: Styles) -> Figure:
    """The mean validation score over the epochs."""
    tables = []
    for condition in experiment.conditions:
        scores, runs = validation(condition.runs), len(condition.runs)
        std = scores.std(axis=1, ddof=0) if runs > 1 else np.nan
        columns = {"condition": condition.label, "epoch": scores.index, "runs": runs}
        columns |= {"mean_db": scores.mean(axis=1), "std_over_runs_db": std}
        tables.append(pd.DataFrame(columns))
    numbers = pd.concat(tables)

    def fill(panels: Sequence[Any]) -> None:
        _curves(panels[0], numbers, "epoch", "mean_db", style)
        for label, own in numbers.dropna().groupby("condition", sort=False):
            mean, band = own["mean_db"], 2 * own["std_over_runs_db"]
            look = {"color": style[label]["color"], "alpha": 0.15, "linewidth": 0}
            panels[0].fill_between(own["epoch"], mean - band, mean + band, **look)
        panels[0].set_ylabel("mean validation SI-SDRi (dB)")

    title = "Validation during training"
    note = "Mean over runs; bands of two standard deviations over runs, where there are several."
    return Figure(title, note, "validation", fill, numbers)


def _curves(axes: Any, numbers: pd.DataFrame, x: str, y: str, style: Styles) -> None:
    for label, own in numbers.groupby("condition", sort=False):
        marker = "." if len(own) <= _FEW_POINTS else ""
        axes.plot(own[x], own[y], label=plain(label), marker=marker, **style[label])
    axes.set_xlabel(x)


def ess_share(runs: Sequence[Run]) -> pd.Series:
    """Effective sample size over training, as a share of the weights: 1 is ordinary training.

    Training is cut into equal parts, at most _STEPS and no more than any run has records; a run's
    records are averaged within each part, then the runs. The index holds the step in the middle of
    each part that every run has records of. Empty where a run has no records.
    """
    parts = min(_STEPS, *(len(run.metrics["train"]) for run in runs))
    if not parts:
        return pd.Series(dtype=float)
    last = max(run.metrics["train"]["step"].max() for run in runs)
    shares = []
    for run in runs:
        train = run.metrics["train"]
        part = ((train["step"] - 1) * parts // last).rename("part")
        shares.append((train["ess"] / number_of_weights(run)).groupby(part).mean())
    mean = pd.concat(shares, axis=1, join="inner").mean(axis=1).sort_index()
    return mean.set_axis((mean.index.to_numpy() + 0.5) * last / parts)


def effective_sample_size(experiment: Experiment, style: Styles) -> list[Figure]:
    """The effective sample size over the steps; none where no run has recorded it."""
    shares = {condition.label: ess_share(condition.runs) for condition in experiment.conditions}
    numbers = pd.concat(shares, names=["condition", "step"]).rename("ess_share").reset_index()
    if numbers.empty:
        return []

    def fill(panels: Sequence[Any]) -> None:
        _curves(panels[0], numbers, "step", "ess_share", style)
        panels[0].set_ylabel("effective sample size / weights")
        panels[0].set_ylim(bottom=0.0)

    title = "Effective sample size of the weights"
    note = "1 / Σ p² over the number of weights, mean over runs: 1 is ordinary training."
    return [Figure(title, note, "ess", fill, numbers)]


def medians_by_snr(experiment: Experiment) -> pd.DataFrame:
    """The median score in each bin of SNR_BIN of input SNR, pooled over runs.

    Columns: condition; input_snr_from_db, input_snr_to_db; sources, of one run; median_si_sdri_db.
    """
    scores = experiment.scores
    low = (np.floor(scores["input_snr"] / SNR_BIN) * SNR_BIN).rename("input_snr_from_db")
    by_bin = scores.groupby(["condition", low])["si_sdri"].agg(["size", "median"])
    numbers = by_bin.loc[experiment.labels].reset_index()
    runs = {condition.label: len(condition.runs) for condition in experiment.conditions}
    high = numbers["input_snr_from_db"] + SNR_BIN
    numbers.insert(2, "input_snr_to_db", high)
    numbers["size"] //= numbers["condition"].map(runs)
    return numbers.rename(columns={"size": "sources", "median": "median_si_sdri_db"})


def input_snr(experiment: Experiment, style: Styles) -> Figure:
    """A panel per condition: sources as points, medians as a line, the first's dashed in all."""
    numbers, scores = medians_by_snr(experiment), experiment.scores
    first, columns = experiment.labels[0], min(_ABREAST, len(experiment.labels))
    dashed = {"color": style[first]["color"], "linestyle": "--", "linewidth": 1}

    def fill(panels: Sequence[Any]) -> None:
        for panel, label in zip(panels, experiment.labels, strict=False):
            sources, colour = scores.loc[label], style[label]["color"]
            # The same ones in every report.
            chosen = np.sort(np.random.default_rng(0).permutation(len(sources))[:_POINTS])
            points = sources["input_snr"].iloc[chosen], sources["si_sdri"].iloc[chosen]
            panel.scatter(*points, s=4, color=colour, alpha=0.25, linewidths=0, rasterized=True)
            marked = {"color": colour, "marker": "o", "markersize": 4, "markeredgecolor": "white"}
            for name, look in {first: dashed, label: marked}.items():
                own = numbers[numbers["condition"] == name]
                panel.plot(own["input_snr_from_db"] + SNR_BIN / 2, own["median_si_sdri_db"], **look)
            panel.set_title(textwrap.fill(plain(label), 36))
            panel.set_xlabel("input SNR (dB)")
        for panel in panels[len(experiment.labels) :]:
            panel.set_axis_off()
        for panel in panels[::columns]:
            panel.set_ylabel("SI-SDR improvement (dB)")

    title = "Score against input SNR"
    note = (
        f"Points: sources, at most {_POINTS:,} of each weighting, best epoch of each run. Input "
        "SNR: power of a source over that of the rest of its mixture. Lines: medians per "
        f"{SNR_BIN:g} dB of all sources; dashed: {first}."
    )
    return Figure(title, note, "input-snr", fill, numbers, len(experiment.labels))


def draw(figure: Figure) -> tuple[str, bytes]:
    """A figure as SVG text and as the content of a PNG file. Equal numbers give equal files."""
    columns = min(_ABREAST, figure.panels)
    rows = -(-figure.panels // columns)
    width, height = (7.0, 3.9) if figure.panels == 1 else (3.1 * columns + 0.7, 2.7 * rows + 0.6)
    svg, png, small = io.StringIO(), io.BytesIO(), io.BytesIO()
    settings: Any = {**_SETTINGS, "svg.hashsalt": figure.name}
    with matplotlib.rc_context(settings):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        axes = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        figure.fill(list(axes))
        canvas.suptitle(textwrap.fill(plain(figure.title), int(12 * width)), fontsize=10)
        labels = axes[0].get_legend_handles_labels()[1]
        if labels:  # below the panel
            abreast = 2 if max(map(len, labels)) <= 40 else 1
            canvas.set_figheight(3.4 + 0.2 * -(-len(labels) // abreast))
            canvas.legend(loc="outside lower center", ncols=abreast, frameon=False)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(svg, format="svg", metadata=nothing)
        canvas.set_layout_engine("none")  # as it has just been laid out
        canvas.savefig(png, format="png", dpi=_DPI)
    # 256 colours take a third of the bytes of millions; this method keeps those of the lines.
    palette = Image.open(png).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE)
    palette.save(small, "PNG", optimize=True)
    return svg.getvalue(), small.getvalue()


def plain(text: str) -> str:
    """Text that matplotlib takes as it is: a dollar begins no formula."""
    return text.replace("$", r"\$")
