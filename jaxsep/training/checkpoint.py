"""Checkpoints: orbax writes the arrays, and a manifest of checksums tells whether they are intact.

A checkpoint is a folder

    state/          the training state, whole arrays (orbax): any number of devices goes on from it
    progress.json   where the run stands
    manifest.json   SHA-256 of each of these files

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


def save(series: Path, state: TrainState, progress: dict[str, Any]) -> None:
    """Write state and progress (JSON data) as the newest checkpoint of a series, series/1, 2, …

    The newest two are kept.

    Raises:
      RunError: it cannot be written, or holds a non-finite number. Those before are intact.
    """
    newest = max(numbers(series), default=0)
    write(series / str(newest + 1), state, progress)
    for entry in series.iterdir():  # older ones, and what a kill left unfinished
        kept = entry.name in (str(newest), str(newest + 1)) or entry.suffix == ".damaged"
        if not kept:
            shutil.rmtree(entry, ignore_errors=True)


def restore(series: Path, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
    """State and progress of the newest intact checkpoint, or None if none was ever complete.

    A damaged one is reported and set aside as N.damaged. like: a state of the same structure.

    Raises:
      RunError: all are damaged.
    """
    damaged: dict[int, str] = {}
    for number in sorted(numbers(series), reverse=True):
        try:
            restored = read(series / str(number), like)
        except RunError as error:
            damaged[number] = str(error)
            continue
        for other, problem in damaged.items():
            say(f"warning: {problem}; going on from the one before, {series / str(number)}")
            aside = series / f"{other}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(series / str(other), aside)
        return restored
    if damaged:
        problems = "; ".join(damaged.values())
        raise RunError(f"{problems}. None is left: a run without {series.parent} starts anew")
    return None


def numbers(series: Path) -> list[int]:
    """The complete checkpoints of a series."""
    entries = series.iterdir() if series.is_dir() else ()
    return [int(entry.name) for entry in entries if entry.name.isdecimal()]


def write(folder: Path, state: TrainState, progress: dict[str, Any]) -> None:
    """Write a checkpoint that becomes `folder`, which does not exist yet, or nothing.

    Raises:
      RunError: it cannot be written, or a number in the state is not finite.
    """
    tree = vars(jax.device_get(state))
    try:
        for path, leaf in jax.tree.leaves_with_path(tree):
            # The memory of a weighting may hold the logarithm of 0.
            if not np.all(~np.isnan(leaf) if path[0].key == "weighting" else np.isfinite(leaf)):
                raise ValueError(f"{jax.tree_util.keystr(path)} holds a non-finite number")
        with atomic_folder(folder) as partial:
            needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + SPARE_BYTES
            disk = shutil.disk_usage(partial)
            if disk.total > 0 and disk.free < needed:  # orbax would print pages of tracebacks
                raise OSError(f"{disk.free / 1e6:.1f} MB are free, {needed / 1e6:.1f} MB needed")
            with _orbax() as checkpointer:
                checkpointer.save(partial.absolute() / STATE, args=ocp.args.StandardSave(tree))
            (partial / PROGRESS).write_text(json.dumps(progress, allow_nan=False), encoding="utf-8")
            (partial / MANIFEST).write_text(json.dumps(_checksums(partial), indent=1))
    except Exception as error:  # a full disk comes out of orbax as one of several errors
        raise RunError(
            f"{folder}: cannot be written ({_line(error)}); the checkpoint before is intact"
        ) from error


def read(folder: Path, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """State and progress of a checkpoint.

    Args:
      like: a state of the same structure.

    Raises:
      RunError: a file is missing, extra, or not as it was written; or another network's state.
    """
    try:
        listed, present = read_json(folder / MANIFEST), _checksums(folder)
        if odd := sorted({name for name, _ in listed.items() ^ present.items()}):
            raise ValueError(f"{odd[0]} is not what was written")
        args = ocp.args.StandardRestore(jax.tree.map(np.empty_like, vars(like)))
        with _orbax() as checkpointer:
            tree = checkpointer.restore(folder.absolute() / STATE, args=args)
        return TrainState(**tree), read_json(folder / PROGRESS)
    except Exception as error:  # orbax raises many kinds for the state of another network
        raise RunError(f"{folder} cannot be used ({_line(error)})") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _orbax() -> ocp.Checkpointer:
    """Reads and writes in the main process alone."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the manifest, by its path below folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / MANIFEST
    }
