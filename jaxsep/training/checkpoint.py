"""Checkpoints: orbax writes the arrays, and a manifest of checksums tells whether they are intact.

A checkpoint is a folder

    state/          the training state, whole arrays (orbax)
    progress.json   where the run stands
    manifest.json   size and SHA-256 of each of these files

that gets its name when it is complete. The manifest is checked before orbax reads anything.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxsep.console import say
from jaxsep.errors import RunError
from jaxsep.files import atomic_folder, read_json
from jaxsep.training.state import TrainState

# orbax logs every save, and every error that it also raises.
logging.getLogger("absl").setLevel(logging.CRITICAL)
STATE, PROGRESS, MANIFEST = "state", "progress.json", "manifest.json"
SPARE_BYTES = 1_000_000  # what a checkpoint takes beside its numbers, generously


class Checkpoints:
    """`folder/last/N` and `folder/best/N`, N counting saves. Of each kind the newest two are kept.

    Arrays are saved whole, so that a run may go on with another number of devices.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, kind: str, state: TrainState, progress: dict[str, Any]) -> None:
        """Write state and progress (JSON data) as the newest checkpoint 'last' or 'best'.

        Raises:
          RunError: it cannot be written, or holds a non-finite number. Those before are intact.
        """
        place = self._folder / kind
        numbers = sorted(_numbers(place))
        number = max(numbers, default=0) + 1
        write_checkpoint(place / str(number), state, progress)
        keep = {str(number), *map(str, numbers[-1:])}
        for entry in place.iterdir():  # older ones, and what a kill left unfinished
            if entry.name not in keep and entry.suffix != ".damaged":
                shutil.rmtree(entry, ignore_errors=True)

    def restore(self, kind: str, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """State and progress of the newest intact checkpoint, or None if none was ever complete.

        A damaged one is reported and set aside as N.damaged. like: a state of the same structure.

        Raises:
          RunError: all are damaged.
        """
        place, problems = self._folder / kind, []
        for number in sorted(_numbers(place), reverse=True):
            try:
                state, progress = read_checkpoint(place / str(number), like)
            except RunError as error:
                problems.append((number, error))
                continue
            for damaged, problem in problems:
                say(f"warning: {problem}; going on from the one before, {place / str(number)}")
                aside = place / f"{damaged}.damaged"
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(place / str(damaged), aside)
            return state, progress
        if problems:
            raise RunError(
                f"{'; '.join(str(problem) for _, problem in problems)}. "
                f"None is left: a run without {self._folder} starts anew"
            )
        return None


def has_checkpoint(folder: Path, kind: str) -> bool:
    """Whether folder holds a complete checkpoint of this kind."""
    return bool(_numbers(folder / kind))


def write_checkpoint(folder: Path, state: TrainState, progress: dict[str, Any]) -> None:
    """Write a checkpoint that becomes `folder`, which does not exist yet, or nothing.

    Raises:
      RunError: it cannot be written, or a number in the state is not finite.
    """
    tree = vars(jax.device_get(state))
    for path, leaf in jax.tree.leaves_with_path(tree):
        # The memory of a weighting may hold the logarithm of 0.
        allowed = ~np.isnan(leaf) if path[0].key == "weighting" else np.isfinite(leaf)
        if not np.all(allowed):
            raise RunError(
                f"{folder}: not written, {jax.tree_util.keystr(path)} holds a non-finite number; "
                "a smaller train.learning_rate may help, and the checkpoint before is intact"
            )
    try:
        with atomic_folder(folder) as partial:
            needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + SPARE_BYTES
            disk = shutil.disk_usage(partial)
            if disk.total > 0 and disk.free < needed:  # orbax would print pages of tracebacks
                raise OSError(
                    f"it takes up to {needed / 1e6:.1f} MB, and {disk.free / 1e6:.1f} MB are free"
                )
            with _orbax() as checkpointer:
                checkpointer.save(partial.absolute() / STATE, args=ocp.args.StandardSave(tree))
            (partial / PROGRESS).write_text(json.dumps(progress, allow_nan=False), encoding="utf-8")
            (partial / MANIFEST).write_text(json.dumps(_checksums(partial), indent=1))
    except Exception as error:  # a full disk comes out of orbax as one of several errors
        reason = " ".join(str(error).split())
        raise RunError(
            f"{folder}: cannot be written ({reason:.300}); the checkpoint before is intact"
        ) from error


def read_checkpoint(folder: Path, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """State and progress of a checkpoint.

    Args:
      like: a state of the same structure.

    Raises:
      RunError: a file is missing, extra, or not as it was written; or another network's state.
    """
    try:
        listed, present = read_json(folder / MANIFEST), _checksums(folder)
        if listed != present:
            names = sorted(listed.keys() | present.keys())
            odd = next(name for name in names if listed.get(name) != present.get(name))
            raise ValueError(f"{odd} is not what was written")
        progress = read_json(folder / PROGRESS)
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{folder} is damaged ({error})") from error
    abstract = jax.tree.map(np.empty_like, vars(like))
    try:
        with _orbax() as checkpointer:
            tree = checkpointer.restore(
                folder.absolute() / STATE, args=ocp.args.StandardRestore(abstract)
            )
    except Exception as error:  # the files are intact, so they are another network's or version's
        reason = " ".join(str(error).split())
        raise RunError(f"{folder} does not fit this run ({reason:.300})") from error
    return TrainState(**tree), progress


def _orbax() -> ocp.Checkpointer:
    """Reads and writes in the main process alone."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _numbers(place: Path) -> list[int]:
    if not place.is_dir():
        return []
    return [int(entry.name) for entry in place.iterdir() if entry.name.isdecimal()]


def _checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file but the manifest, by its path below folder."""
    checksums = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name == MANIFEST:
            continue
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        checksums[name] = {"bytes": path.stat().st_size, "sha256": digest}
    return checksums
