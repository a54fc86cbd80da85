"""Mixtures drawn on the fly: recipes as pure functions of (seed, epoch, index), then rendered to audio.

A recipe takes, slot by slot: a corpus by the slot's prior, a class uniformly (never one that the mixture already has), a
recording of it uniformly, an offset uniformly. One SNR, uniform in [-max, +max] dB, is the power ratio of the first
active slot to each other active slot, powers taken over the segment after its mean is removed.

`draw` and `render` serve premixed sets too (see `premixed`): they look at the type of the pool. `recipes` describes the
arrays between the two.
"""

from collections.abc import Mapping
from functools import singledispatch

import numpy as np

from jaxsep.data.layouts import SPLITS
from jaxsep.data.mixtures.recipes import Arrays, check_indices, load_recipes, save_recipes, uniforms
from jaxsep.data.mixtures.sampler import Candidates, Pool, make_pool
from jaxsep.data.packs.corpus import Corpus, frame_size

__all__ = ["Candidates", "Pool", "draw", "load_recipes", "make_pool", "render", "save_recipes"]

REDRAWS = 8
# What is left of a constant after its float32 mean is removed is rounding noise, not sound.
ROUNDING = 1e-10
# Uniform numbers a slot takes: its turn to be active, corpus, class, recording, then the tries for an offset.
PER_SLOT = 4 + 1 + REDRAWS


@singledispatch
def draw(pool, seed: int, epoch: int, indices: np.ndarray) -> Arrays:
    """Draws the recipes of mixtures `indices` [B] of an epoch.

    A recipe depends on (seed, epoch, index) and the pool's split alone, not on the other indices. A crop that is silent
    (below -60 dB of its recording's loudest 0.1 s throughout) is drawn again at most 8 times, then its recording's
    loudest position is taken.

    Args:
        pool: from `make_pool`, or `premixed.make_premixed_pool`.
        seed, epoch: integers, at least 0.
        indices: [B] integers, at least 0.

    Returns:
        recipes: see `recipes`.
    """
    raise TypeError(
        f"pool: is a {type(pool).__name__}; must come from make_pool or make_premixed_pool"
    )


@singledispatch
def render(pool, recipes: Mapping[str, np.ndarray]) -> Arrays:
    """Turns recipes into audio.

    Sources and mixture have zero mean and are divided by the mixture's standard deviation; the mixture is the sum of the
    sources. A slot without sound is exactly zero: an inactive one, and one whose segment turned out constant, which is
    then reported inactive. Never NaN.

    Returns:
        mixture float32 [B,T], sources float32 [B,N,T], class_ids int32 [B,N] (-1 inactive), active bool [B,N],
        snr float32 [B] dB, index int64 [B], lengths int32 [B] (samples that are not padding at the end)
    """
    raise TypeError(
        f"pool: is a {type(pool).__name__}; must come from make_pool or make_premixed_pool"
    )


@draw.register
def _draw(pool: Pool, seed: int, epoch: int, indices: np.ndarray) -> Arrays:
    indices = check_indices(seed, epoch, indices)
    batch, slots = indices.size, pool.num_sources
    uniform = uniforms(seed, epoch, SPLITS.index(pool.split), indices, 2 + slots * PER_SLOT)
    snr = ((2 * uniform[:, 0] - 1) * pool.max_snr_db).astype(np.float32)
    count = 1 + np.searchsorted(pool.count_cdf[:-1], uniform[:, 1], side="right")
    per_slot = uniform[:, 2:].reshape(batch, slots, -1)
    # The `count` slots with the smallest of N uniform numbers: every subset of that size is equally likely.
    active = per_slot[:, :, 0].argsort(axis=1).argsort(axis=1) < count[:, None]
    corpus = np.full((batch, slots), -1, np.int8)
    local = np.full((batch, slots), -1)
    recording = np.full((batch, slots), -1)
    offset = np.zeros((batch, slots), np.int64)
    class_ids = np.full((batch, slots), -1, np.int32)
    for slot in range(slots):
        chosen = np.searchsorted(pool.priors[slot][:-1], per_slot[:, slot, 1], side="right")
        for number, candidates in enumerate(pool.candidates):
            rows = np.flatnonzero(active[:, slot] & (chosen == number))
            if not rows.size:
                continue
            taken = np.where(
                corpus[rows, :slot] == number, local[rows, :slot], candidates.class_ids.size
            )
            classes = _unused(per_slot[rows, slot, 2], taken, candidates.class_ids.size)
            first, last = candidates.starts[classes], candidates.starts[classes + 1]
            recordings = candidates.recordings[first + _pick(per_slot[rows, slot, 3], last - first)]
            corpus[rows, slot], local[rows, slot], recording[rows, slot] = (
                number,
                classes,
                recordings,
            )
            class_ids[rows, slot] = candidates.class_ids[classes]
            offset[rows, slot] = _offsets(pool, number, recordings, per_slot[rows, slot, 4:])
    return {
        "index": indices,
        "corpus": corpus,
        "recording": recording,
        "offset": offset,
        "class_ids": class_ids,
        "active": active,
        "snr": np.where(active.sum(axis=1) > 1, snr, np.float32(0)),
    }


