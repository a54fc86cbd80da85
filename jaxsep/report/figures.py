"""The figures of a report: described as numbers first, drawn with matplotlib when it is written.

A condition has the same colour and dashes in all figures (`styles`).
"""

import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from PIL import Image

# Okabe and Ito, "Color universal design", 2008, without the yellow that is lost on white; black is
# ordinary training.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_BASELINE = "#000000"
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
      title, caption: above and below it, on the page.
      name: of its files, without suffix.
      fill: draws it: a function of matplotlib's axes, or of an array of them.
      rows, columns: of panels.
    """

    title: str
    name: str
    caption: str
    fill: Callable[[Any], None]
    rows: int = 1
    columns: int = 1


@dataclass(frozen=True)
class Line:
    """A curve of a condition: y by x, and half the height of the band around it."""

    label: str
    curve: pd.Series
    band: pd.Series | None = None


def styles(labels: Sequence[str]) -> Styles:
    """A style for each label, in their order; 'uniform' is black.

    After as many labels as there are colours these come again, with other dashes.
    """
    others = [label for label in dict.fromkeys(labels) if label != "uniform"]
    looks = [{"color": colour, "linestyle": dashes} for dashes in _DASHES for colour in _COLOURS]
    chosen = {label: looks[number % len(looks)] for number, label in enumerate(others)}
    return {"uniform": {"color": _BASELINE, "linestyle": "-"}, **chosen}


def histogram(
    name: str,
    title: str,
    caption: str,
    edges: np.ndarray,
    counts: Mapping[str, np.ndarray],
    style: Styles,
) -> Figure:
    """Test SI-SDRi with a logarithmic count: edges [bins + 1] dB; label -> counts [bins]."""

    def fill(axes: Any) -> None:
        # An empty bin at either end brings the curves down.
        wider = np.pad(edges, 1, mode="reflect", reflect_type="odd")
        for label, heights in counts.items():
            shape = {"label": _plain(label), "baseline": None, **style[label]}
            axes.stairs(np.pad(heights, 1), wider, **shape)
        lowest = min(float(heights[heights > 0].min()) for heights in counts.values())
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(bottom=0.7 * lowest)
        axes.set_xlabel("SI-SDR improvement on the test set (dB)")
        axes.set_ylabel(f"sources per {edges[1] - edges[0]:g} dB, mean over runs")

    return Figure(title, name, caption, fill)


def curves(
    name: str,
    title: str,
    caption: str,
    lines: Sequence[Line],
    style: Styles,
    *,
    xlabel: str,
    ylabel: str,
    bottom: float | None = None,
) -> Figure:
    """Curves with bands; bottom: where the vertical axis begins."""

    def fill(axes: Any) -> None:
        for line in lines:
            x, y = line.curve.index.to_numpy(), line.curve.to_numpy()
            marker = "." if len(x) <= _FEW_POINTS else ""
            axes.plot(x, y, label=_plain(line.label), marker=marker, **style[line.label])
            if line.band is not None:
                low, high = y - line.band, y + line.band
                colour = style[line.label]["color"]
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.set_ylim(bottom=bottom)

    return Figure(title, name, caption, fill)


def snr_panels(
    name: str,
    title: str,
    caption: str,
    points: Mapping[str, tuple[np.ndarray, np.ndarray]],
    medians: Mapping[str, pd.DataFrame],
    style: Styles,
) -> Figure:
    """A panel per condition: sources as points, medians as a line, the first's dashed in all.

    Args:
      points: label -> (input SNR [n], SI-SDRi [n]) dB.
      medians: label -> see `jaxsep.report.curves.medians_by_snr`.
    """
    columns = min(3, len(points))
    first = next(iter(medians))

    def fill(axes: Any) -> None:
        panels = np.atleast_1d(axes).ravel()
        for panel, (label, (x, y)) in zip(panels, points.items(), strict=False):
            colour = style[label]["color"]
            panel.scatter(x, y, s=4, color=colour, alpha=0.25, linewidths=0, rasterized=True)
            marks = {"marker": "o", "markersize": 4, "markeredgecolor": "white"}
            panel.plot(*_middles(medians[label]), color=colour, **marks)
            if label != first:
                dashed = {"color": style[first]["color"], "linestyle": "--", "linewidth": 1}
                panel.plot(*_middles(medians[first]), **dashed)
            panel.set_title(textwrap.fill(_plain(label), 36))
        for panel in panels[len(points) :]:
            panel.set_axis_off()
        for panel in panels[max(0, len(points) - columns) : len(points)]:  # lowest of each column
            panel.set_xlabel("input SNR (dB)")
            panel.xaxis.set_tick_params(labelbottom=True)
        for panel in panels[::columns]:
            panel.set_ylabel("SI-SDR improvement (dB)")

    return Figure(title, name, caption, fill, -(-len(points) // columns), columns)


def _middles(medians: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    middle = (medians["low"] + medians["high"]) / 2
    return middle.to_numpy(), medians["median"].to_numpy()


def draw(figure: Figure) -> tuple[str, bytes]:
    """A figure as SVG text and as the content of a PNG file. Equal numbers give equal files."""
    single = figure.rows * figure.columns == 1
    width, height = 3.1 * figure.columns + 0.7, 2.7 * figure.rows + 0.6
    svg, png, small = io.StringIO(), io.BytesIO(), io.BytesIO()
    settings: Any = {**_SETTINGS, "svg.hashsalt": figure.name}
    with matplotlib.rc_context(settings):
        canvas = Canvas(figsize=(7.0, 3.9) if single else (width, height), layout="constrained")
        axes = canvas.subplots(figure.rows, figure.columns, sharex=True, sharey=True)
        figure.fill(axes)
        unbroken = re.sub(
            r"\[[^]]*\]",
            lambda flag: flag[0].replace(" ", "\N{NO-BREAK SPACE}"),
            _plain(figure.title),
        )
        canvas.suptitle(textwrap.fill(unbroken, 85 if single else 38 * figure.columns), fontsize=10)
        labels = axes.get_legend_handles_labels()[1] if single else []
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


def _plain(text: str) -> str:
    """Text that matplotlib takes as it is: a dollar begins no formula."""
    return text.replace("$", r"\$")
