"""Skipped steps, whose loss or gradient was not finite: what is kept of them, and their replay.

A skipped step changes nothing in the state but the count of steps. Of the first few, a run keeps

    skipped/epochE-stepS.npz    the recipes of the batch, E and S counting from 1
    skipped/epochE-stepS/       the state that the step met, as a checkpoint

so that each can be taken again as it was.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsep import models
from jaxsep.console import progress as progress_bar
from jaxsep.data.mixtures.dynamic import Arrays, draw, render
from jaxsep.data.mixtures.recipes import load_recipes, save_recipes
from jaxsep.data.mixtures.sampler import Pool
from jaxsep.evaluation.tables import table
from jaxsep.training.build import Components, build_loss, build_step, fresh_state
from jaxsep.training.checkpoint import read_checkpoint, write_checkpoint
from jaxsep.training.devices import Devices
from jaxsep.training.state import TrainState

FOLDER = "skipped"
MOST_KEPT = 10  # a state takes some MB; metrics.jsonl names all skipped steps


class Place(NamedTuple):
    """A step of a run; both count from 0."""

    epoch: int
    step: int


def keep(
    workdir: Path, components: Components, before: TrainState, place: Place, count: int
) -> str:
    """Keep what replays a skipped step, unless `count`, of the steps skipped so far, is large.

    Args:
      before: the state that the step met.

    Returns:
      A line for the user.

    Raises:
      RunError, DataError: it cannot be written.
    """
    happened = (
        f"epoch {place.epoch + 1}, step {place.step + 1} skipped: non-finite loss or gradient"
    )
    if count > MOST_KEPT:
        return f"{happened} (number {count}; {workdir / FOLDER} has the first {MOST_KEPT})"
    config, pool = components.config, components.pipeline.pools["train"]
    size = config.train.batch_size
    indices = np.arange(place.step * size, (place.step + 1) * size)
    folder = workdir / FOLDER / f"epoch{place.epoch + 1}-step{place.step + 1}"
    if not folder.exists():  # it does when a run went on from a checkpoint before this step
        write_checkpoint(folder, before, place._asdict())
    recipes = draw(pool, config.seed, place.epoch, indices)
    save_recipes(folder.with_name(f"{folder.name}.npz"), recipes, pool)  # last: marks completeness
    return f"{happened}; {_command(components, workdir)} shows why"


def too_many(components: Components, workdir: Path, in_a_row: int) -> str:
    """The message of a run that ends because of skipped steps."""
    return (
        f"{in_a_row} steps in a row had a non-finite loss or gradient (train.max_skipped). "
        f"The parameters from before them are saved in {workdir}/checkpoints; "
        f"{_command(components, workdir)} shows the mixtures that they were given"
    )


def _command(components: Components, workdir: Path) -> str:
    family = components.config.model.family
    trust = "" if family in models.FAMILIES else f" --config.model.family={family}"
    return f"python -m jaxsep.main --mode replay --workdir {workdir}{trust}"


def replay(components: Components, workdir: Path, devices: Devices) -> None:
    """Take every kept step again, and print what each of its mixtures does by itself.

    Raises:
      RunError: a kept step is damaged or incomplete.
      DataError: its recipes are damaged, or of other recordings.
    """
    pool = components.pipeline.pools["train"]
    tx, step = build_step(components, devices)
    train_step, examine = devices.train_step(step), jax.jit(_make_examine(components))
    like = fresh_state(components, tx)
    paths = (workdir / FOLDER).glob("epoch*-step*.npz")
    for path in sorted(paths, key=lambda path: [int(n) for n in re.findall(r"\d+", path.stem)]):
        state, place = read_checkpoint(path.with_suffix(""), like)
        recipes = load_recipes(path, pool)
        batch = render(pool, recipes)
        rows = devices.rows(components.config.train.batch_size)
        own_rows = devices.divide({name: array[rows] for name, array in batch.items()})
        _, metrics = train_step(devices.copy(state), own_rows, np.int32(place["epoch"]))
        loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
        again = "skipped again" if metrics["skipped"] else "finite on these devices and versions"
        print(
            f"\nepoch {place['epoch'] + 1}, step {place['step'] + 1}: "
            f"loss {loss:.4g} dB, gradient norm {norm:.4g}: {again}"
        )
        examined = [
            examine(state.params, {name: array[n : n + 1] for name, array in batch.items()})
            for n in progress_bar(range(recipes["index"].size), unit="mixture", leave=False)
        ]
        _print_mixtures(pool, recipes, examined)


def _make_examine(components: Components) -> Any:
    """(params, batch of one) -> loss, norm of its gradient, whether the estimates are finite."""
    loss_fn = build_loss(components)

    def examine(params: Any, batch: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        loss, grads = jax.value_and_grad(lambda p: jnp.mean(loss_fn(p, batch)[0]))(params)
        estimates = components.module.apply({"params": params}, batch["mixture"])
        return loss, optax.tree.norm(grads), jnp.isfinite(estimates).all()

    return examine


def _print_mixtures(pool: Any, recipes: Arrays, examined: list[tuple[Any, Any, Any]]) -> None:
    lines, bad = [], []
    for n, (loss, norm, finite) in enumerate(examined):
        index = str(recipes["index"][n])
        if not (np.isfinite(loss) and np.isfinite(norm)):
            bad.append(index)
        estimates = "finite" if finite else "not finite"
        numbers = [f"{float(loss):.2f}", f"{float(norm):.3g}"]
        lines.append([index, *numbers, estimates, _recordings(pool, recipes, n)])
    print(table(["mixture", "loss (dB)", "|gradient|", "estimates", "recordings"], lines))
    print(f"not finite: mixture {', '.join(bad)}" if bad else "each mixture by itself is finite")


def _recordings(pool: Any, recipes: Arrays, n: int) -> str:
    """Which recordings a mixture is made of, and where its segment starts in each."""
    if not isinstance(pool, Pool):
        return pool.source.paths[recipes["recording"][n, 0]]
    slots = zip(recipes["corpus"][n], recipes["recording"][n], recipes["offset"][n], strict=True)
    return ", ".join(
        f"{pool.corpora[corpus].paths[recording]} at {offset / pool.sample_rate:.3f} s"
        for corpus, recording, offset in slots
        if corpus >= 0
    )
