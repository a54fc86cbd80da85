"""A report as plain data: what report.md and report.html are both written from."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Table:
    """Cells as they are shown: the first column aligned left, the others right; every row as long as the header."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture: `name` is a file name without suffix, `svg` the text of the file, written by us and not by a user."""

    title: str
    name: str
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs of plain text in which `backticks` set code, then tables, then figures."""

    title: str
    text: list[str]
    tables: list[Table]
    figures: list[Figure]


@dataclass(frozen=True)
class Player:
    """One sound of a mixture.

    Attributes:
      name: what sounds, such as the class.
      kind: 'mixture', 'source' or 'estimate'.
      samples: [T], T ≥ 1, within ±1. One gain for all players of a mixture: their levels are part of what is heard.
      sample_rate: Hz.
      si_sdri: dB, of an estimate; None where there is none.
    """

    name: str
    kind: str
    samples: np.ndarray
    sample_rate: int
    si_sdri: float | None


@dataclass(frozen=True)
class Excerpt:
    """One test mixture of one run, to listen to.

    Attributes:
      run: the run's label.
      mixture: its number in the test set.
      place: where it stands among the run's test mixtures: worst, p01, p05, median, best.
      score: dB, the mean SI-SDRi of its sources.
      input_snr: dB, the power of the first source over that of the rest of the mixture.
      classes: of its sources.
      players: the mixture, the sources, and the estimates in the order of the sources.
    """

    run: str
    mixture: int
    place: str
    score: float
    input_snr: float
    classes: list[str]
    players: list[Player]
