"""A report's files: report.md, report.html, the figures, and every number as CSV.

The texts are made by Jinja2 from templates/. What they show comes from the folders of runs and may
hold any character: all of it is escaped, in HTML and in Markdown. report.html needs nothing else,
no server, no network, no other file; its policy lets a browser run page.js and nothing else.
"""

import base64
import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import soundfile
from markupsafe import Markup, escape
from matplotlib import colormaps
from PIL import Image

from jaxsep.report.build import Section
from jaxsep.report.excerpts import Excerpt, Sound
from jaxsep.report.figures import Figure, draw
from jaxsep.report.tables import Table

DECIBELS_SHOWN = 70  # below the loudest point of a mixture's pictures
MAX_COLUMNS = 800  # of a picture


def files(title: str, sections: Sequence[Section], excerpts: Sequence[Excerpt]) -> dict[str, bytes]:
    """Name in the output folder -> content; report.md, by which a folder is known, comes last."""
    made: dict[str, bytes | str] = {}
    drawings = {}
    for section in sections:
        shown: list[Table | Figure] = [*section.tables, *section.figures]
        for part in shown:
            if part.numbers is not None:
                # Ten digits: what is beyond them depends on the machine and its libraries.
                csv = part.numbers.to_csv(index=False, float_format="%.10g")
                made[f"tables/{part.name}.csv"] = csv
        for figure in section.figures:
            drawings[figure.name], made[f"figures/{figure.name}.png"] = draw(figure)
            made[f"figures/{figure.name}.svg"] = drawings[figure.name]
    made["report.html"] = page(title, sections, excerpts, drawings)
    made["report.md"] = markdown(title, sections)
    return {
        # Text that is no Unicode, of file names, becomes visible escapes.
        name: content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
        for name, content in made.items()
    }


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The text of report.md; figures are taken from figures/NAME.png beside it."""
    return _MARKDOWN.get_template("report.md").render(title=title, sections=sections)


def escape_markdown(text: str) -> str:
    """One line without what Markdown reads as HTML, emphasis or a link; `backticks` set code."""
    line = " ".join(text.splitlines()).replace("&", "&amp;").replace("<", "&lt;")
    return line.replace("*", r"\*").replace("](", r"]\(")


def markdown_table(cells: pd.DataFrame) -> str:
    """Cells padded to columns: the first on the left, the others on the right.

    >>> print(markdown_table(pd.DataFrame([["speech", "7.25"]], columns=["", "dB"])))
    |        |   dB |
    | ------ | ---: |
    | speech | 7.25 |
    """
    lines = [
        [escape_markdown(str(cell)).replace("|", r"\|") for cell in line]
        for line in [cells.columns, *cells.to_numpy()]
    ]
    widths = [max(4, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        " | ".join(["| " + line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |"
        for line in [lines[0], rule, *lines[1:]]
    )


def page(
    title: str,
    sections: Sequence[Section],
    excerpts: Sequence[Excerpt],
    drawings: Mapping[str, str],
) -> str:
    """The text of report.html.

    Args:
      title: of the document.
      sections: shown in this order.
      excerpts: mixtures to listen to, of one run or several. None: one line says so.
      drawings: SVG text of each figure, by its name; ours, not a user's.
    """
    folder = resources.files("jaxsep.report").joinpath("templates")
    style, script = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    return _HTML.get_template("page.html").render(
        title=title,
        sections=sections,
        excerpts=excerpts,
        drawings=drawings,
        style=Markup(style),
        script=Markup(script if excerpts else ""),
    )


def _code(text: str) -> Markup:
    """Escaped text, with what stands in backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _sha256(text: str) -> str:
    """What a content security policy names a script or style by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _svg(drawing: str) -> str:
    """A picture inside the document, apart from the others: the ids of several would collide."""
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing.encode()).decode()}"


def _flac(sound: Sound) -> str:
    """16 bits inside the document; beyond ±1 is clipped."""
    whole = np.round(32767 * np.clip(sound.samples, -1.0, 1.0)).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, whole, sound.sample_rate, format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{base64.b64encode(file.getvalue()).decode()}"


def _spectrograms(excerpt: Excerpt) -> list[str]:
    """A picture of each sound of an excerpt, in the order of the page, all in one range of dB."""
    pairs = [sound for source in excerpt.sources for sound in (source.source, source.estimate)]
    levels = [decibels(sound) for sound in (excerpt.mixture, *pairs)]
    loudest = max(level.max() for level in levels)
    pictures = []
    for level in levels:
        share = np.clip(1 + (level - loudest) / DECIBELS_SHOWN, 0, 1)
        pixels = (255 * colormaps["magma"](share)[..., :3]).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=80)
        pictures.append(f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}")
    return pictures


def decibels(sound: Sound) -> np.ndarray:
    """Spectrogram [frequencies, times] in dB, the highest frequency first.

    Hann windows of about 32 ms; a sine of amplitude 1 is at 0 dB.
    """
    size = 2 ** max(4, round(math.log2(0.032 * sound.sample_rate)))
    hop = max(size // 4, -(-sound.samples.size // MAX_COLUMNS))
    padded = np.pad(sound.samples, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    window = np.hanning(size + 1)[:-1]
    power = np.square(np.abs(np.fft.rfft(frames * window))) / np.square(window.sum() / 2)
    return 10 * np.log10(power[:, :0:-1].T + 1e-12)


def _escape_unless_markup(value: object) -> object:
    return value if isinstance(value, Markup) else escape_markdown(str(value))


_OPTIONS: dict[str, Any] = {
    "loader": jinja2.PackageLoader("jaxsep.report"),
    "trim_blocks": True,
    "lstrip_blocks": True,
    "undefined": jinja2.StrictUndefined,
}
_MARKDOWN = jinja2.Environment(finalize=_escape_unless_markup, **_OPTIONS)
_MARKDOWN.filters["table"] = lambda cells: Markup(markdown_table(cells))
_HTML = jinja2.Environment(autoescape=True, **_OPTIONS)
_HTML.filters |= {"code": _code, "sha256": _sha256, "flac": _flac, "svg": _svg}
_HTML.filters["spectrograms"] = _spectrograms
