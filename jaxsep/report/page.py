"""A report as one HTML document that needs nothing else: no server, no network, no other file.

What it shows comes from folder names and may hold any character: all of it is escaped, and the document's policy lets a
browser run page.js and nothing else. Sounds are 16-bit FLAC inside the document; page.js draws their spectrograms from them.
"""

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from itertools import zip_longest

import numpy as np
import soundfile

from jaxsep.report.sections import Excerpt, Figure, Player, Section, Table

# In the order of the menu.
PLACES = {
    "worst": "worst",
    "p01": "1 % quantile",
    "p05": "5 % quantile",
    "median": "median",
    "best": "best",
}
ORDERS = {
    "score-up": "worst score first",
    "score-down": "best score first",
    "snr-up": "lowest input SNR first",
    "snr-down": "highest input SNR first",
    "mixture-up": "by mixture number",  # one mixture of several runs side by side
}


def page(title: str, sections: Sequence[Section], excerpts: Sequence[Excerpt]) -> str:
    """One self-contained HTML document.

    Args:
      title: of the document.
      sections: shown in this order; see `jaxsep.report.sections`.
      excerpts: mixtures to listen to, of one run or several. None: one line says that there is no audio.

    Returns:
      The document's text; write it as UTF-8.
    """
    style, script = _asset("page.css"), _asset("page.js") if excerpts else ""
    anchors = [(f"section-{number}", section.title) for number, section in enumerate(sections, 1)]
    contents = "".join(
        f'<li><a href="#{anchor}">{_text(name)}</a></li>'
        for anchor, name in [*anchors, ("listen", "Listen")]
    )
    body = [
        f"<header><h1>{_text(title)}</h1><nav aria-label='Contents'><ul>{contents}</ul></nav></header>",
        "<main>",
        *(
            _section(section, anchor)
            for section, (anchor, _) in zip(sections, anchors, strict=True)
        ),
        _listen(excerpts),
        "</main>",
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{_text(title)}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            *body,
            f"<script>{script}</script>" if script else "",
            "</body>",
            "</html>\n",
        ]
    )


def _policy(style: str, script: str) -> str:
    """Content-Security-Policy: this style, this script, pictures and sounds inside the document, and nothing else."""

    def only(text: str) -> str:
        return (
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            if text
            else "'none'"
        )

    inside = "img-src data:; media-src data:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; style-src {only(style)}; script-src {only(script)}; {inside}"


def _asset(name: str) -> str:
    return resources.files("jaxsep.report").joinpath("templates", name).read_text(encoding="utf-8")


def _printable(name: str) -> str:
    """Bytes of a file name that are no UTF-8 become visible escapes: the document could not be written otherwise."""
    return name.encode("utf-8", "backslashreplace").decode()


def _text(value: object) -> str:
    """Escaped for elements and for quoted attributes."""
    return escape(_printable(str(value)))


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _improvement(value: float | None) -> str:
    """A score in dB, marked where the estimates are worse than the mixture was."""
    worse = ' class="worse"' if value is not None and value < 0 else ""
    return f"<strong{worse}>{_decibels(value)}</strong>"


def _decibels(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2f} dB"


def _section(section: Section, anchor: str) -> str:
    paragraphs = (
        re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(paragraph)) for paragraph in section.text
    )
    figures = "".join(map(_figure, section.figures))
    return "\n".join(
        [
            f'<section id="{anchor}">',
            f"<h2>{_text(section.title)}</h2>",
            *(f"<p>{paragraph}</p>" for paragraph in paragraphs),
            *map(_table, section.tables),
            f'<div class="figures">{figures}</div>' if figures else "",
            "</section>",
        ]
    )


def _table(table: Table) -> str:
    def line(cells: Sequence[str], scope: str) -> str:
        first, rest = cells[0], cells[1:]
        kind = "th" if scope == "col" else "td"
        other = "".join(
            f"<{kind}{' scope=col' if kind == 'th' else ''}>{_text(cell)}</{kind}>" for cell in rest
        )
        return f"<tr><th scope={scope}>{_text(first)}</th>{other}</tr>"

    rows = "\n".join(line(row, "row") for row in table.rows)
    note = f'<p class="note">{_text(table.note)}</p>' if table.note else ""
    # Wide tables scroll in their own box, which takes the focus so that keys can scroll it.
    return (
        f'<div class="table"><h3>{_text(table.title)}</h3>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(table.title)}">'
        f"<table><thead>{line(table.header, 'col')}</thead><tbody>{rows}</tbody></table></div>{note}</div>"
    )


def _figure(figure: Figure) -> str:
    # As a picture of its own: the ids of several drawings in one document would collide.
    source = _data("image/svg+xml", figure.svg.encode())
    caption = f"<span>{_text(figure.caption)}</span>" if figure.caption else ""
    image = f'<img src="{source}" alt="{_text(figure.title)}">'
    return f"<figure><figcaption><strong>{_text(figure.title)}</strong>{caption}</figcaption>{image}</figure>"


