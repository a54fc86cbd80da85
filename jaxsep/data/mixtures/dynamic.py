"""Dynamic mixing: `draw` makes the recipes of mixtures, `render` turns recipes into audio.

With sources s_n of zero mean and unit power (n = 0 the first active one), an SNR in dB and the
standard deviation d of the sum, a mixture is

    o = (s_0 + g · (s_1 + s_2 + …)) / d,    g = 10^(-SNR / 20)

`premixed` registers `draw` and `render` for sets whose mixtures lie ready on disk.
"""

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import numpy as np

from jaxsep.data.layouts import SPLITS
from jaxsep.data.levels import remove_mean
from jaxsep.data.mixtures.recipes import Arrays, uniforms
from jaxsep.data.mixtures.sampler import REDRAWS, pick_class, pick_offset, pick_recording

# Random numbers of a slot: its turn to be active, corpus, class, recording, tries for an offset.
PER_SLOT = 4 + 1 + REDRAWS


@singledispatch
def draw(pool: Any, seed: int, epoch: int, indices: np.ndarray) -> Arrays:
    """The recipes of mixtures `indices` of an epoch; their arrays are listed in `recipes`.

    A recipe depends on (seed, epoch, index) and the pool alone, not on the other indices.

    Args:
      pool: from `make_pool` or `make_premixed_pool`.
      seed, epoch: integers from 0.
      indices: [B] integers from 0.
    """
    indices, slots = np.asarray(indices, np.int64), pool.num_sources
    shape = (indices.size, slots)
    uniform = uniforms(seed, epoch, SPLITS.index(pool.split), indices, 2 + slots * PER_SLOT)
    snr = ((2 * uniform[:, 0] - 1) * pool.max_snr_db).astype(np.float32)
    count = 1 + np.searchsorted(pool.count_cdf[:-1], uniform[:, 1], side="right")
    per_slot = uniform[:, 2:].reshape(*shape, PER_SLOT)
    recipes = {
        "index": indices,
        "corpus": np.full(shape, -1, np.int8),
        "recording": np.full(shape, -1),
        "offset": np.zeros(shape, np.int64),
        "class_ids": np.full(shape, -1, np.int32),
        # Active are the slots with the `count` smallest numbers: any subset is equally likely.
        "active": per_slot[:, :, 0].argsort(axis=1).argsort(axis=1) < count[:, None],
        "snr": np.where(count > 1, snr, np.float32(0)),
    }
    classes = np.full(shape, -1)  # within the candidates of the corpus
    for slot in range(slots):
        chosen = np.searchsorted(pool.priors[slot][:-1], per_slot[:, slot, 1], side="right")
        for number in np.unique(chosen):
            candidates = pool.candidates[number]
            rows = np.flatnonzero(recipes["active"][:, slot] & (chosen == number))
            u, total = per_slot[rows, slot], candidates.class_ids.size
            same_corpus = recipes["corpus"][rows, :slot] == number
            taken = np.where(same_corpus, classes[rows, :slot], total)
            classes[rows, slot] = members = pick_class(u[:, 2], taken, total)
            recordings = pick_recording(u[:, 3], candidates, members)
            recipes["corpus"][rows, slot] = number
            recipes["class_ids"][rows, slot] = candidates.class_ids[members]
            recipes["recording"][rows, slot] = recordings
            recipes["offset"][rows, slot] = pick_offset(
                u[:, 4:], pool.corpora[number], candidates.loud_before, recordings, pool.num_samples
            )
    return recipes


@singledispatch
def render(pool: Any, recipes: Mapping[str, np.ndarray]) -> Arrays:
    """The audio of recipes.

    Sources and mixture have zero mean and are divided by the mixture's standard deviation; the
    mixture is the sum of the sources. A slot without sound is exactly zero: an inactive one, and
    one whose segment is constant, which is then reported as inactive. Never NaN.

    Returns:
      mixture float32 [B,T], sources float32 [B,N,T], class_ids int32 [B,N] (-1 inactive),
      active bool [B,N], snr float32 [B] dB, index int64 [B], lengths int32 [B] (samples that are
      no padding at the end).
    """
    batch, slots, samples = recipes["index"].size, pool.num_sources, pool.num_samples
    sources = np.empty((batch, slots, samples), np.float32)
    mixture = np.empty((batch, samples), np.float32)
    active = np.array(recipes["active"])
    first = active & (active.cumsum(axis=1) == 1)
    levels = np.where(first, 1.0, 10.0 ** (-recipes["snr"].astype(np.float64)[:, None] / 20.0))
    # Slicing an object of class memmap costs more than slicing an array.
    signals = [np.asarray(corpus.audio) for corpus in pool.corpora]
    for b, block in enumerate(sources):
        for n in range(slots):
            if not active[b, n]:
                block[n] = 0.0
                continue
            number, recording = recipes["corpus"][b, n], recipes["recording"][b, n]
            corpus, offset = pool.corpora[number], int(recipes["offset"][b, n])
            begin, length = int(corpus.offsets[recording]), int(corpus.lengths[recording])
            start, stop = max(offset, 0), min(offset + samples, length)
            if stop - start < samples:
                block[n] = 0.0
            segment = signals[number][begin + start : begin + stop]
            block[n, start - offset : stop - offset] = segment
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
