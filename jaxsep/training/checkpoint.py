"""Checkpoints with orbax: the last and the best, each with the progress that goes with it."""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxsep.training.state import TrainState

logging.getLogger("absl").setLevel(logging.WARNING)  # orbax reports every save at INFO


class Checkpoints:
    """`folder/last` and `folder/best`, one checkpoint in each. A save is written beside the one before and renamed when
    complete, so that a kill at any moment leaves a whole one."""

    def __init__(self, folder: Path) -> None:
        self._managers = {name: _manager(folder / name) for name in ("last", "best")}

    def save(self, name: str, state: TrainState, progress: dict[str, Any]) -> None:
        """Write state and progress (JSON data) as the checkpoint `name`, 'last' or 'best', in place of the one before.

        A step that is there already was saved with the same state (training is deterministic): only the step is compared.
        """
        step = int(state.step)
        manager = self._managers[name]
        if name == "last" and step in manager.all_steps():
            manager.delete(step)  # the same step with later progress: validated since
        if step not in manager.all_steps():
            arguments = {"state": ocp.args.StandardSave(vars(state)), "progress": ocp.args.JsonSave(progress)}
            manager.save(step, args=ocp.args.Composite(**arguments))
            manager.wait_until_finished()

    def restore(self, name: str, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The checkpoint `name` as (state, progress), or None where there is none. like: a state of the same structure."""
        manager = self._managers[name]
        step = manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, vars(like))
        arguments = {"state": ocp.args.StandardRestore(abstract), "progress": ocp.args.JsonRestore()}
        restored = manager.restore(step, args=ocp.args.Composite(**arguments))
        return TrainState(**restored["state"]), restored["progress"]

    def close(self) -> None:
        for manager in self._managers.values():
            manager.close()


def _manager(folder: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder.absolute(), options=options)
