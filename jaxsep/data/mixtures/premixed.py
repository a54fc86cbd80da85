"""Mixtures of premixed sets (WSJ0-2mix, WHAM!, Libri2Mix, …), as they lie on disk.

Recipes and rendered batches have the form that they have in `dynamic`, so that training and
evaluation do not ask which kind of pool they were given.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxsep.data.layouts import PREMIXED_SPLITS, SPLITS
from jaxsep.data.levels import power_ratio, remove_mean
from jaxsep.data.mixtures.dynamic import copy_segment, draw, render
from jaxsep.data.mixtures.recipes import Arrays, uniforms
from jaxsep.data.mixtures.sampler import AnyPool, pick, segment_samples
from jaxsep.data.packs.format import Pack, class_table
from jaxsep.errors import DataError


@dataclass(frozen=True, eq=False, kw_only=True)
class PremixedPool(AnyPool):
    """The mixtures of one split of a premixed set; made by `make_premixed_pool`.

    Attributes:
      source: the set.
      mixtures: int64 [num_mixtures], its mixtures in this split, in the order of their paths.
      whole: True: index i is mixture i at its full length. False: random crops in random order.
    """

    source: Pack
    mixtures: np.ndarray
    whole: bool


def make_premixed_pool(
    premixed: Pack, *, split: str, segment_seconds: float | None
) -> PremixedPool:
    """The pool of one split of a premixed set, for `dynamic.draw` and `dynamic.render`.

    With `segment_seconds`, for training: each epoch goes through the mixtures in a random order
    (past the last, in another one), at a random offset that all roles share. Shorter mixtures are
    padded with zeros at the end.
    With None, for validation and test: index i is mixture i, padded at the end to the longest of
    the split; `lengths` says how long each is. Mean, level and SNR are those of the true length.

    Raises:
      DataError: there are no mixtures in this split.
    """
    mixtures = np.flatnonzero(premixed.splits == SPLITS.index(split))
    if not mixtures.size:
        raise DataError(
            f"data.premixed_root: has no {split} mixtures; "
            f"needed: one of the folders {', '.join(PREMIXED_SPLITS[split])}"
        )
    if segment_seconds is None:
        num_samples = int(premixed.lengths[mixtures].max())
    else:
        num_samples = segment_samples(segment_seconds, premixed.sample_rate)
    return PremixedPool(
        table=class_table([premixed]),
        split=split,
        num_samples=num_samples,
        num_sources=len(premixed.roles) - 1,
        sample_rate=premixed.sample_rate,
        corpus_names=(premixed.name,),
        fingerprints=(premixed.fingerprint,),
        num_mixtures=mixtures.size,
        source=premixed,
        mixtures=mixtures,
        whole=segment_seconds is None,
    )


@draw.register
def _draw(pool: PremixedPool, seed: int, epoch: int, indices: np.ndarray) -> Arrays:
    indices = np.asarray(indices, np.int64)
    if pool.whole:
        chosen, offset = pool.mixtures[indices], np.zeros(indices.size, np.int64)
    else:
        stream = SPLITS.index(pool.split)
        chosen = _shuffled(pool.mixtures, seed, epoch, stream, indices)
        spare = np.maximum(pool.source.lengths[chosen] - pool.num_samples, 0)
        offset = pick(uniforms(seed, epoch, stream, indices, 1)[:, 0], spare + 1)
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


def _shuffled(
    mixtures: np.ndarray, seed: int, epoch: int, stream: int, indices: np.ndarray
) -> np.ndarray:
    """What stands at `indices` of the mixtures in random order, lap after lap."""
    laps, places = np.divmod(indices, mixtures.size)
    chosen = np.empty(indices.size, np.int64)
    for lap in np.unique(laps).tolist():
        # Streams of their own: `uniforms` leaves the highest word of the counter at 0.
        counter = np.array([0, lap, stream, 1], np.uint64)
        bits = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=counter)
        order = np.random.Generator(bits).permutation(mixtures)
        chosen[laps == lap] = order[places[laps == lap]]
    return chosen


@render.register
def _render(pool: PremixedPool, recipes: Mapping[str, np.ndarray]) -> Arrays:
    premixed, samples = pool.source, pool.num_samples
    batch, count = recipes["index"].size, len(premixed.roles)
    audio = np.asarray(premixed.audio)
    signals = np.empty((batch, count, samples), np.float32)  # the mixture, then the sources
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
