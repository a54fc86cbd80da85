"""Premixed sets as they are (WSJ0-2mix, WHAM!, Libri2Mix, ...): pools for the same `mixing.draw` and `mixing.render`.

A premixed set is prepared by `prepare_premixed`; recipes and rendered batches have the form they have for mixtures drawn on
the fly, so that training and evaluation need not know which they are given.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxsep.data.layouts import PREMIXED_FIELD, PREMIXED_SPLITS, SPLITS
from jaxsep.data.mixtures.dynamic import copy_segment, draw, power_ratio, remove_mean, render
from jaxsep.data.mixtures.recipes import Arrays, check_indices, uniforms
from jaxsep.data.mixtures.sampler import segment_samples
from jaxsep.data.packs.corpus import ClassTable
from jaxsep.data.packs.premixed import Premixed, open_premixed, premixed_table, prepare_premixed
from jaxsep.errors import DataError

__all__ = [
    "Premixed",
    "PremixedPool",
    "make_premixed_pool",
    "open_premixed",
    "premixed_table",
    "prepare_premixed",
]


@dataclass(frozen=True, eq=False)
class PremixedPool:
    """The mixtures of one split; the attributes it shares with `mixing.Pool` mean the same.

    Attributes:
        source: the set.
        mixtures: int64 [num_mixtures], its mixtures in this split, in the order of their paths.
        whole: True: mixture `index` at its full length, padded with zeros at the end. False: random crops.
        num_mixtures: how many there are; with `whole`, indices must stay below.
    """

    source: Premixed
    table: ClassTable
    split: str
    num_samples: int
    num_sources: int
    sample_rate: int
    mixtures: np.ndarray
    whole: bool
    num_mixtures: int
    corpus_names: tuple[str, ...]
    fingerprints: tuple[str, ...]

    @property
    def recordings(self) -> tuple[int, ...]:
        return (self.source.lengths.size,)


def make_premixed_pool(
    premixed: Premixed, *, split: str, segment_seconds: float | None
) -> PremixedPool:
    """A pool for `mixing.draw` and `mixing.render`.

    With `segment_seconds`, for training: each epoch goes through the mixtures in a random order (again from the start, in
    another order, past the last), at a random offset that all roles share; shorter ones are padded with zeros at the end.
    With None, for validation and test: index i is mixture i at its full length, padded at the end to the longest of the split;
    `lengths` says how long each is. Mean, level and SNR are those of the true length.

    Raises:
        DataError: no mixtures in this split; segment_seconds <= 0.
    """
    if split not in SPLITS:
        raise DataError(f"split: is {split!r}; must be one of {', '.join(SPLITS)}")
    mixtures = np.flatnonzero(premixed.splits == SPLITS.index(split))
    if not mixtures.size:
        raise DataError(
            f"{PREMIXED_FIELD}: has no {split} mixtures; needed: one of the folders {', '.join(PREMIXED_SPLITS[split])}"
        )
    whole = segment_seconds is None
    longest = int(premixed.lengths[mixtures].max())
    return PremixedPool(
        source=premixed,
        table=premixed_table(premixed),
        split=split,
        num_samples=longest
        if segment_seconds is None
        else segment_samples(segment_seconds, premixed.sample_rate),
        num_sources=len(premixed.roles) - 1,
        sample_rate=premixed.sample_rate,
        mixtures=mixtures,
        whole=whole,
        num_mixtures=mixtures.size,
        corpus_names=(premixed.name,),
        fingerprints=(premixed.fingerprint,),
    )


@draw.register
def _draw(pool: PremixedPool, seed: int, epoch: int, indices: np.ndarray) -> Arrays:
    indices = check_indices(seed, epoch, indices)
    if pool.whole:
        if indices.size and indices.max() >= pool.num_mixtures:
            raise DataError(
                f"indices: reach {indices.max()}; the {pool.split} split has {pool.num_mixtures} mixtures"
            )
        chosen, offset = pool.mixtures[indices], np.zeros(indices.size, np.int64)
    else:
        stream = SPLITS.index(pool.split)
        chosen = np.empty(indices.size, np.int64)
        laps = indices // pool.num_mixtures
        for lap in np.unique(laps).tolist():
            bits = np.random.Philox(
                key=np.array([seed, epoch], np.uint64),
                counter=np.array([0, lap, stream, 1], np.uint64),
            )
            order = np.random.Generator(bits).permutation(pool.mixtures)
            chosen[laps == lap] = order[indices[laps == lap] % pool.num_mixtures]
        spare = np.maximum(pool.source.lengths[chosen] - pool.num_samples, 0)
        offset = np.minimum(
            (uniforms(seed, epoch, stream, indices, 1)[:, 0] * (spare + 1)).astype(np.int64), spare
        )
    shape = (indices.size, pool.num_sources)
    return {
        "index": indices,
        "corpus": np.zeros(shape, np.int8),
        "recording": np.broadcast_to(chosen[:, None], shape).copy(),
        "offset": np.broadcast_to(offset[:, None], shape).copy(),
        "class_ids": pool.source.classes[chosen],
        "active": np.ones(shape, bool),
        "snr": pool.source.snr[chosen],
    }


@render.register
def _render(pool: PremixedPool, recipes: Mapping[str, np.ndarray]) -> Arrays:
    premixed, samples = pool.source, pool.num_samples
    batch, count = recipes["index"].size, len(premixed.roles)
    audio = np.asarray(premixed.audio)
    signals = np.empty((batch, count, samples), np.float32)
    active = np.empty((batch, pool.num_sources), bool)
    snr = np.empty(batch, np.float32)
    lengths = np.empty(batch, np.int32)
    for b in range(batch):
        mixture, offset = int(recipes["recording"][b, 0]), int(recipes["offset"][b, 0])
        start, length = premixed.offsets[mixture], int(premixed.lengths[mixture])
        recorded = audio[start : start + count * length].reshape(count, length)
        for role in range(count):
            copy_segment(recorded[role], offset, signals[b, role])
        lengths[b] = min(length - offset, samples)
        power = remove_mean(signals[b, :, : lengths[b]])
        signals[b] *= np.float32(1.0 / np.sqrt(power[0])) if power[0] > 0 else np.float32(0)
        active[b] = power[1:] > 0
        snr[b] = power_ratio(power[1:])
    return {
        "mixture": signals[:, 0],
        "sources": signals[:, 1:],
        "class_ids": np.where(active, recipes["class_ids"], np.int32(-1)),
        "active": active,
        "snr": snr,
        "index": recipes["index"],
        "lengths": lengths,
    }
