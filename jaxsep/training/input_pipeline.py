"""The training, validation and test mixtures of an experiment, from its data settings."""

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
from jaxsep.data.mixtures.premixed import PremixedPool, make_premixed_pool
from jaxsep.data.mixtures.recipes import load_recipes, save_recipes
from jaxsep.data.mixtures.sampler import Pool, make_pool
from jaxsep.data.packs.corpus import ClassTable, Corpus, class_table, prepare
from jaxsep.data.packs.premixed import premixed_table, prepare_premixed
from jaxsep.errors import DataError, together
from jaxsep.training.devices import Devices

EVALUATED = ("val", "test")


@dataclass(frozen=True, eq=False)
class Sets:
    """Mixtures of every split. pools: split -> pool; recipes: 'val', 'test' -> all recipes of that split, drawn from
    data.eval_seed; pad: samples, evaluated mixtures are zero-padded to a multiple of it."""

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
        """The label of every output: 'synthetic' where any of the sound is made up, else 'recordings'."""
        return "synthetic" if self.synthetic else "recordings"

    def scored_classes(self, split: str) -> list[int]:
        """Ids of the classes that occur in 'val' or 'test' beside another source, where SI-SDR improvement means something."""
        recipes = self.recipes[split]
        several = np.sum(recipes["active"], axis=1) > 1
        return [int(i) for i in np.unique(recipes["class_ids"][several]) if i >= 0]

    def train_batches(
        self, devices: Devices, *, seed: int, batch_size: int, **where: Any
    ) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """(epoch, step, batch) without end, on the devices; `where` as in `jaxsep.data.mixtures.batches.batches`."""
        pool = self.pools["train"]

        def load(epoch: int, indices: np.ndarray) -> dict[str, Any]:
            return render(pool, draw(pool, seed, epoch, indices))

        rows = devices.rows(batch_size)
        return batches.batches(load, batch_size=batch_size, rows=rows, put=devices.divide, **where)

    def render(self, split: str, positions: Sequence[int] | np.ndarray) -> Arrays:
        """Mixtures of 'val' or 'test' by their position."""
        chosen = np.asarray(positions)
        return render(
            self.pools[split], {name: array[chosen] for name, array in self.recipes[split].items()}
        )

    def padded_lengths(self, split: str) -> np.ndarray:
        """[mixtures] samples that the network is given of each mixture of 'val' or 'test'."""
        pool, recipes = self.pools[split], self.recipes[split]
        if isinstance(pool, Pool):
            return np.full(recipes["index"].size, pool.num_samples)
        return -(-pool.source.lengths[recipes["recording"][:, 0]] // self.pad) * self.pad

    def groups(self, split: str) -> list[tuple[int, np.ndarray]]:
        """(samples, positions): the mixtures of 'val' or 'test' by their padded length: each is scored at its full length,
        and few lengths are compiled."""
        padded = self.padded_lengths(split)
        return [(int(samples), np.flatnonzero(padded == samples)) for samples in np.unique(padded)]

    def num_batches(self, split: str, batch_size: int) -> int:
        return sum(-(-positions.size // batch_size) for _, positions in self.groups(split))

    def eval_batches(
        self, devices: Devices, split: str, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """Every mixture of 'val' or 'test' once, on the devices; index is its position, valid marks the padding of short
        batches."""
        rows = devices.rows(batch_size)

        def load(
            samples: int, positions: np.ndarray, _: int, indices: np.ndarray
        ) -> dict[str, Any]:
            batch = self.render(split, positions[indices])
            fitted = {name: _fit(batch[name], samples) for name in ("mixture", "sources")}
            return {**batch, **fitted, "index": positions[indices]}

        for samples, positions in self.groups(split):
            job = partial(load, samples, positions)
            yield from batches.eval_batches(
                job, positions.size, batch_size, rows=rows, put=devices.divide
            )

    def same_in_every_mixture(self, gamma: np.ndarray) -> bool:
        """Whether the mean of gamma [classes] over a mixture's sources is one and the same for all training mixtures."""
        pool = self.pools["train"]
        if not isinstance(pool, Pool):
            return False
        if np.any(np.diff(pool.count_cdf, prepend=0.0)[:-1] > 0) or np.any(
            (pool.priors > 0) & (pool.priors < 1)
        ):
            return False
        corpora = [pool.corpus_names[int(np.argmax(prior))] for prior in pool.priors]
        values = [
            {float(g) for g, name in zip(gamma, self.table.corpora, strict=True) if name == corpus}
            for corpus in corpora
        ]
        return all(len(of_slot) == 1 for of_slot in values)

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


def _fit(signals: np.ndarray, samples: int) -> np.ndarray:
    """Cut or zero-pad the last axis to `samples`; what is cut is padding."""
    missing = max(0, samples - signals.shape[-1])
    return np.pad(signals, [(0, 0)] * (signals.ndim - 1) + [(0, missing)])[..., :samples]


def open_sets(
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
) -> Sets:
    """Packs or opens the corpora that the slots name, and draws the validation and test recipes.

    Args: the fields of config.data, described in configs/default.py; pad_seconds of config.evaluation; splits: those wanted,
      the data need have no others.

    Raises:
      DataError: naming the field or file and what would be right.
    """
    pools: dict[str, Pool | PremixedPool]
    if premixed_root:
        premixed = prepare_premixed(premixed_root, sample_rate, cache_dir, roles=premixed_roles)
        table, made_up = premixed_table(premixed), False
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
        made_up = any(corpus.synthetic for corpus in corpora.values())
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
    return Sets(
        table, pools, recipes, sample_rate, max(1, round(pad_seconds * sample_rate)), made_up
    )


def _check_lengths(pools: Mapping[str, Pool | PremixedPool], segment_seconds: float) -> None:
    """Raise DataError where no recording of a split, or no mixture of a premixed set, is as long as a segment."""
    found = []
    for split, pool in pools.items():
        if isinstance(pool, Pool):
            used = np.any(np.diff(pool.priors, axis=1, prepend=0.0) > 0, axis=0)
            drawn = zip(pool.corpora, pool.candidates, used, strict=True)
            lengths = [corpus.lengths[chosen.recordings] for corpus, chosen, use in drawn if use]
        else:
            lengths = [pool.source.lengths[pool.mixtures]]
        longest = max(int(of_corpus.max()) for of_corpus in lengths if of_corpus.size)
        if longest < pool.num_samples:
            found.append(
                f"data.segment_seconds is {segment_seconds:g}, but no {split} recording is that long, so that every mixture "
                f"would be padded; it must be at most {longest / pool.sample_rate:g}"
            )
    if found:
        raise DataError(together(found))


def _open_corpora(
    roots: dict[str, str], slots: Sequence[str], cache_dir: Path, sample_rate: int, synthetic: bool
) -> dict[str, Corpus]:
    named = {part.split(":")[0].strip() for slot in slots for part in slot.split(",")}
    if unknown := sorted(named - roots.keys()):
        raise DataError(
            f"data.slots is {tuple(slots)}: {unknown[0]!r} is no corpus; there are {' and '.join(roots)}"
        )
    if problems := [
        message
        for name in sorted(named)
        if (message := _root_problem(name, roots[name], synthetic))
    ]:
        raise DataError(together(problems))
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
    """What is wrong with a corpus's folder, as far as that is known before its recordings are read."""
    field = f"data.{name}_root"
    if not root:
        wanted = "it must be a folder of recordings (or --config.data.synthetic=True for generated sound)"
        return "" if synthetic else f"{field} is empty, {wanted}"
    try:
        check_root(Path(root), field, KNOWN)
    except DataError as error:
        return str(error)
    return ""