@render.register
def _render(pool: Pool, recipes: Mapping[str, np.ndarray]) -> Arrays:
    batch, slots, samples = recipes["index"].size, pool.num_sources, pool.num_samples
    sources = np.empty((batch, slots, samples), np.float32)
    mixture = np.empty((batch, samples), np.float32)
    active = np.array(recipes["active"], bool)
    # Level of each slot: 0 dB for the first active one, -snr for the others.
    first = active & (active.cumsum(axis=1) == 1)
    levels = np.where(first, 1.0, 10.0 ** (-recipes["snr"].astype(np.float64)[:, None] / 20.0))
    signals = [
        np.asarray(corpus.audio) for corpus in pool.corpora
    ]  # slicing a memmap object itself costs more
    for b in range(batch):
        block = sources[b]
        for n in range(slots):
            if active[b, n]:
                number, recording = recipes["corpus"][b, n], recipes["recording"][b, n]
                start = pool.corpora[number].offsets[recording]
                stop = start + pool.corpora[number].lengths[recording]
                copy_segment(signals[number][start:stop], int(recipes["offset"][b, n]), block[n])
            else:
                block[n] = 0.0
        power = remove_mean(block)
        active[b] &= power > 0
        block *= (levels[b] / np.sqrt(np.where(power > 0, power, 1.0))).astype(np.float32)[:, None]
        np.sum(block, axis=0, out=mixture[b])
        variance = float(np.einsum("t,t->", mixture[b], mixture[b])) / samples
        block *= np.float32(1.0 / np.sqrt(variance)) if variance > 0 else np.float32(0)
        np.sum(block, axis=0, out=mixture[b])
    return {
        "mixture": mixture,
        "sources": sources,
        "class_ids": np.where(active, recipes["class_ids"], np.int32(-1)),
        "active": active,
        "snr": recipes["snr"],
        "index": recipes["index"],
        "lengths": np.full(batch, samples, np.int32),
    }


def copy_segment(signal: np.ndarray, offset: int, out: np.ndarray) -> None:
    """Fills `out` [T] with `signal` from `offset` on; zeros before sample 0 and after the last."""
    start, stop = max(offset, 0), min(offset + out.size, signal.size)
    if stop - start == out.size:
        out[:] = signal[start:stop]
        return
    out[:] = 0.0
    if stop > start:
        out[start - offset : stop - offset] = signal[start:stop]


def remove_mean(block: np.ndarray) -> np.ndarray:
    """Removes the mean of each row of `block` [N,T] in place; returns the mean power left, float64 [N].

    A constant row becomes exactly zero with power 0.
    """
    means = block.mean(axis=1, keepdims=True)
    block -= means
    power = np.einsum("nt,nt->n", block, block).astype(np.float64) / block.shape[1]
    power[power <= ROUNDING * means[:, 0].astype(np.float64) ** 2] = 0.0
    block[power == 0] = 0.0
    return power


def power_ratio(power: np.ndarray) -> float:
    """Power of source 0 to source 1, dB; 0 where there is no such ratio."""
    return (
        float(10 * np.log10(power[0] / power[1])) if power.size > 1 and power[:2].min() > 0 else 0.0
    )


def _pick(uniform: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Integers uniform in [0, count), from numbers uniform in [0, 1)."""
    # The minimum, because u * count may round up to count.
    return np.minimum((uniform * count).astype(np.int64), count - 1)


def _unused(uniform: np.ndarray, taken: np.ndarray, count: int) -> np.ndarray:
    """For each row, one of the classes 0...count-1, uniform over those not in `taken` [M,n] (`count` stands for none)."""
    taken = np.sort(taken, axis=1)
    chosen = _pick(uniform, count - (taken < count).sum(axis=1))
    for column in taken.T:
        chosen += chosen >= column
    return chosen


def _offsets(pool: Pool, number: int, recordings: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The first of the tries `uniform` [M, 1 + REDRAWS] that is not silent, else the loudest position: int64 [M]."""
    corpus, loud_before = pool.corpora[number], pool.candidates[number].loud_before
    spare = corpus.lengths[recordings] - pool.num_samples
    tries = _pick(uniform, np.abs(spare)[:, None] + 1)
    first, last = _whole_frames(
        corpus, recordings[:, None], np.minimum(tries, spare[:, None]), pool.num_samples
    )
    # A shorter clip is in the segment as a whole, its loudest 0.1 s with it.
    heard = (loud_before[last] > loud_before[first]) | (spare < 0)[:, None]
    offsets = np.where(
        spare < 0,
        -tries[:, 0],
        np.take_along_axis(tries, heard.argmax(axis=1)[:, None], axis=1)[:, 0],
    )
    for row in np.flatnonzero(~heard.any(axis=1)):
        offsets[row] = _loudest_position(corpus, int(recordings[row]), pool.num_samples)
    return offsets


def _whole_frames(
    corpus: Corpus, recordings: np.ndarray, offsets: np.ndarray, num_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """First and last + 1 of the 0.1 s frames that lie in the segment (that touch it, where it is too short for one)."""
    size = frame_size(corpus.sample_rate)
    end = offsets + num_samples
    first = -(-offsets // size)
    last = np.where(end >= corpus.lengths[recordings], -(-end // size), end // size)
    short = last <= first
    base, top = corpus.energy_offsets[recordings], corpus.energy_offsets[recordings + 1]
    first = np.clip(base + np.where(short, offsets // size, first), base, top)
    return first, np.clip(base + np.where(short, -(-end // size), last), base, top)


def _loudest_position(corpus: Corpus, recording: int, num_samples: int) -> int:
    """Offset, on the grid of 0.1 s, of the segment with the most energy."""
    size, length = frame_size(corpus.sample_rate), int(corpus.lengths[recording])
    energies = corpus.energies[
        corpus.energy_offsets[recording] : corpus.energy_offsets[recording + 1]
    ]
    edges = np.minimum(np.arange(energies.size + 1) * size, length)
    before = np.append(0.0, np.cumsum(energies, dtype=np.float64))
    starts = np.minimum(edges[:-1], length - num_samples)
    gains = np.interp(starts + num_samples, edges, before) - np.interp(starts, edges, before)
    return int(starts[gains.argmax()])
