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

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxsep.data.mixtures.sampler import AnyPool
from jaxsep.errors import DataError
from jaxsep.files import atomic_file, display, read_arrays

Arrays = dict[str, np.ndarray]
# What a file says of the pool, besides the recipes: with another pool they mean other mixtures.
POOL = ("corpus_names", "fingerprints", "split", "num_samples")


def stream(seed: int, epoch: int, split: int, index: int, purpose: int = 0) -> np.random.Generator:
    """Random numbers that depend on these integers alone, from the counter-based Philox.

    Key and counter are used as they are: streams never overlap, and starting one costs no hashing.
    """
    # The lowest word counts up while numbers are drawn; the others name the stream.
    counter = np.array([0, index, split, purpose], np.uint64)
    return np.random.Generator(
        np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=counter)
    )


def uniforms(seed: int, epoch: int, split: int, indices: np.ndarray, count: int) -> np.ndarray:
    """Numbers uniform in [0, 1), [B, count]; a `stream` of its own in each row."""
    out = np.empty((indices.size, count))
    for row, index in zip(out, indices.tolist(), strict=True):
        stream(seed, epoch, split, index).random(out=row)
    return out


def save_recipes(path: Path, recipes: Mapping[str, np.ndarray], pool: AnyPool) -> None:
    """Write recipes, and which pool they are for, to an .npz file: completely or not at all.

    Raises:
      OSError: the file cannot be written.
    """
    about = {name: np.array(getattr(pool, name)) for name in POOL}
    with atomic_file(path) as file:
        np.savez_compressed(file, allow_pickle=False, **recipes, **about)


def load_recipes(path: Path, pool: AnyPool) -> Arrays:
    """Read recipes that `save_recipes` wrote, to render them with a pool.

    Raises:
      DataError: the file cannot be read; or it was made for other recordings, another split or
        another length than the pool has.
    """
    try:
        stored = read_arrays(path)
        made_for = {name: stored.pop(name).tolist() for name in POOL}
    except Exception as error:  # damaged bytes make zipfile and NumPy raise errors of a dozen kinds
        raise DataError(f"{display(path)}: holds no recipes that can be read ({error})") from error
    for name, value in made_for.items():
        right = np.array(getattr(pool, name)).tolist()
        if value != right:
            raise DataError(
                f"{display(path)}: {name} of the recipes is {value}; the pool has {right}"
            )
    return stored
