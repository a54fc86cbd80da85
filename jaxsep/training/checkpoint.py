"""Checkpoints: orbax writes the arrays, a manifest of checksums says whether they are still what was written.

A checkpoint is a folder

    state/          the training state, whole arrays (orbax)
    progress.json   where the run stands
    manifest.json   size and SHA-256 of each of these files

written under another name, flushed to disk and renamed: one that has its name is complete. The manifest is checked before orbax
reads anything.
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

from jaxsep.errors import RunError
from jaxsep.files import sync_folder
from jaxsep.training.state import TrainState

logging.getLogger("absl").setLevel(
    logging.CRITICAL
)  # orbax reports every save, and what it also raises
STATE, PROGRESS, MANIFEST = "state", "progress.json", "manifest.json"
SPARE_BYTES = 1_000_000  # what a checkpoint takes beside its numbers, generously


class Checkpoints:
    """`folder/last/N` and `folder/best/N`, N counting saves; the first process's alone. The one before the newest is kept.

    What is saved is whole arrays: how many devices made them, or go on from them, is of no matter.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, name: str, state: TrainState, progress: dict[str, Any]) -> None:
        """Write state and progress (JSON data) as the newest checkpoint `name`, 'last' or 'best'.

        Raises:
          RunError: it cannot be written, or holds what is no number; those before are as they were.
        """
        saved = _saves(self._folder / name)
        write_checkpoint(self._folder / name / str(max(saved, default=0) + 1), state, progress)
        for number in sorted(saved)[
            :-1
        ]:  # the one before stays, in case that the newest gets damaged
            shutil.rmtree(self._folder / name / str(number), ignore_errors=True)

    def restore(self, name: str, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint `name` that is sound, as (state, progress), or None where none was ever complete.

        A damaged one is said, and set aside as N.damaged. like: a state of the same structure.

        Raises:
          RunError: all are damaged.
        """
        place, problems = self._folder / name, []
        for number in sorted(_saves(place), reverse=True):
            try:
                found = read_checkpoint(place / str(number), like)
            except RunError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                print(
                    f"warning: {problem}; going on from the one before, {place / str(number)}",
                    flush=True,
                )
            for damaged in [other for other in _saves(place) if other > number]:
                aside = place / f"{damaged}.damaged"
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(place / str(damaged), aside)
            return found
        if problems:
            raise RunError(
                f"{'; '.join(problems)}. None is left: a run without {self._folder} starts anew"
            )
        return None


def has_checkpoint(folder: Path, name: str) -> bool:
    """Whether a checkpoint `name` was ever complete in folder; one that a kill cut short has a longer name."""
    return bool(_saves(folder / name))


def write_checkpoint(folder: Path, state: TrainState, progress: dict[str, Any]) -> None:
    """Write a checkpoint that becomes `folder`, which is not there yet, or nothing.

    Raises:
      RunError: it cannot be written, or a number in the state is not finite.
    """
    tree = vars(jax.device_get(state))
    for path, leaf in jax.tree.leaves_with_path(tree):
        memory = path[0].key == "weighting"  # which may hold the logarithm of 0
        if np.isnan(leaf).any() if memory else not np.isfinite(leaf).all():
            raise RunError(
                f"{folder}: not written, {jax.tree_util.keystr(path)} holds what is no finite number; a smaller "
                f"train.learning_rate may help, and the checkpoint before is as it was"
            )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + SPARE_BYTES
    try:
        partial.mkdir(parents=True)
        disk = shutil.disk_usage(partial)
        if disk.total > 0 and disk.free < needed:  # orbax would find out amid a page of tracebacks
            raise OSError(
                f"it takes up to {needed / 1e6:.1f} MB, and {disk.free / 1e6:.1f} MB are free"
            )
        with _orbax() as checkpointer:
            checkpointer.save(partial.absolute() / STATE, args=ocp.args.StandardSave(tree))
        (partial / PROGRESS).write_text(json.dumps(progress, allow_nan=False), encoding="utf-8")
        files = {name: _checksum(partial / name, flush=True) for name in _files(partial)}
        (partial / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
        _checksum(partial / MANIFEST, flush=True)
        os.replace(partial, folder)
        sync_folder(folder.parent)
    except Exception as error:  # a full disk comes out of orbax as one of several errors
        reason = " ".join(str(error).split())
        raise RunError(
            f"{folder}: cannot be written ({reason:.300}); the checkpoint before is as it was"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_checkpoint(folder: Path, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """State and progress of a checkpoint.

    Args:
      like: a state of the same structure.

    Raises:
      RunError: a file is missing, is not listed, or is not what was written.
    """
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = _files(folder) - {MANIFEST}
        if not isinstance(listed, dict) or listed.keys() != found:
            odd = sorted(found ^ set(listed)) if isinstance(listed, dict) else [MANIFEST]
            raise ValueError(f"{odd[0]} is missing or not in {MANIFEST}")
        for name in sorted(found):
            if _checksum(folder / name) != listed[name]:
                raise ValueError(f"{name} is not what was written")
        progress = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{folder} is damaged ({error})") from error
    abstract = jax.tree.map(np.empty_like, vars(like))
    try:
        with _orbax() as checkpointer:
            tree = checkpointer.restore(
                folder.absolute() / STATE, args=ocp.args.StandardRestore(abstract)
            )
    except (
        Exception
    ) as error:  # what is there is what was written, so it is of another network or another version
        reason = " ".join(str(error).split())
        raise RunError(f"{folder} does not fit this run ({reason:.300})") from error
    return TrainState(**tree), progress


def _orbax() -> ocp.Checkpointer:
    alone = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _saves(place: Path) -> list[int]:
    return (
        [int(entry.name) for entry in place.iterdir() if entry.name.isdecimal()]
        if place.is_dir()
        else []
    )


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def _checksum(path: Path, *, flush: bool = False) -> dict[str, Any]:
    """Size and SHA-256 of a file, which is flushed to disk first where asked."""
    with open(path, "rb") as stream:
        if flush:
            os.fsync(stream.fileno())
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(stream, "sha256").hexdigest(),
        }
