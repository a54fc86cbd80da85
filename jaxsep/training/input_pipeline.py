"""The training, validation and test mixtures of a run: opened, drawn, rendered, put on devices."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.data import synthetic as demo
from jaxsep.data.layouts import check_root
from jaxsep.data.mixtures import batches
from jaxsep.data.mixtures.dynamic import Arrays, draw, render
from jaxsep.data.mixtures.premixed import PremixedPool, make_premixed_pool
from jaxsep.data.mixtures.recipes import load_recipes, save_recipes
from jaxsep.data.mixtures.sampler import Pool, make_pool
from jaxsep.data.packs.format import ClassTable, Pack, class_table
from jaxsep.data.packs.packing import prepare
from jaxsep.errors import DataError, together
from jaxsep.files import default_cache
from jaxsep.training.devices import Devices


@dataclass(frozen=True, eq=False)
class InputPipeline:
    """The mixtures of every split.

    pools: split -> pool. recipes: 'val', 'test' -> all recipes of that split, drawn from
    data.eval_seed. pad: samples; evaluated mixtures are zero-padded to a multiple of it. kind: the
    label of all results, 'synthetic' where any sound is generated, else 'recordings'.
    """

    pools: dict[str, Pool | PremixedPool]
    recipes: dict[str, Arrays]
    pad: int
    kind: str

    @property
    def table(self) -> ClassTable:
        """The classes of all splits."""
        return self.pools["test"].table

    def scored_classes(self, split: str) -> list[int]:
        """Ids of the classes that occur in 'val' or 'test' beside another source."""
        recipes = self.recipes[split]
        several = np.sum(recipes["active"], axis=1) > 1
        return [int(i) for i in np.unique(recipes["class_ids"][several]) if i >= 0]

    def train_batches(
        self, devices: Devices, *, seed: int, batch_size: int, **where: Any
    ) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Training batches on the devices, without end, as (epoch, step, batch).

        where: the rest of what `jaxsep.data.mixtures.batches.batches` takes.
        """
        pool, rows = self.pools["train"], devices.rows(batch_size)

        def load(epoch: int, indices: np.ndarray) -> dict[str, Any]:
            return render(pool, draw(pool, seed, epoch, indices))

        return batches.batches(load, batch_size=batch_size, rows=rows, put=devices.shard, **where)

    def padded_lengths(self, split: str) -> np.ndarray:
        """[mixtures] samples of each mixture of 'val' or 'test' as the network is given it."""
        pool, recipes = self.pools[split], self.recipes[split]
        if isinstance(pool, Pool):
            return np.full(recipes["index"].size, pool.num_samples)
        return -(-pool.source.lengths[recipes["recording"][:, 0]] // self.pad) * self.pad

    def render(self, split: str, positions: np.ndarray, samples: int) -> Arrays:
        """Mixtures of 'val' or 'test' by their position, zero-padded to so many samples."""
        recipes = {name: array[positions] for name, array in self.recipes[split].items()}
        batch = render(self.pools[split], recipes)
        for name in ("mixture", "sources"):
            signals = batch[name][..., :samples]  # what this cuts is padding
            padded = np.zeros((*signals.shape[:-1], samples), signals.dtype)
            padded[..., : signals.shape[-1]] = signals
            batch[name] = padded
        return batch

    def eval_batches(
        self, devices: Devices, split: str, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """Batches on the devices that hold every mixture of 'val' or 'test' once.

        Mixtures of one padded length are scored together, so that few lengths are compiled. index
        is a mixture's position; valid is False for what fills up a short batch.
        """

        def load(samples: int, alike: np.ndarray, epoch: int, indices: np.ndarray) -> Arrays:
            return self.render(split, alike[indices], samples)

        lengths, rows = self.padded_lengths(split), devices.rows(batch_size)
        for samples in np.unique(lengths):
            alike = np.flatnonzero(lengths == samples)
            of_length = partial(load, int(samples), alike)
            yield from batches.eval_batches(
                of_length, alike.size, batch_size, rows=rows, put=devices.shard
            )

    def check_recipes(self, folder: Path) -> None:
        """Raise DataError where folder holds recipes that were drawn from other recordings."""
        for split in self.recipes:
            if (path := folder / f"{split}.npz").exists():
                load_recipes(path, self.pools[split])

    def save_recipes(self, folder: Path) -> None:
        """Write val.npz and test.npz."""
        for split, recipes in self.recipes.items():
            save_recipes(folder / f"{split}.npz", recipes, self.pools[split])


def open_pipeline(
    data: Any, *, pad_seconds: float, splits: Sequence[str] = ("train", "val", "test")
) -> InputPipeline:
    """Open the corpora that the slots name, packing them if needed, and draw the evaluated recipes.

    Args:
      data: the section `data` of a configuration.
      pad_seconds: of its section `evaluation`.
      splits: those wanted; the corpora need have no others.

    Raises:
      DataError: naming the field or file and what would be right.
    """
    cache_dir, synthetic = Path(data.cache_dir or default_cache()), False
    pools: dict[str, Pool | PremixedPool] = {}
    if data.premixed_root:
        premixed = prepare(
            data.premixed_root, "premixed", data.sample_rate, cache_dir, roles=data.premixed_roles
        )
        for split in splits:
            segment = data.segment_seconds if split == "train" else None
            pools[split] = make_premixed_pool(premixed, split=split, segment_seconds=segment)
    else:
        corpora = _open_corpora(data, cache_dir)
        synthetic = any(corpus.synthetic for corpus in corpora.values())
        fields = ("slots", "segment_seconds", "max_snr_db", "active_counts", "short_clips")
        options = {name: getattr(data, name) for name in fields}
        table = class_table(corpora.values())
        for split in splits:
            pools[split] = make_pool(corpora, table, split=split, **options)
    _check_lengths(pools, data.segment_seconds)
    recipes = {}
    for split, count in (("val", data.mixtures_val), ("test", data.mixtures_test)):
        if split in pools:
            indices = np.arange(pools[split].num_mixtures or count)
            recipes[split] = draw(pools[split], data.eval_seed, 0, indices)
            if recipes[split]["active"].sum(axis=1).max() < 2:
                raise DataError(
                    f"no mixture of {split} has two sources that sound, and SI-SDR improvement "
                    f"needs them: data.slots is {data.slots}, "
                    f"data.active_counts {data.active_counts}"
                )
    pad = max(1, round(pad_seconds * data.sample_rate))
    return InputPipeline(pools, recipes, pad, "synthetic" if synthetic else "recordings")


def _check_lengths(pools: Mapping[str, Pool | PremixedPool], segment_seconds: float) -> None:
    """Raise DataError where a pool has no recording as long as a segment: all would be padding."""
    problems = []
    for split, pool in pools.items():
        if isinstance(pool, Pool):
            drawn = zip(pool.corpora, pool.candidates, strict=True)
            lengths = np.concatenate([corpus.lengths[some.recordings] for corpus, some in drawn])
        else:
            lengths = pool.source.lengths[pool.mixtures]
        if lengths.max() < pool.num_samples:
            problems.append(
                f"data.segment_seconds is {segment_seconds:g}, but no {split} recording is that "
                "long, so that every mixture would be padded; it must be at most "
                f"{lengths.max() / pool.sample_rate:g}"
            )
    if problems:
        raise DataError(together(problems))


def _open_corpora(data: Any, cache_dir: Path) -> dict[str, Pack]:
    """The corpora that data.slots names, the demo corpus where a root is empty."""
    names = {part.split(":")[0].strip() for slot in data.slots for part in slot.split(",")}
    roots = {name: getattr(data, f"{name}_root") for name in sorted(names)}
    problems = []
    for name, root in roots.items():  # all of them before anything is packed
        try:
            if root:
                check_root(Path(root), name)
            elif not data.synthetic:
                raise DataError(
                    f"data.{name}_root is empty, it must be a folder of recordings "
                    "(or --config.data.synthetic=True for generated sound)"
                )
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError(together(problems))
    corpora = {}
    for name, root in roots.items():
        if not root:
            folder = cache_dir / f"demo-{demo.DEMO_VERSION}-{data.sample_rate}"
            demo.make_demo(folder, sample_rate=data.sample_rate)
            root = folder / name
        corpora[name] = prepare(root, name, data.sample_rate, cache_dir)
    return corpora
