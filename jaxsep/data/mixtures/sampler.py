"""What a mixture may be drawn from: the settings of one split, checked against the corpora, as plain arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxsep.data.layouts import SPLITS
from jaxsep.data.mixtures.recipes import MAX_SNR_DB
from jaxsep.data.packs.corpus import ClassTable, Corpus
from jaxsep.errors import DataError

SHORT_CLIPS = ("pad", "skip")
CORPORA = ("speech", "environment")  # those that a slot may name
# A crop is silent when it stays this far below its recording's loudest 0.1 s (-60 dB).
SILENCE = 1e-6


@dataclass(frozen=True, eq=False)
class Candidates:
    """The recordings of one corpus that a pool draws from, grouped by class.

    Class k (of K with any) has the recordings `recordings[starts[k] : starts[k + 1]]` and the id `class_ids[k]`.
    `loud_before[f]` counts the frames before f, over the whole corpus, that are not silent within their recording.
    """

    class_ids: np.ndarray
    starts: np.ndarray
    recordings: np.ndarray
    loud_before: np.ndarray


@dataclass(frozen=True, eq=False)
class Pool:
    """Everything needed to draw and render the mixtures of one split; made by `make_pool`, plain data.

    Attributes:
        corpora, corpus_names, candidates: one per corpus, in the order of the sorted names.
        table: the classes.
        split: 'train', 'val' or 'test'.
        num_samples: T, length of a segment.
        num_sources: N, slots.
        sample_rate: Hz.
        max_snr_db: dB, at least 0.
        priors: [N, corpora] cumulative probabilities of each slot's corpus.
        count_cdf: [N] cumulative probabilities of 1...N active slots.
        num_mixtures: None: there is no end to what can be drawn (a premixed set has a number here).
    """

    corpora: tuple[Corpus, ...]
    corpus_names: tuple[str, ...]
    candidates: tuple[Candidates, ...]
    table: ClassTable
    split: str
    num_samples: int
    num_sources: int
    sample_rate: int
    max_snr_db: float
    priors: np.ndarray
    count_cdf: np.ndarray
    num_mixtures: None = None

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of the corpora, in the order of `corpus_names`."""
        return tuple(corpus.fingerprint for corpus in self.corpora)

    @property
    def recordings(self) -> tuple[int, ...]:
        """How many each corpus has, in the order of `corpus_names`."""
        return tuple(corpus.lengths.size for corpus in self.corpora)


def make_pool(
    corpora: Mapping[str, Corpus],
    table: ClassTable,
    *,
    split: str,
    slots: Sequence[str],
    segment_seconds: float,
    max_snr_db: float,
    active_counts: Sequence[float] = (),
    short_clips: str = "pad",
) -> Pool:
    """Checks the settings against the corpora and gathers what `draw` and `render` need.

    Args:
        corpora: name -> corpus; all at one sample rate.
        table: `class_table` of these corpora.
        split: 'train', 'val' or 'test'.
        slots: one entry per source: a corpus name, or a prior like 'speech:0.5,environment:0.5'.
        segment_seconds: length of a mixture, > 0.
        max_snr_db: the SNR is uniform in [-max_snr_db, max_snr_db], dB.
        active_counts: probabilities of 1...N active slots (a uniformly random subset); () for always all N.
        short_clips: 'pad': a clip shorter than the segment gets zeros around it, at a random position; 'skip': left out.

    Raises:
        DataError: names the field (data.slots, data.segment_seconds, ...), its value and what would be right.
    """
    names = tuple(sorted(corpora))
    ordered = tuple(corpora[name] for name in names)
    rates = sorted({corpus.sample_rate for corpus in ordered})
    if len(rates) != 1:
        raise DataError(
            f"data.sample_rate: the corpora are at {rates} Hz; they must be at one rate"
        )
    if split not in SPLITS:
        raise DataError(f"split: is {split!r}; must be one of {', '.join(SPLITS)}")
    if short_clips not in SHORT_CLIPS:
        raise DataError(
            f"data.short_clips: is {short_clips!r}; must be one of {', '.join(SHORT_CLIPS)}"
        )
    if not 0 <= max_snr_db <= MAX_SNR_DB:
        raise DataError(
            f"data.max_snr_db: is {max_snr_db!r}; must be a number of dB, at least 0, at most {MAX_SNR_DB:g}"
        )
    num_samples = segment_samples(segment_seconds, rates[0])
    priors = slot_priors(slots, names)
    counts = count_probabilities(active_counts, len(slots))
    shortest = num_samples if short_clips == "skip" else 1
    candidates = tuple(
        _candidates(corpus, table, SPLITS.index(split), shortest) for corpus in ordered
    )
    _check_classes(names, candidates, priors, counts, split, short_clips)
    return Pool(
        corpora=ordered,
        corpus_names=names,
        candidates=candidates,
        table=table,
        split=split,
        num_samples=num_samples,
        num_sources=len(slots),
        sample_rate=rates[0],
        max_snr_db=float(max_snr_db),
        priors=np.cumsum(priors, axis=1),
        count_cdf=np.cumsum(counts),
    )


