"""Checkpoints with orbax: the last and the best, each with the progress that goes with it."""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxsep.training.state import TrainState

logging.getLogger("absl").setLevel(logging.WARNING)  # orbax reports every save at INFO


class Checkpoints:
    """`folder/last` and `folder/best`, one checkpoint in each; the first process's alone. A save is written beside the one
    before and renamed when complete, so that a kill at any moment leaves a whole one. What is saved is whole arrays: how many
    devices made them, or go on from them, is of no matter."""

    def __init__(self, folder: Path) -> None:
        self._managers = {name: _manager(folder / name) for name in ("last", "best")}

    def save(self, name: str, state: TrainState, progress: dict[str, Any]) -> None:
        """Write state and progress (JSON data) as the checkpoint `name`, 'last' or 'best'; the one before goes after that."""
        manager = self._managers[name]
        number = (manager.latest_step() or 0) + 1  # of the save: a step may be saved twice, before and after validation
        arguments = {
            "state": ocp.args.StandardSave(vars(jax.device_get(state))),
            "progress": ocp.args.JsonSave(progress),
        }
        manager.save(number, args=ocp.args.Composite(**arguments))
        manager.wait_until_finished()

    def restore(self, name: str, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The checkpoint `name` as (state, progress), or None where there is none. like: a state of the same structure."""
        manager = self._managers[name]
        number = manager.latest_step()
        if number is None:
            return None
        abstract = jax.tree.map(np.empty_like, vars(like))
        arguments = {"state": ocp.args.StandardRestore(abstract), "progress": ocp.args.JsonRestore()}
        restored = manager.restore(number, args=ocp.args.Composite(**arguments))
        return TrainState(**restored["state"]), restored["progress"]

    def close(self) -> None:
        for manager in self._managers.values():
            manager.close()


def has_checkpoint(folder: Path, name: str) -> bool:
    """Whether there is a complete checkpoint `name` in folder; one that a kill cut short has a longer name."""
    place = folder / name
    return place.is_dir() and any(entry.name.isdigit() for entry in place.iterdir())


def _manager(folder: Path) -> ocp.CheckpointManager:
    alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="first")
    folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1, create=False, enable_async_checkpointing=False, multiprocessing_options=alone
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)
