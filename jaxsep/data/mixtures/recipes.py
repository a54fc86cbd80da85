"""Recipes of mixtures: arrays that say what to render, drawn from (seed, epoch, index), kept in files.

A recipe is a dict of arrays (B mixtures, N slots):

| key | shape, type | meaning |
| --- | --- | --- |
| index | [B] int64 | index of the mixture within its epoch |
| corpus | [B,N] int8 | index into `pool.corpus_names` (sorted); -1 inactive |
| recording | [B,N] int64 | recording within the corpus; -1 inactive |
| offset | [B,N] int64 | its sample at which the segment starts; negative: a shorter clip starts that much later |
| class_ids | [B,N] int32 | index into the ClassTable; -1 inactive |
| active | [B,N] bool | False: this slot holds no sound |
| snr | [B] float32, dB | power of the first active slot to the others; 0 where fewer than two are active |
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from jaxsep.errors import DataError
from jaxsep.files import atomic_file, display, read_arrays

Arrays = dict[str, np.ndarray]
MAX_SNR_DB = 700.0  # beyond, float32 does not hold both of two sources
RECIPE_TYPES = {
    "index": np.int64,
    "corpus": np.int8,
    "recording": np.int64,
    "offset": np.int64,
    "class_ids": np.int32,
    "active": np.bool_,
    "snr": np.float32,
}


class AnyPool(Protocol):
    """What recipes need to know of a pool."""

    @property
    def corpus_names(self) -> tuple[str, ...]: ...

    @property
    def fingerprints(self) -> tuple[str, ...]: ...

    @property
    def recordings(self) -> tuple[int, ...]: ...

    @property
    def split(self) -> str: ...

    @property
    def num_samples(self) -> int: ...


def check_indices(seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """The indices as int64 [B]; DataError where seed, epoch or an index is no integer >= 0."""
    indices = np.asarray(indices)
    for name, value in (("seed", seed), ("epoch", epoch)):
        if not isinstance(value, (int, np.integer)) or not 0 <= value < 2**64:
            raise DataError(f"{name}: is {value!r}; must be an integer, at least 0 and below 2**64")
    if indices.ndim != 1 or indices.dtype.kind not in "iu" or (indices.size and indices.min() < 0):
        raise DataError(f"indices: are {indices!r}; must be a list of integers, each at least 0")
    return indices.astype(np.int64)


def uniforms(seed: int, epoch: int, stream: int, indices: np.ndarray, count: int) -> np.ndarray:
    """[B, count] numbers uniform in [0, 1): row b is a function of (seed, epoch, stream, indices[b]) alone.

    Each row has its own Generator. Philox takes key and counter as they are: equal numbers never come twice, and unlike
    a SeedSequence there is nothing to compute for each of 20,000 mixtures an epoch.
    """
    key = np.array([seed, epoch], np.uint64)
    out = np.empty((indices.size, count))
    for row, index in zip(out, indices.tolist(), strict=True):
        # The lowest word counts up while numbers are drawn; the others name the stream.
        bits = np.random.Philox(key=key, counter=np.array([0, index, stream, 0], np.uint64))
        np.random.Generator(bits).random(out=row)
    return out


def save_recipes(path: str | os.PathLike, recipes: Mapping[str, np.ndarray], pool: AnyPool) -> None:
    """Writes recipes, with the names and fingerprints of the pool's corpora, to an .npz file; all or nothing.

    Raises:
        DataError: the file cannot be written; names it.
    """
    about = {
        "corpus_names": np.array(pool.corpus_names),
        "fingerprints": np.array(pool.fingerprints),
        "split": np.array(pool.split),
        "num_samples": np.array(pool.num_samples),
    }
    try:
        with atomic_file(path) as stream:
            np.savez_compressed(
                stream,
                allow_pickle=False,
                **{name: recipes[name] for name in RECIPE_TYPES},
                **about,
            )
    except OSError as error:
        raise DataError(
            f"{display(path)}: cannot be written ({error.strerror or error})"
        ) from error


def load_recipes(path: str | os.PathLike, pool: AnyPool | None = None) -> Arrays:
    """Reads recipes back.

    Args:
        path: written by `save_recipes`.
        pool: if given, the pool they shall be rendered with.

    Raises:
        DataError: unreadable, damaged, or made with other corpora (by fingerprint), another split or segment length than
            the pool's; names the file.
    """
    shown = display(path)
    try:
        stored = read_arrays(Path(path))
        recipes: Arrays = {
            name: stored[name].astype(kind, casting="safe") for name, kind in RECIPE_TYPES.items()
        }
        made_with = (
            tuple(stored["corpus_names"].tolist()),
            tuple(stored["fingerprints"].tolist()),
            str(stored["split"]),
            int(stored["num_samples"]),
        )
    except Exception as error:  # damaged bytes make zipfile and NumPy raise errors of a dozen kinds
        raise DataError(f"{shown}: holds no recipes that can be read ({error})") from error
    batch, slots = recipes["index"].size, recipes["active"].shape[-1:]
    for name, array in recipes.items():
        if array.shape != ((batch,) if name in ("index", "snr") else (batch, *slots)):
            raise DataError(
                f"{shown}: {name} has the shape {array.shape}, which does not fit {batch} mixtures"
            )
    if pool is not None:
        wanted = (tuple(pool.corpus_names), tuple(pool.fingerprints), pool.split, pool.num_samples)
        for what, found, right in zip(
            ("corpora", "fingerprints", "split", "length"), made_with, wanted, strict=True
        ):
            if found != right:
                raise DataError(f"{shown}: {what} of the recipes are {found}; the pool has {right}")
    _check(recipes, pool, shown)
    return recipes


def _check(recipes: Arrays, pool: AnyPool | None, shown: str) -> None:
    """DataError unless every active slot names a recording that the pool has, every other -1 and nothing."""
    active, corpus, recording = recipes["active"], recipes["corpus"], recipes["recording"]
    least = np.where(active, 0, -1)
    sound = recipes["index"].min(initial=0) >= 0 and bool(
        (np.abs(recipes["snr"]) <= MAX_SNR_DB).all()
    )
    for name in ("corpus", "recording", "class_ids"):
        sound = sound and bool(((recipes[name] >= least) & (active | (recipes[name] == -1))).all())
    if sound and pool is not None:
        counts = np.array([*pool.recordings, 0])  # of no corpus, -1, there are none
        sound = bool((corpus < len(pool.recordings)).all()) and bool(
            (recording < counts[corpus]).all()
        )
    if not sound:
        raise DataError(
            f"{shown}: names recordings that there are not, or an SNR beyond ±{MAX_SNR_DB:g} dB"
        )