def segment_samples(segment_seconds: float, sample_rate: int) -> int:
    """Segment length in samples; DataError unless it is at least one and finite."""
    if not 0 < segment_seconds < float("inf") or round(segment_seconds * sample_rate) < 1:
        raise DataError(
            f"data.segment_seconds: is {segment_seconds!r}; must be at least one sample ({1 / sample_rate} s)"
        )
    return round(segment_seconds * sample_rate)


def slot_priors(slots: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Probabilities [N, corpora] of each slot's corpus; DataError where a slot names another corpus, or is no prior."""
    if isinstance(slots, str) or not slots:
        raise DataError(
            f"data.slots: is {slots!r}; must be a sequence of corpus names, one per source"
        )
    priors = np.zeros((len(slots), len(names)))
    for row, slot in zip(priors, slots, strict=True):
        for part in slot.split(","):
            name, colon, value = (piece.strip() for piece in part.partition(":"))
            if name not in names:
                raise DataError(
                    f"data.slots: {slot!r} names the corpus {name!r}; there is {', '.join(names)}"
                )
            try:
                probability = float(value) if colon else 1.0
            except ValueError:
                probability = -1.0
            if not 0 <= probability <= 1:
                raise DataError(
                    f"data.slots: {slot!r} gives {name} the prior {value!r}; must be between 0 and 1"
                )
            row[names.index(name)] += probability
        if abs(row.sum() - 1) > 1e-6:
            raise DataError(
                f"data.slots: the priors in {slot!r} sum to {row.sum():g}; must sum to 1"
            )
    return priors


def count_probabilities(active_counts: Sequence[float], slots: int) -> np.ndarray:
    """Probabilities [N] of 1...N active slots; DataError where they are not N, or do not sum to 1."""
    if not len(active_counts):
        return np.eye(slots)[-1]
    counts = np.asarray(active_counts, np.float64)
    if counts.shape != (slots,) or not (counts >= 0).all() or abs(counts.sum() - 1) > 1e-6:
        raise DataError(
            f"data.active_counts: is {list(active_counts)}; must be {slots} probabilities (of 1 to {slots} active slots) "
            "that sum to 1, or empty"
        )
    return counts


def _candidates(corpus: Corpus, table: ClassTable, split: int, shortest: int) -> Candidates:
    eligible = np.flatnonzero((corpus.splits == split) & (corpus.lengths >= shortest))
    recordings = eligible[np.argsort(corpus.classes[eligible], kind="stable")]
    present, starts = np.unique(corpus.classes[recordings], return_index=True)
    ids = {
        name: index
        for index, (name, owner) in enumerate(zip(table.names, table.corpora, strict=True))
        if owner == corpus.name
    }
    missing = [name for name in corpus.class_names if name not in ids]
    if missing:
        raise DataError(
            f"table: has no class {missing[0]!r} of the corpus {corpus.name!r}; make it from all corpora"
        )
    loudest = np.maximum.reduceat(corpus.energies, corpus.energy_offsets[:-1])
    loud = corpus.energies >= SILENCE * np.repeat(loudest, np.diff(corpus.energy_offsets))
    return Candidates(
        class_ids=np.array([ids[corpus.class_names[k]] for k in present], np.int32),
        starts=np.append(starts, recordings.size),
        recordings=recordings,
        loud_before=np.append(0, np.cumsum(loud)),
    )


def _check_classes(
    names: Sequence[str],
    candidates: Sequence[Candidates],
    priors: np.ndarray,
    counts: np.ndarray,
    split: str,
    short_clips: str,
) -> None:
    """No mixture may need more classes of a corpus than there are."""
    most_active = int(np.flatnonzero(counts)[-1]) + 1
    for name, found, column in zip(names, candidates, priors.T, strict=True):
        needed = min(most_active, int((column > 0).sum()))
        if needed and not found.recordings.size and short_clips == "skip":
            raise DataError(
                f"data.short_clips: 'skip' leaves no {split} recordings of {name}; use 'pad' or a shorter "
                "data.segment_seconds"
            )
        if found.class_ids.size < needed:
            raise DataError(
                f"data.slots: up to {needed} different classes of {name} are needed in a mixture; the {split} split "
                f"has {found.class_ids.size}"
            )
