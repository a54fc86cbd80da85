"""Skipped steps, whose loss or gradient was not finite: what is kept of them, and their replay.

A skipped step changes nothing in the state but the count of steps. Of the first few, a run keeps as
a checkpoint skipped/epochE-stepS (E and S count from 1) the state that it had when it noticed: the
one that the step met, or that of the next step, at most one update later.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsep import models
from jaxsep.console import progress as progress_bar
from jaxsep.data.mixtures.dynamic import Arrays, draw, render
from jaxsep.data.mixtures.sampler import Pool
from jaxsep.evaluation.tables import table
from jaxsep.training import checkpoint
from jaxsep.training.build import Components, fresh_state
from jaxsep.training.state import TrainState

FOLDER = "skipped"
MOST_KEPT = 10  # a state takes some MB; metrics.jsonl names all skipped steps


def keep(
    workdir: Path, components: Components, state: TrainState, place: dict[str, int], number: int
) -> str:
    """Keep what replays a skipped step, the run's `number`-th, unless there are many already.

    Args:
      place: its epoch and step, which count from 0.

    Returns:
      A line for the user.

    Raises:
      RunError: it cannot be written.
    """
    epoch, step = place["epoch"] + 1, place["step"] + 1
    happened = f"epoch {epoch}, step {step} skipped: non-finite loss or gradient"
    if number > MOST_KEPT:
        return f"{happened} (number {number}; {workdir / FOLDER} has the first {MOST_KEPT})"
    folder = workdir / FOLDER / f"epoch{epoch}-step{step}"
    if not folder.exists():  # it does when a run went on from a checkpoint before this step
        checkpoint.write(folder, state, place)
    return f"{happened}; {_command(components, workdir)} shows why"


def too_many(components: Components, workdir: Path) -> str:
    """The message of a run that ends because of skipped steps."""
    return (
        f"{components.config.train.max_skipped} steps in a row had a non-finite loss or gradient "
        "(train.max_skipped). The parameters from before them are saved in "
        f"{workdir}/checkpoints; {_command(components, workdir)} shows the mixtures"
    )


def _command(components: Components, workdir: Path) -> str:
    family = components.config.model.family
    trust = "" if family in models.FAMILIES else f" --config.model.family={family}"
    return f"python -m jaxsep.main --mode replay --workdir {workdir}{trust}"


def replay(components: Components, workdir: Path) -> None:
    """Print what each mixture of every kept step does by itself.

    Raises:
      RunError: a kept step is damaged.
    """
    config, pool = components.config, components.pipeline.pools["train"]
    loss_fn, like = components.loss_fn, fresh_state(components)

    @jax.jit
    def examine(params: Any, batch: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Of a batch of one: loss, norm of its gradient, whether the estimates are finite."""
        loss, grads = jax.value_and_grad(lambda p: jnp.mean(loss_fn(p, batch)[0]))(params)
        estimates = components.module.apply({"params": params}, batch["mixture"])
        return loss, optax.tree.norm(grads), jnp.isfinite(estimates).all()

    folders = (workdir / FOLDER).glob("epoch*-step*")
    for folder in sorted(folders, key=lambda f: [int(n) for n in re.findall(r"\d+", f.name)]):
        state, place = checkpoint.read(folder, like)
        epoch, size = place["epoch"], config.train.batch_size
        indices = np.arange(place["step"] * size, (place["step"] + 1) * size)
        recipes = draw(pool, config.seed, epoch, indices)
        batch, lines, bad = render(pool, recipes), [], []
        for n in progress_bar(range(size), unit="mixture", leave=False):
            one = {name: array[n : n + 1] for name, array in batch.items()}
            loss, norm, finite = jax.device_get(examine(state.params, one))
            if not np.isfinite([loss, norm]).all():
                bad.append(str(indices[n]))
            numbers = [f"{loss:.2f}", f"{norm:.3g}", "finite" if finite else "not finite"]
            lines.append([str(indices[n]), *numbers, _recordings(pool, recipes, n)])
        print(f"\nepoch {epoch + 1}, step {place['step'] + 1}")
        print(table(["mixture", "loss (dB)", "|gradient|", "estimates", "recordings"], lines))
        print(f"not finite: mixture {', '.join(bad)}" if bad else "each by itself is finite")


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
