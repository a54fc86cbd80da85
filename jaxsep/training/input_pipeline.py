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

EVALUATED = ("val", "test")


@dataclass(frozen=True, eq=False)
class InputPipeline:
    """The mixtures of every split.

    pools: split -> pool. recipes: 'val', 'test' -> all recipes of that split, drawn from
    data.eval_seed. pad: samples; evaluated mixtures are zero-padded to a multiple of it.
    """

    table: ClassTable
    pools: dict[str, Pool | PremixedPool]
    recipes: dict[str, Arrays]
    sample_rate: int
    pad: int
    synthetic: bool

    @property
    def num_sources(self) -> int:
        return self.pools["test"].num_sources

    @property
    def num_samples(self) -> int:
        """T of a training mixture."""
        return self.pools["train"].num_samples

    @property
    def kind(self) -> str:
        """The label of all results: 'synthetic' where any sound is generated, else 'recordings'."""
        return "synthetic" if self.synthetic else "recordings"

    def scored_classes(self, split: str) -> list[int]:
        """Ids of the classes that occur in 'val' or 'test' beside another source."""
        recipes = self.recipes[split]
        several = np.sum(recipes["active"], axis=1) > 1
        return [int(i) for i in np.unique(recipes["class_ids"][several]) if i >= 0]

    def same_in_every_mixture(self, gamma: np.ndarray) -> bool:
        """Whether gamma [classes], averaged over its sources, is the same for every training
        mixture."""
        pool = self.pools["train"]
        if not isinstance(pool, Pool):
            return False
        varying_count = np.any(np.diff(pool.count_cdf, prepend=0.0)[:-1] > 0)
        varying_corpus = np.any((pool.priors > 0) & (pool.priors < 1))
        if varying_count or varying_corpus:
            return False
        of_slots = [pool.corpus_names[int(np.argmax(prior))] for prior in pool.priors]
        corpora = np.array(self.table.corpora)
        return all(np.unique(gamma[corpora == corpus]).size == 1 for corpus in of_slots)

    def train_batches(
        self, devices: Devices, *, seed: int, batch_size: int, **where: Any
    ) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Training batches on the devices, without end, as (epoch, step, batch).

        where: the rest of what `jaxsep.data.mixtures.batches.batches` takes.
        """
        pool = self.pools["train"]

        def load(epoch: int, indices: np.ndarray) -> dict[str, Any]:
            return render(pool, draw(pool, seed, epoch, indices))

        rows = devices.rows(batch_size)
        return batches.batches(load, batch_size=batch_size, rows=rows, put=devices.divide, **where)

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
            missing = samples - signals.shape[-1]
            batch[name] = np.pad(signals, [(0, 0)] * (signals.ndim - 1) + [(0, missing)])
        return {**batch, "index": positions}

    def _by_length(self, split: str) -> list[tuple[int, np.ndarray]]:
        """(samples, positions): mixtures of one padded length are scored together, so that few
        lengths are compiled."""
        padded = self.padded_lengths(split)
        return [(int(samples), np.flatnonzero(padded == samples)) for samples in np.unique(padded)]

    def num_batches(self, split: str, batch_size: int) -> int:
        """How many batches `eval_batches` gives."""
        groups = self._by_length(split)
        return sum(-(-positions.size // batch_size) for _, positions in groups)

    def eval_batches(
        self, devices: Devices, split: str, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """Batches on the devices that hold every mixture of 'val' or 'test' once.

        index is a mixture's position; valid is False for what fills up a short batch.
        """

        def load(
            samples: int, positions: np.ndarray, epoch: int, indices: np.ndarray
        ) -> dict[str, Any]:
            return self.render(split, positions[indices], samples)

        rows = devices.rows(batch_size)
        for samples, positions in self._by_length(split):
            yield from batches.eval_batches(
                partial(load, samples, positions),
                positions.size,
                batch_size,
                rows=rows,
                put=devices.divide,
            )

    def check_recipes(self, folder: Path) -> None:
        """Raise DataError where folder holds recipes that were drawn from other recordings."""
        for split in self.recipes:
            path = folder / f"{split}.npz"
            if path.exists():
                load_recipes(path, self.pools[split])

    def save_recipes(self, folder: Path) -> None:
        """Write val.npz and test.npz."""
        for split, recipes in self.recipes.items():
            save_recipes(folder / f"{split}.npz", recipes, self.pools[split])


def open_pipeline(
    data: Any, *, pad_seconds: float, splits: Sequence[str] = ("train", *EVALUATED)
) -> InputPipeline:
    """Open the corpora that the slots name, packing them if needed, and draw the evaluated recipes.

    Args:
      data: the section `data` of a configuration.
      pad_seconds: of its section `evaluation`.
      splits: those wanted; the corpora need have no others.

    Raises:
      DataError: naming the field or file and what would be right.
    """
    pools: dict[str, Pool | PremixedPool] = {}
    cache_dir = Path(data.cache_dir or default_cache())
    if data.premixed_root:
        premixed = prepare(
            data.premixed_root, "premixed", data.sample_rate, cache_dir, roles=data.premixed_roles
        )
        table, synthetic = class_table([premixed]), premixed.synthetic
        for split in splits:
            segment = data.segment_seconds if split == "train" else None
            pools[split] = make_premixed_pool(premixed, split=split, segment_seconds=segment)
    else:
        corpora = _open_corpora(data, cache_dir)
        table = class_table(corpora.values())
        synthetic = any(corpus.synthetic for corpus in corpora.values())
        for split in splits:
            pools[split] = make_pool(
                corpora,
                table,
                split=split,
                slots=data.slots,
                segment_seconds=data.segment_seconds,
                max_snr_db=data.max_snr_db,
                active_counts=data.active_counts,
                short_clips=data.short_clips,
            )
    _check_lengths(pools, data.segment_seconds)
    recipes = {}
    for split, count in (("val", data.mixtures_val), ("test", data.mixtures_test)):
        if split in pools:
            indices = np.arange(pools[split].num_mixtures or count)
            recipes[split] = draw(pools[split], data.eval_seed, 0, indices)
    pad = max(1, round(pad_seconds * data.sample_rate))
    return InputPipeline(table, pools, recipes, data.sample_rate, pad, synthetic)


def _check_lengths(pools: Mapping[str, Pool | PremixedPool], segment_seconds: float) -> None:
    """Raise DataError where no recording or premixed mixture of a split is as long as a segment."""
    problems = []
    for split, pool in pools.items():
        if isinstance(pool, Pool):
            used = np.any(np.diff(pool.priors, axis=1, prepend=0.0) > 0, axis=0)
            drawn = zip(pool.corpora, pool.candidates, used, strict=True)
            lengths = [corpus.lengths[chosen.recordings] for corpus, chosen, use in drawn if use]
        else:
            lengths = [pool.source.lengths[pool.mixtures]]
        longest = max(int(of_corpus.max()) for of_corpus in lengths if of_corpus.size)
        if longest < pool.num_samples:
            problems.append(
                f"data.segment_seconds is {segment_seconds:g}, but no {split} recording is that "
                "long, so that every mixture would be padded; it must be at most "
                f"{longest / pool.sample_rate:g}"
            )
    if problems:
        raise DataError(together(problems))


def _open_corpora(data: Any, cache_dir: Path) -> dict[str, Pack]:
    roots = {"speech": data.speech_root, "environment": data.environment_root}
    named = {part.split(":")[0].strip() for slot in data.slots for part in slot.split(",")}
    if unknown := sorted(named - roots.keys()):
        raise DataError(
            f"data.slots is {tuple(data.slots)}: {unknown[0]!r} is no corpus; "
            f"there are {' and '.join(roots)}"
        )
    problems = []
    for name in sorted(named):
        field = f"data.{name}_root"
        if not roots[name] and not data.synthetic:
            problems.append(
                f"{field} is empty, it must be a folder of recordings "
                "(or --config.data.synthetic=True for generated sound)"
            )
        elif roots[name]:
            try:
                check_root(Path(roots[name]), name)
            except DataError as error:
                problems.append(str(error))
    if problems:
        raise DataError(together(problems))
    corpora = {}
    for name in sorted(named):
        root = roots[name]
        if not root:
            folder = cache_dir / f"demo-{demo.DEMO_VERSION}-{data.sample_rate}"
            demo.make_demo(folder, sample_rate=data.sample_rate)
            root = folder / name
        corpora[name] = prepare(root, name, data.sample_rate, cache_dir)
    return corpora
