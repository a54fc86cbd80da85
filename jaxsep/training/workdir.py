"""A run's folder, the workdir: which run it belongs to, and which configuration was run in it."""

import fcntl
import os
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from jaxsep import models
from jaxsep.config import load as settings
from jaxsep.config.schema import Config
from jaxsep.console import say
from jaxsep.errors import ConfigError
from jaxsep.files import atomic_file, read_text
from jaxsep.training.build import Components

LOCK = "lock"
# The fields that may change, by mode: another test set, or where the run's own recordings are now.
OTHER_DATA: dict[str, tuple[str, ...]] = {
    "evaluate": ("data.",),
    "replay": ("data.speech_root", "data.environment_root", "data.premixed_root"),
}


def claim(workdir: Path, components: Components, held: ExitStack) -> None:
    """Lock workdir for this run until `held` closes, and write config.json and the recipes.

    Raises:
      ConfigError: the folder holds another run or other files, is in use, or cannot be written.
      DataError: its recipes were drawn from other recordings.
    """
    saved = workdir / "config.json"
    if saved.exists():
        if different := settings.differences(read_config(workdir), components.config):
            raise ConfigError(
                f"--workdir {workdir} holds another run: {'; '.join(different)}; use another folder"
            )
    elif workdir.is_dir() and any(
        entry.name != LOCK and ".tmp-" not in entry.name for entry in workdir.iterdir()
    ):
        raise ConfigError(
            f"--workdir {workdir} is neither empty nor a run's folder (no config.json); "
            "use another folder"
        )
    components.pipeline.check_recipes(workdir / "recipes")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _lock(workdir, held)
        with atomic_file(saved, "w") as stream:
            stream.write(settings.to_json(components.config))
        components.pipeline.save_recipes(workdir / "recipes")
    except OSError as error:
        raise ConfigError(f"--workdir {workdir} cannot be written: {error.strerror}") from error


def _lock(workdir: Path, held: ExitStack) -> None:
    """Keep other runs out. The system releases the lock when the process ends, however it ends."""
    # Without a buffer: on a full disk its rest would be written, and fail, once more on closing.
    lock = held.enter_context((workdir / LOCK).open("ab+", buffering=0))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        owner = lock.read(200).decode(errors="replace").strip()
        raise ConfigError(
            f"--workdir {workdir}: another run is at work there ({owner}); "
            "wait for it, or use another folder"
        ) from error
    except OSError as error:  # a network disk without locks
        say(f"warning: {workdir} cannot be locked ({error.strerror}): keep other runs out")
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()}\n".encode())


def read_config(workdir: Path) -> Config:
    """The configuration in a run's folder.

    Raises:
      ConfigError: it cannot be read, or fields are missing, unknown or wrong: all of them.
    """
    try:
        return settings.from_json(read_text(workdir / "config.json"))
    except ConfigError as error:
        raise ConfigError(f"--workdir {workdir}: config.json: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"--workdir {workdir}: config.json cannot be read ({error}); use a run's folder"
        ) from error


def own_config(workdir: Path, overrides: Sequence[str], mode: str) -> Config:
    """A run's configuration, perhaps with other data, for `--mode evaluate` and `--mode replay`.

    Args:
      overrides: '--config.field=value'. '--config.model.family=package.module:Class' allows to
        run the code of a network outside jaxsep: that a file names it is not enough.
      mode: 'evaluate' or 'replay'.

    Raises:
      ConfigError: more than that is changed, or the network is not allowed.
    """
    saved = read_config(workdir)
    config = settings.override(saved, overrides)
    for change in settings.differences(saved, config):
        if not change.startswith(OTHER_DATA[mode]):
            raise ConfigError(
                f"--mode {mode} takes only other data and evaluation.batch_size, not {change}"
            )
    family = config.model.family
    trusted = any(override.startswith("--config.model.family=") for override in overrides)
    if family not in models.FAMILIES and not trusted:
        raise ConfigError(
            f"model.family is {family!r} in {workdir}/config.json, a network outside jaxsep, which "
            f"--mode {mode} would import and run; --config.model.family={family} allows it"
        )
    return config
