"""The figures of a report, drawn with matplotlib, which is imported only here and only when something is drawn.

Every function takes numbers and gives a `Drawing`. A condition has the same colour and dashes in all figures (`styles`).
"""

import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxsep.errors import ReportError
from jaxsep.report.sections import Figure

# Okabe and Ito, "Color universal design", 2008, without the yellow that is lost on white; black is ordinary training.
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


@dataclass(frozen=True)
class Style:
    """Of a condition: colour as '#rrggbb', dashes as matplotlib writes them."""

    colour: str
    dashes: str


@dataclass(frozen=True)
class Drawing:
    """A figure for the page, and the same as a PNG file's content."""

    figure: Figure
    png: bytes


@dataclass(frozen=True)
class Line:
    """A curve of a condition: x [n], y [n], and half the height of the band around it [n]; None: no band."""

    label: str
    x: np.ndarray
    y: np.ndarray
    band: np.ndarray | None = None


def require_matplotlib() -> None:
    """Raises: ReportError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ReportError(
            "matplotlib is missing, and draws the figures: pip install 'jaxsep[report]'"
        ) from error


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """A style for each label, in their order; 'uniform' is black. After 6 labels colours come again with other dashes."""
    others = [label for label in dict.fromkeys(labels) if label != "uniform"]
    chosen = {
        label: Style(
            _COLOURS[number % len(_COLOURS)], _DASHES[number // len(_COLOURS) % len(_DASHES)]
        )
        for number, label in enumerate(others)
    }
    return {"uniform": Style(_BASELINE, "-"), **chosen}


def distribution(
    name: str,
    title: str,
    caption: str,
    edges: np.ndarray,
    counts: Mapping[str, np.ndarray],
    style: Mapping[str, Style],
) -> Drawing:
    """Histograms of test SI-SDRi with a logarithmic count. edges [bins + 1] dB; label -> counts [bins]."""

    def fill(axes: Any) -> None:
        wider = np.pad(
            edges, 1, mode="reflect", reflect_type="odd"
        )  # an empty bin at either end brings curves down
        for label, heights in counts.items():
            look = style[label]
            drawn = np.pad(heights, 1)
            axes.stairs(
                drawn,
                wider,
                color=look.colour,
                linestyle=look.dashes,
                label=_plain(label),
                baseline=None,
            )
        lowest = min(float(heights[heights > 0].min()) for heights in counts.values())
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(bottom=0.7 * lowest)
        axes.set_xlabel("SI-SDR improvement on the test set (dB)")
        axes.set_ylabel(f"sources per {edges[1] - edges[0]:g} dB, mean over runs")

    return _draw(name, title, caption, fill)


def lines(
    name: str,
    title: str,
    caption: str,
    curves: Sequence[Line],
    style: Mapping[str, Style],
    *,
    xlabel: str,
    ylabel: str,
    bottom: float | None = None,
) -> Drawing:
    """Curves with bands, a point at every value where there are few; bottom: where the vertical axis begins."""

    def fill(axes: Any) -> None:
        for line in curves:
            look = style[line.label]
            shape = {
                "color": look.colour,
                "linestyle": look.dashes,
                "marker": "." if line.x.size <= 30 else "",
            }
            axes.plot(line.x, line.y, label=_plain(line.label), **shape)
            if line.band is not None:
                axes.fill_between(
                    line.x,
                    line.y - line.band,
                    line.y + line.band,
                    color=look.colour,
                    alpha=0.15,
                    linewidth=0,
                )
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.set_ylim(bottom=bottom)

    return _draw(name, title, caption, fill)


def snr_panels(
    name: str,
    title: str,
    caption: str,
    points: Mapping[str, tuple[np.ndarray, np.ndarray]],
    medians: Mapping[str, tuple[np.ndarray, np.ndarray]],
    style: Mapping[str, Style],
) -> Drawing:
    """A panel per condition: sources as points, medians as a line, the first condition's medians dashed in all.

    Args:
      points: label -> (input SNR [n], SI-SDRi [n]) dB.
      medians: label -> (middles of the bins [m], medians [m]) dB.
    """
    columns = min(3, len(points))
    first = next(iter(medians))

    def fill(axes: Any) -> None:
        panels = np.atleast_1d(axes).ravel()
        for panel, (label, (x, y)) in zip(panels, points.items(), strict=False):
            colour = style[label].colour
            panel.scatter(x, y, s=4, color=colour, alpha=0.25, linewidths=0, rasterized=True)
            panel.plot(
                *medians[label], color=colour, marker="o", markersize=4, markeredgecolor="white"
            )
            if label != first:
                panel.plot(*medians[first], color=style[first].colour, linestyle="--", linewidth=1)
            panel.set_title(textwrap.fill(_plain(label), 36))
        for panel in panels[len(points) :]:
            panel.set_axis_off()
        for panel in panels[
            max(0, len(points) - columns) : len(points)
        ]:  # the lowest of each column
            panel.set_xlabel("input SNR (dB)")
            panel.xaxis.set_tick_params(labelbottom=True)
        for panel in panels[::columns]:
            panel.set_ylabel("SI-SDR improvement (dB)")

    return _draw(name, title, caption, fill, -(-len(points) // columns), columns)


def _draw(
    name: str,
    title: str,
    caption: str,
    fill: Callable[[Any], None],
    rows: int = 1,
    columns: int = 1,
) -> Drawing:
    """The Drawing of what fill(axes) draws; the legend of a single panel is below it. Equal numbers give equal files."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    single = rows * columns == 1
    settings: Any = {**_SETTINGS, "svg.hashsalt": name}
    formats: dict[str, Any] = {
        "svg": {"metadata": dict.fromkeys(("Date", "Creator", "Format", "Type"))},
        "png": {"dpi": 150},
    }
    files = {}
    with matplotlib.rc_context(settings):
        canvas = Canvas(
            figsize=(7.0, 3.9) if single else (3.1 * columns + 0.7, 2.7 * rows + 0.6),
            layout="constrained",
        )
        axes = canvas.subplots(rows, columns, sharex=True, sharey=True)
        fill(axes)
        whole = re.sub(
            r"\[[^]]*\]", lambda flag: flag[0].replace(" ", "\N{NO-BREAK SPACE}"), _plain(title)
        )
        canvas.suptitle(textwrap.fill(whole, 85 if single else 38 * columns), fontsize=10)
        labels = axes.get_legend_handles_labels()[1] if single else []
        if labels:
            abreast = 2 if max(map(len, labels)) <= 40 else 1
            canvas.set_figheight(3.4 + 0.2 * -(-len(labels) // abreast))
            canvas.legend(loc="outside lower center", ncols=abreast, frameon=False)
        for kind, options in formats.items():
            stream = io.BytesIO()
            canvas.savefig(stream, format=kind, **options)
            files[kind] = stream.getvalue()
    return Drawing(Figure(title, name, files["svg"].decode(), caption), files["png"])


def _plain(text: str) -> str:
    """Text that matplotlib takes as it is: a dollar begins no formula."""
    return text.replace("$", r"\$")
