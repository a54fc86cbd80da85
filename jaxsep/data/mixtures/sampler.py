"""What mixtures are drawn from (a pool), and the random choices that fill one slot of them.

A choice turns numbers u, uniform in [0, 1), into integers floor(u · count), for M mixtures at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxsep.data.layouts import SPLITS
from jaxsep.data.levels import frame_size
from jaxsep.data.packs.format import ClassTable, Pack
from jaxsep.errors import DataError

CORPORA = ("speech", "environment")  # those that a slot may name
# A crop is silent when it stays this far below its recording's loudest 0.1 s (-60 dB).
SILENCE = 1e-6
# How often a silent crop is drawn again before the recording's loudest position is taken.
REDRAWS = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class AnyPool:
    """What all pools have: the drawn ones (`Pool`) and those of premixed sets.

    Attributes:
      table: the classes.
      split: 'train', 'val' or 'test'.
      num_samples: T, length of a mixture.
      num_sources: N, slots of a mixture.
      sample_rate: Hz.
      corpus_names: sorted.
      fingerprints: one for each corpus.
      num_mixtures: how many there are; None where mixtures are drawn without end.
    """

    table: ClassTable
    split: str
    num_samples: int
    num_sources: int
    sample_rate: int
    corpus_names: tuple[str, ...]
    fingerprints: tuple[str, ...]
    num_mixtures: int | None = None


@dataclass(frozen=True, eq=False)
class Candidates:
    """The recordings of one corpus that a pool draws from, grouped by class.

    Class k (of K that have any) has the recordings `recordings[starts[k] : starts[k + 1]]` and the
    id `class_ids[k]`. `loud_before[f]` counts the frames of 0.1 s before frame f, over the whole
    corpus, that are not silent within their recording.
    """

    class_ids: np.ndarray
    starts: np.ndarray
    recordings: np.ndarray
    loud_before: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(AnyPool):
    """All that is needed to draw and render the mixtures of one split; made by `make_pool`.

    Attributes:
      corpora, candidates: one for each of `corpus_names`.
      max_snr_db: dB.
      priors: [N, corpora] cumulative probabilities of each slot's corpus.
      count_cdf: [N] cumulative probabilities of 1...N active slots.
    """

    corpora: tuple[Pack, ...]
    candidates: tuple[Candidates, ...]
    max_snr_db: float
    priors: np.ndarray
    count_cdf: np.ndarray


def make_pool(
    corpora: Mapping[str, Pack],
    table: ClassTable,
    *,
    split: str,
    slots: Sequence[str],
    segment_seconds: float,
    max_snr_db: float,
    active_counts: Sequence[float] = (),
    short_clips: str = "pad",
) -> Pool:
    """The pool of one split of some corpora, for `dynamic.draw` and `dynamic.render`.

    Args:
      corpora: name -> corpus, all at one rate.
      table: `class_table` of these corpora.
      split: 'train', 'val' or 'test'.
      slots: one entry for each source: a corpus, or a prior like 'speech:0.5,environment:0.5'.
      segment_seconds: length of a mixture.
      max_snr_db: SNRs are uniform in [-max_snr_db, max_snr_db], dB.
      active_counts: probabilities of 1...N active slots (any subset of that size is equally
        likely); () for always all N.
      short_clips: what becomes of clips shorter than a mixture. 'pad': zeros around them, at a
        random position; 'skip': they are left out.

    Raises:
      DataError: the corpora cannot give such mixtures.
    """
    names = tuple(sorted(corpora))
    ordered = tuple(corpora[name] for name in names)
    rate = ordered[0].sample_rate
    num_samples = round(segment_seconds * rate)
    priors, counts = slot_priors(slots, names), count_probabilities(active_counts, len(slots))
    shortest = num_samples if short_clips == "skip" else 1
    candidates = tuple(_candidates(corpus, table, split, shortest) for corpus in ordered)
    most_active = int(np.flatnonzero(counts)[-1]) + 1
    for name, drawn, of_slots in zip(names, candidates, priors.T, strict=True):
        needed, has = min(most_active, int((of_slots > 0).sum())), drawn.class_ids.size
        if has < needed:
            skipped = " without the recordings that data.short_clips 'skip' leaves out"
            raise DataError(
                f"data.slots: up to {needed} different classes of {name} are needed in a mixture; "
                f"the {split} split has {has}{skipped if short_clips == 'skip' else ''}"
            )
    return Pool(
        table=table,
        split=split,
        num_samples=num_samples,
        num_sources=len(slots),
        sample_rate=rate,
        corpus_names=names,
        fingerprints=tuple(corpus.fingerprint for corpus in ordered),
        corpora=ordered,
        candidates=candidates,
        max_snr_db=float(max_snr_db),
        priors=np.cumsum(priors, axis=1),
        count_cdf=np.cumsum(counts),
    )


def slot_priors(slots: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Probabilities [N, corpora] of the corpora `names` in each slot; DataError unless legal."""
    priors = np.zeros((len(slots), len(names)))
    for row, slot in zip(priors, slots, strict=True):
        try:
            for part in slot.split(","):
                name, _, prior = part.partition(":")
                row[names.index(name.strip())] += float(prior or 1)
        except ValueError:  # no such corpus, or no number
            row[:] = np.nan
        if not (row >= 0).all() or abs(row.sum() - 1) > 1e-6:
            raise DataError(
                f"data.slots: {slot!r} must be one of {', '.join(names)}, or priors of them that "
                "sum to 1, such as 'speech:0.3,environment:0.7'"
            )
    return priors


