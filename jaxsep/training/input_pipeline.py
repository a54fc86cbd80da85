"""The training, validation and test mixtures of a run: opened, drawn, rendered, put on devices."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.data import synthetic as demo
from jaxsep.data.layouts import KNOWN, check_root
from jaxsep.data.mixtures import batches
from jaxsep.data.mixtures.dynamic import Arrays, draw, render
from jaxsep.data.mixtures.premixed import (
    PremixedPool,
    make_premixed_pool,
    premixed_table,
    prepare_premixed,
)
from jaxsep.data.mixtures.recipes import load_recipes, save_recipes
from jaxsep.data.mixtures.sampler import Pool, make_pool
from jaxsep.data.packs.corpus import ClassTable, Corpus, class_table, prepare
from jaxsep.errors import DataError, together
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
    *,
    speech_root: str,
    environment_root: str,
    premixed_root: str,
    premixed_roles: Sequence[str],
    synthetic: bool,
    cache_dir: str | Path,
    sample_rate: int,
    segment_seconds: float,
    slots: Sequence[str],
    active_counts: Sequence[float],
    max_snr_db: float,
    short_clips: str,
    mixtures_val: int,
    mixtures_test: int,
    eval_seed: int,
    pad_seconds: float,
    splits: Sequence[str] = ("train", *EVALUATED),
) -> InputPipeline:
    """Open the corpora that the slots name, packing them if needed, and draw the evaluated recipes.

    Args:
      splits: those wanted; the data need have no others.
      pad_seconds: of config.evaluation; all others are fields of config.data.

    Raises:
      DataError: naming the field or file and what would be right.
    """
    pools: dict[str, Pool | PremixedPool]
    if premixed_root:
        premixed = prepare_premixed(premixed_root, sample_rate, cache_dir, roles=premixed_roles)
        table, synthetic_sound = premixed_table(premixed), False
        pools = {
            split: make_premixed_pool(
                premixed, split=split, segment_seconds=segment_seconds if split == "train" else None
            )
            for split in splits
        }
    else:
        roots = {"speech": speech_root, "environment": environment_root}
        corpora = _open_corpora(roots, slots, Path(cache_dir), sample_rate, synthetic)
        table = class_table(list(corpora.values()))
        synthetic_sound = any(corpus.synthetic for corpus in corpora.values())
        pools = {
            split: make_pool(
                corpora,
                table,
                split=split,
                slots=slots,
                segment_seconds=segment_seconds,
                max_snr_db=max_snr_db,
                active_counts=active_counts,
                short_clips=short_clips,
            )
            for split in splits
        }
    _check_lengths(pools, segment_seconds)
    counts = {"val": mixtures_val, "test": mixtures_test}
    recipes = {
        split: draw(pool, eval_seed, 0, np.arange(pool.num_mixtures or counts[split]))
        for split, pool in pools.items()
        if split in EVALUATED
    }
    return InputPipeline(
        table,
        pools,
        recipes,
        sample_rate,
        max(1, round(pad_seconds * sample_rate)),
        synthetic_sound,
    )


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


def _open_corpora(
    roots: dict[str, str], slots: Sequence[str], cache_dir: Path, sample_rate: int, synthetic: bool
) -> dict[str, Corpus]:
    named = {part.split(":")[0].strip() for slot in slots for part in slot.split(",")}
    if unknown := sorted(named - roots.keys()):
        raise DataError(
            f"data.slots is {tuple(slots)}: {unknown[0]!r} is no corpus; "
            f"there are {' and '.join(roots)}"
        )
    problems = [_root_problem(name, roots[name], synthetic) for name in sorted(named)]
    if any(problems):
        raise DataError(together([problem for problem in problems if problem]))
    corpora = {}
    for name in sorted(named):
        root: str | Path = roots[name]
        if not root:
            folder = cache_dir / f"demo-{demo.DEMO_VERSION}-{sample_rate}"
            demo.make_demo(folder, sample_rate=sample_rate)
            root = folder / name
        corpora[name] = prepare(root, name, sample_rate, cache_dir)
    return corpora


def _root_problem(name: str, root: str, synthetic: bool) -> str:
    """What is wrong with a corpus's folder, as far as is known before its recordings are read."""
    field = f"data.{name}_root"
    if not root:
        return (
            ""
            if synthetic
            else (
                f"{field} is empty, it must be a folder of recordings "
                "(or --config.data.synthetic=True for generated sound)"
            )
        )
    try:
        check_root(Path(root), field, KNOWN)
    except DataError as error:
        return str(error)
    return ""
