"""Steps whose loss or gradient was no number: what is kept of them, and how they are replayed.

A skipped step changes nothing of the state but its count. Of the first few a run keeps in its folder

    skipped/epochE-stepS.npz    the recipes of the batch, E and S counting from 1
    skipped/epochE-stepS/       the state that it met, as a checkpoint

so that the step can be taken again as it was.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsep import models
from jaxsep.data.mixtures.dynamic import Arrays, draw, render
from jaxsep.data.mixtures.recipes import load_recipes, save_recipes
from jaxsep.data.mixtures.sampler import Pool
from jaxsep.evaluation.tables import table
from jaxsep.training.build import Parts, build_loss, build_step, fresh_state
from jaxsep.training.checkpoint import read_checkpoint, write_checkpoint
from jaxsep.training.devices import Devices
from jaxsep.training.state import TrainState

FOLDER = "skipped"
MOST_KEPT = 10  # a state is some MB; all skipped steps are in metrics.jsonl


class Place(NamedTuple):
    """A step of a run; both count from 0."""

    epoch: int
    step: int

    @property
    def name(self) -> str:
        return f"epoch{self.epoch + 1}-step{self.step + 1}"


def keep(workdir: Path, parts: Parts, after: TrainState, place: Place, count: int) -> str:
    """Keep what replays a step, unless `count`, the steps skipped so far, is large. Returns a line about it.

    Args:
      after: the state behind the step.

    Raises:
      RunError, DataError: it cannot be written.
    """
    happened = f"epoch {place.epoch + 1}, step {place.step + 1}: skipped, its loss or gradient is no number"
    if count > MOST_KEPT:
        return f"{happened} (number {count}; the first {MOST_KEPT} are kept in {workdir / FOLDER})"
    config, pool = parts.config, parts.sets.pools["train"]
    size = config.train.batch_size
    recipes = draw(
        pool, config.seed, place.epoch, np.arange(place.step * size, (place.step + 1) * size)
    )
    folder = workdir / FOLDER / place.name
    if not folder.exists():  # a run that went on from before it gets here again
        before = dataclasses.replace(after, step=after.step - 1)
        write_checkpoint(folder, before, {"epoch": place.epoch, "step": place.step})
    save_recipes(
        folder.with_name(f"{place.name}.npz"), recipes, pool
    )  # last: it says that the step is there
    return f"{happened}; {_command(parts, workdir)} shows why"


def too_many(parts: Parts, workdir: Path, in_a_row: int) -> str:
    """What is said when a run stops for it."""
    return (
        f"{in_a_row} steps in a row had a loss or gradient that is no number (train.max_skipped). The parameters of before are "
        f"saved in {workdir}/checkpoints; {_command(parts, workdir)} shows what they had to do"
    )


def _command(parts: Parts, workdir: Path) -> str:
    family = parts.config.model.family
    trust = "" if family in models.FAMILIES else f" --config.model.family={family}"
    return f"python -m jaxsep.main --mode replay --workdir {workdir}{trust}"


def replay(parts: Parts, workdir: Path, devices: Devices) -> None:
    """Take every skipped step that was kept again, and print what each of its mixtures does.

    Raises:
      RunError: a kept step is damaged or incomplete.
      DataError: its recipes are damaged, or of other recordings.
    """
    tx, step = build_step(parts, devices)
    train_step, look = devices.train_step(step), jax.jit(_look(parts))
    places = sorted((workdir / FOLDER).glob("epoch*-step*.npz"), key=_order)
    like = fresh_state(parts, tx)
    for path in places:
        state, progress = read_checkpoint(path.with_suffix(""), like)
        batch = render(
            parts.sets.pools["train"], recipes := load_recipes(path, parts.sets.pools["train"])
        )
        rows = devices.rows(parts.config.train.batch_size)
        mine = {name: array[rows] for name, array in batch.items()}
        _, metrics = train_step(
            devices.copy(state), devices.divide(mine), np.int32(progress["epoch"])
        )
        values = {name: float(metrics[name]) for name in ("loss", "grad_norm", "skipped")}
        verdict = (
            "skipped again"
            if values["skipped"]
            else "finite now, on other devices or with other versions"
        )
        print(
            f"\nepoch {progress['epoch'] + 1}, step {progress['step'] + 1}: loss {values['loss']:.4g} dB, "
            f"gradient norm {values['grad_norm']:.4g}: {verdict}"
        )
        _show(
            parts,
            recipes,
            [look(state.params, _one(batch, n)) for n in range(recipes["index"].size)],
        )


def _order(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.stem)]


def _look(parts: Parts) -> Any:
    """(params, batch of one) -> the loss of the mixture, its gradient's norm, and whether its estimates are finite."""
    loss_fn = build_loss(parts)

    def look(params: Any, batch: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        loss, grads = jax.value_and_grad(lambda p: jnp.mean(loss_fn(p, batch)[0]))(params)
        estimates = parts.module.apply({"params": params}, batch["mixture"])
        return loss, optax.tree.norm(grads), jnp.isfinite(estimates).all()

    return look


def _one(batch: Arrays, n: int) -> Arrays:
    return {name: array[n : n + 1] for name, array in batch.items()}


def _show(parts: Parts, recipes: Arrays, found: list[tuple[Any, Any, Any]]) -> None:
    lines, bad = [], []
    for n, (loss, gradient, finite) in enumerate(found):
        index = int(recipes["index"][n])
        if not (np.isfinite(loss) and np.isfinite(gradient)):
            bad.append(str(index))
        numbers = [
            f"{float(loss):.2f}",
            f"{float(gradient):.3g}",
            "finite" if finite else "not finite",
        ]
        lines.append([str(index), *numbers, _recordings(parts, recipes, n)])
    print(table(["mixture", "loss (dB)", "|gradient|", "estimates", "recordings"], lines))
    print(
        f"no numbers from mixture {', '.join(bad)}"
        if bad
        else "every mixture by itself gives numbers"
    )


def _recordings(parts: Parts, recipes: Arrays, n: int) -> str:
    """Which recordings a mixture is made of, and where its segment starts in each."""
    pool = parts.sets.pools["train"]
    if not isinstance(pool, Pool):
        return pool.source.paths[recipes["recording"][n, 0]]
    slots = zip(recipes["corpus"][n], recipes["recording"][n], recipes["offset"][n], strict=True)
    return ", ".join(
        f"{pool.corpora[corpus].paths[recording]} at {offset / pool.sample_rate:.3f} s"
        for corpus, recording, offset in slots
        if corpus >= 0
    )