def count_probabilities(active_counts: Sequence[float], slots: int) -> np.ndarray:
    """Probabilities [N] of 1...N active slots; DataError unless they are N and sum to 1."""
    if not active_counts:
        return np.eye(slots)[-1]
    counts = np.array(active_counts, np.float64)
    if counts.size != slots or (counts < 0).any() or abs(counts.sum() - 1) > 1e-6:
        raise DataError(
            f"data.active_counts: is {list(active_counts)}; must be {slots} probabilities "
            f"(of 1 to {slots} active slots) that sum to 1, or empty"
        )
    return counts


def _candidates(corpus: Pack, table: ClassTable, split: str, shortest: int) -> Candidates:
    in_split = corpus.splits == SPLITS.index(split)
    eligible = np.flatnonzero(in_split & (corpus.lengths >= shortest))
    recordings = eligible[np.argsort(corpus.classes[eligible], kind="stable")]
    classes, starts = np.unique(corpus.classes[recordings], return_index=True)
    loudest = np.maximum.reduceat(corpus.energies, corpus.energy_offsets[:-1])
    loud = corpus.energies >= SILENCE * np.repeat(loudest, np.diff(corpus.energy_offsets))
    return Candidates(
        # In the table, the classes of a corpus follow one another in the corpus's own order.
        class_ids=(table.corpora.index(corpus.name) + classes).astype(np.int32),
        starts=np.append(starts, recordings.size),
        recordings=recordings,
        loud_before=np.append(0, np.cumsum(loud)),
    )


def pick(uniform: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Integers uniform in 0...count-1, from numbers uniform in [0, 1)."""
    # The minimum, because u * count may round up to count.
    return np.minimum((uniform * count).astype(np.int64), count - 1)


def pick_class(uniform: np.ndarray, taken: np.ndarray, count: int) -> np.ndarray:
    """Classes [M], uniform over those of 0...count-1 that are not in `taken` [M,n], where `count`
    stands for none."""
    taken = np.sort(taken, axis=1)
    chosen = pick(uniform, count - (taken < count).sum(axis=1))
    for column in taken.T:
        chosen += chosen >= column
    return chosen


def pick_recording(uniform: np.ndarray, candidates: Candidates, classes: np.ndarray) -> np.ndarray:
    """Recordings [M], uniform over those of the classes [M]."""
    first, last = candidates.starts[classes], candidates.starts[classes + 1]
    return candidates.recordings[first + pick(uniform, last - first)]


def pick_offset(
    uniform: np.ndarray,
    corpus: Pack,
    loud_before: np.ndarray,
    recordings: np.ndarray,
    num_samples: int,
) -> np.ndarray:
    """Offsets [M], each the first of the tries [M, tries] whose crop is not silent, else the
    loudest one.

    Where a clip is shorter than the mixture, all of it is used, at a random position.
    """
    spare = (corpus.lengths[recordings] - num_samples)[:, None]
    tries = pick(uniform, np.abs(spare) + 1)
    offsets = np.where(spare < 0, -tries, tries)
    first, last = _frames_of_crop(corpus, recordings[:, None], offsets, num_samples)
    audible = (loud_before[last] > loud_before[first]) | (spare < 0)
    chosen = np.take_along_axis(offsets, audible.argmax(axis=1)[:, None], axis=1)[:, 0]
    for row in np.flatnonzero(~audible.any(axis=1)):
        chosen[row] = _loudest_offset(corpus, int(recordings[row]), num_samples)
    return chosen


def _frames_of_crop(
    corpus: Pack, recordings: np.ndarray, offsets: np.ndarray, num_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """First and last + 1 of the 0.1 s frames of the corpus that lie wholly in the crops.

    Of a crop that is too short to hold a frame: those that it touches.
    """
    size = frame_size(corpus.sample_rate)
    end = offsets + num_samples
    first = -(-offsets // size)
    last = np.where(end >= corpus.lengths[recordings], -(-end // size), end // size)
    none = last <= first
    base, top = corpus.energy_offsets[recordings], corpus.energy_offsets[recordings + 1]
    first = np.clip(base + np.where(none, offsets // size, first), base, top)
    return first, np.clip(base + np.where(none, -(-end // size), last), base, top)


def _loudest_offset(corpus: Pack, recording: int, num_samples: int) -> int:
    """Offset, on the grid of 0.1 s, of the crop with the most energy."""
    size, length = frame_size(corpus.sample_rate), int(corpus.lengths[recording])
    frames = slice(corpus.energy_offsets[recording], corpus.energy_offsets[recording + 1])
    energies = corpus.energies[frames]
    edges = np.minimum(np.arange(energies.size + 1) * size, length)
    before = np.append(0.0, np.cumsum(energies, dtype=np.float64))
    starts = np.minimum(edges[:-1], length - num_samples)
    gains = np.interp(starts + num_samples, edges, before) - np.interp(starts, edges, before)
    return int(starts[gains.argmax()])