def _listen(excerpts: Sequence[Excerpt]) -> str:
    if not excerpts:
        return '<section id="listen"><h2>Listen</h2><p>The runs hold no audio.</p></section>'
    return "\n".join(
        [
            '<section id="listen">',
            "<h2>Listen</h2>",
            "<p>Test mixtures of every run from the worst to the best: each source beside the estimate the network made of "
            "it. The score is the mean SI-SDR improvement of the mixture’s sources, the input SNR the power of its first "
            "source over the rest; red: worse than the mixture itself. All sounds of a mixture share one gain. Click into a "
            "picture to move there.</p>",
            '<p class="key">Power below the loudest point of the mixture’s pictures: <span>−70 dB</span> '
            '<canvas id="key" width="256" height="1" role="img" aria-label="Colours, from dark to bright"></canvas> '
            "<span>0 dB</span></p>",
            "<noscript><p>Players, pictures, order and choice need JavaScript.</p></noscript>",
            _bar(excerpts),
            '<div id="mixtures">',
            *(_excerpt(excerpt, number) for number, excerpt in enumerate(excerpts)),
            "</div>",
            '<p id="none" hidden>No mixture is of this run, place and class together.</p>',
            "</section>",
        ]
    )


def _bar(excerpts: Sequence[Excerpt]) -> str:
    def menu(name: str, label: str, options: dict[str, str]) -> str:
        choices = "".join(
            f'<option value="{_text(value)}">{_text(shown)}</option>'
            for value, shown in options.items()
        )
        return f'<label><span>{label}</span><select name="{name}">{choices}</select></label>'

    runs = dict.fromkeys(excerpt.run for excerpt in excerpts)
    found = {excerpt.place for excerpt in excerpts}
    places = [place for place in PLACES if place in found] + sorted(found - PLACES.keys())
    classes = sorted({name for excerpt in excerpts for name in excerpt.classes})
    return (
        '<form id="bar" autocomplete="off" aria-label="Which mixtures, in which order">'
        + menu("run", "Run", {"": "all runs"} | {run: run for run in runs})
        + menu(
            "place",
            "Place",
            {"": "all places"} | {place: PLACES.get(place, place) for place in places},
        )
        + menu("class", "Class", {"": "all classes"} | {name: name for name in classes})
        + menu("sort", "Order", ORDERS)
        + f'<output id="count">{len(excerpts)} of {len(excerpts)} mixtures</output><button type="reset">Reset</button></form>'
    )


def _excerpt(excerpt: Excerpt, number: int) -> str:
    kinds = {
        kind: [p for p in excerpt.players if p.kind == kind]
        for kind in ("mixture", "source", "estimate")
    }
    data = {
        "run": excerpt.run,
        "place": excerpt.place,
        "classes": json.dumps([_printable(name) for name in excerpt.classes]),
        "score": excerpt.score,
        "snr": excerpt.input_snr,
        "mixture": excerpt.mixture,
    }
    attributes = " ".join(f'data-{name}="{_text(value)}"' for name, value in data.items())
    facts = {
        "Score": _improvement(excerpt.score),
        "Input SNR": _decibels(excerpt.input_snr),
        "Place": _text(PLACES.get(excerpt.place, excerpt.place)),
        "Run": _text(excerpt.run),
    }
    pairs = zip_longest(kinds["source"], kinds["estimate"])
    return "\n".join(
        [
            f'<article aria-labelledby="mixture-{number}" {attributes}>',
            f'<h3 id="mixture-{number}"><span>Mixture {excerpt.mixture}</span> {_text(" + ".join(excerpt.classes))}</h3>',
            '<div class="pair">',
            *(_player(player, excerpt) for player in kinds["mixture"]),
            "<dl>",
            *(f"<div><dt>{name}</dt><dd>{shown}</dd></div>" for name, shown in facts.items()),
            "</dl>",
            "</div>",
            *(_source(pair, excerpt) for pair in pairs),
            "</article>",
        ]
    )


def _source(pair: tuple[Player | None, Player | None], excerpt: Excerpt) -> str:
    """A source beside its estimate."""
    present = [player for player in reversed(pair) if player]
    score = next((player.si_sdri for player in present if player.si_sdri is not None), None)
    name = _text(present[-1].name)
    return (
        f'<h4>{name} <span>SI-SDRi {_improvement(score)}</span></h4><div class="pair">'
        + "".join(_player(player, excerpt) for player in pair if player)
        + "</div>"
    )


def _player(player: Player, excerpt: Excerpt) -> str:
    seconds, top = len(player.samples) / player.sample_rate, player.sample_rate / 2000
    what = player.kind if player.kind == "mixture" else f"{player.kind} {player.name}"
    spoken = _text(f"{what}, mixture {excerpt.mixture}, {excerpt.run}")
    return (
        f'<figure class="player"><figcaption><button type="button" aria-pressed="false" aria-label="Play: {spoken}"></button>'
        f'<span>{player.kind}</span><time>{seconds:.2f} s</time></figcaption><div class="picture">'
        f'<canvas role="img" aria-label="Spectrogram: {spoken}; 0 to {top:g} kHz, {seconds:.2f} s"></canvas>'
        f'<input type="range" min="0" max="{seconds:.4f}" step="any" value="0" aria-label="Position in seconds: {spoken}">'
        f'<ol class="khz" aria-hidden="true"><li>{top:g} kHz</li><li>{top / 2:g}</li><li>0</li></ol>'
        f'<ol class="seconds" aria-hidden="true"><li>0</li><li>{seconds / 2:.2f}</li><li>{seconds:.2f} s</li></ol></div>'
        f'<audio preload="metadata" data-rate="{player.sample_rate}" '
        f'data-src="{_data("audio/flac", _flac(player.samples, player.sample_rate))}"></audio></figure>'
    )


def _flac(samples: np.ndarray, sample_rate: int) -> bytes:
    """16 bits; what is beyond ±1 is clipped, what is no number is silent."""
    whole = np.round(
        32767 * np.clip(np.nan_to_num(samples, posinf=1.0, neginf=-1.0), -1.0, 1.0)
    ).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, whole, sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()
