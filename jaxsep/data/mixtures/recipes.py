"""Recipes: arrays that say what each mixture is made of, before any audio is read.

A recipe is a dict of arrays (B mixtures, N slots):

| key | shape, type | meaning |
| --- | --- | --- |
| index | [B] int64 | index of the mixture within its epoch |
| corpus | [B,N] int8 | index into `pool.corpus_names`; -1 inactive |
| recording | [B,N] int64 | recording within the corpus; -1 inactive |
| offset | [B,N] int64 | its sample at which the segment starts; negative: so many zeros first |
| class_ids | [B,N] int32 | index into the table of classes; -1 inactive |
| active | [B,N] bool | False: this slot holds no sound |
| snr | [B] float32, dB | power of the first active slot to the others; 0 where there is none |

Recipes of the validation and test sets are saved beside the results, so that anyone can tell which
mixtures were scored.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxsep.data.mixtures.sampler import AnyPool
from jaxsep.errors import DataError
from jaxsep.files import atomic_file, display, read_arrays

Arrays = dict[str, np.ndarray]
PER_MIXTURE = {"index": np.int64, "snr": np.float32}
PER_SLOT = {
    "corpus": np.int8,
    "recording": np.int64,
    "offset": np.int64,
    "class_ids": np.int32,
    "active": np.bool_,
}
TYPES = PER_MIXTURE | PER_SLOT
# What a file says of the pool, besides the recipes: with another pool they mean other mixtures.
POOL = ("corpus_names", "fingerprints", "split", "num_samples")


def uniforms(seed: int, epoch: int, stream: int, indices: np.ndarray, count: int) -> np.ndarray:
    """Numbers uniform in [0, 1), [B, count]; row b depends on the first three and indices[b] only.

    Each row is a stream of its own of the counter-based generator Philox, whose key and counter
    are used as they are: streams never overlap, and starting one costs no hashing of seeds.
    """
    key = np.array([seed, epoch], np.uint64)
    out = np.empty((indices.size, count))
    for row, index in zip(out, indices.tolist(), strict=True):
        # The lowest word counts up while numbers are drawn; the others name the stream.
        bits = np.random.Philox(key=key, counter=np.array([0, index, stream, 0], np.uint64))
        np.random.Generator(bits).random(out=row)
    return out


def save_recipes(path: str | os.PathLike, recipes: Mapping[str, np.ndarray], pool: AnyPool) -> None:
    """Write recipes, and which pool they are for, to an .npz file: completely or not at all.

    Raises:
      DataError: the file cannot be written.
    """
    about = {name: np.array(getattr(pool, name)) for name in POOL}
    try:
        with atomic_file(path) as stream:
            arrays = {name: recipes[name] for name in TYPES} | about
            np.savez_compressed(stream, allow_pickle=False, **arrays)
    except OSError as error:
        raise DataError(
            f"{display(path)}: cannot be written ({error.strerror or error})"
        ) from error


def load_recipes(path: str | os.PathLike, pool: AnyPool | None = None) -> Arrays:
    """Read recipes that `save_recipes` wrote.

    Args:
      pool: if given, the pool that they are to be rendered with.

    Raises:
      DataError: the file cannot be read; or it was made for other recordings, another split or
        another length than the pool has.
    """
    shown = display(path)
    try:
        stored = read_arrays(Path(path))
        recipes: Arrays = {
            name: stored[name].astype(kind, casting="safe") for name, kind in TYPES.items()
        }
        made_for = {name: stored[name].tolist() for name in POOL}
    except Exception as error:  # damaged bytes make zipfile and NumPy raise errors of a dozen kinds
        raise DataError(f"{shown}: holds no recipes that can be read ({error})") from error
    per_mixture, per_slot = recipes["index"].shape, recipes["active"].shape
    for name, array in recipes.items():
        wanted = per_mixture if name in PER_MIXTURE else per_slot
        if array.shape != wanted or per_slot[:-1] != per_mixture:
            raise DataError(f"{shown}: {name} has the shape {array.shape}; must be {wanted}")
    for name, value in made_for.items() if pool else ():
        right = np.array(getattr(pool, name)).tolist()
        if value != right:
            raise DataError(f"{shown}: {name} of the recipes is {value}; the pool has {right}")
    return recipes
