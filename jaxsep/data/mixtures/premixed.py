"""Mixtures of premixed sets (WSJ0-2mix, WHAM!, Libri2Mix, …), as they lie on disk.

Recipes and rendered batches have the form that they have in `dynamic`, so that training and
evaluation do not ask which kind of pool they were given.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxsep.data.layouts import PREMIXED_SPLITS, SPLITS
from jaxsep.data.levels import power_ratio, remove_mean
from jaxsep.data.mixtures.dynamic import draw, render
from jaxsep.data.mixtures.recipes import Arrays, stream, uniforms
from jaxsep.data.mixtures.sampler import AnyPool, pick
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
        num_samples = round(segment_seconds * premixed.sample_rate)
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
    indices, split = np.asarray(indices, np.int64), SPLITS.index(pool.split)
    chosen, offset = pool.mixtures[indices % pool.mixtures.size], np.zeros_like(indices)
    if not pool.whole:
        laps, places = np.divmod(indices, pool.mixtures.size)
        for lap in np.unique(laps).tolist():
            order = stream(seed, epoch, split, lap, purpose=1).permutation(pool.mixtures)
            chosen[laps == lap] = order[places[laps == lap]]
        spare = np.maximum(pool.source.lengths[chosen] - pool.num_samples, 0)
        offset = pick(uniforms(seed, epoch, split, indices, 1)[:, 0], spare + 1)
    shape = (indices.size, pool.num_sources)
    return {
        "index": indices,
        "corpus": np.zeros(shape, np.int8),
        "recording": np.tile(chosen[:, None], pool.num_sources),
        "offset": np.tile(offset[:, None], pool.num_sources),
        "class_ids": pool.source.classes[chosen],
        "active": np.ones(shape, bool),
        "snr": pool.source.snr[chosen],
    }


@render.register
def _render(pool: PremixedPool, recipes: Mapping[str, np.ndarray]) -> Arrays:
    premixed, batch, roles = pool.source, recipes["index"].size, 1 + pool.num_sources
    audio = np.asarray(premixed.audio)
    signals = np.zeros((batch, roles, pool.num_samples), np.float32)  # the mixture, then sources
    active = np.empty((batch, pool.num_sources), bool)
    snr = np.empty(batch, np.float32)
    recorded, offsets = recipes["recording"][:, 0], recipes["offset"][:, 0]
    lengths = np.minimum(premixed.lengths[recorded] - offsets, pool.num_samples)
    for b, (mixture, offset, length) in enumerate(zip(recorded, offsets, lengths, strict=True)):
        start, total = premixed.offsets[mixture], premixed.lengths[mixture]
        whole = audio[start : start + roles * total].reshape(roles, total)
        signals[b, :, :length] = whole[:, offset : offset + length]
        power = remove_mean(signals[b, :, :length])
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
        "lengths": lengths.astype(np.int32),
    }
