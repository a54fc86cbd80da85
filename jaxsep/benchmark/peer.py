"""The peer's environment: a virtual environment of its own, made on first use, so that torch never enters jaxsep's."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxsep.console import say
from jaxsep.files import default_cache

# Installed in this order. asteroid without what it asks for, which is much more than its networks and losses import.
INSTALLS = {
    "asteroid": (
        ("torch==2.13.0", "numpy"),
        ("--no-deps", "asteroid==0.7.0", "asteroid-filterbanks==0.4.0"),
        ("soundfile", "scipy", "packaging", "requests", "huggingface_hub"),
    )
}
FOLDERS = {"asteroid": "asteroid-0.7.0"}
WORKERS = {"asteroid": Path(__file__).with_name("asteroid_worker.py")}
# Written last: an environment without it is not complete.
STAMP = "installed"


class PeerError(Exception):
    """The peer's environment cannot be made; the message says why."""


def folder(name: str) -> Path:
    """Where a peer's environment lies, or will."""
    return default_cache() / "peers" / FOLDERS[name]


def command(name: str) -> list[str]:
    """Starts the peer's worker, whatever PYTHON* variables and user packages there are."""
    return [str(_python(folder(name))), "-E", "-s", str(WORKERS[name])]


def prepare(name: str) -> None:
    """Make the environment of a peer unless it is there; takes minutes and says so.

    Raises:
      PeerError: it cannot be made.
    """
    target = folder(name)
    if (target / STAMP).is_file():
        return
    say(f"making {target} for {', '.join(_wanted(name))}: some minutes, once")
    try:
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        _run(name, [sys.executable, "-m", "venv", str(target)])
        for arguments in INSTALLS[name]:
            say(
                f"installing {' '.join(argument for argument in arguments if not argument.startswith('-'))}"
            )
            _run(
                name,
                [
                    str(_python(target)),
                    "-m",
                    "pip",
                    "install",
                    "--disable-pip-version-check",
                    *arguments,
                ],
            )
        (target / STAMP).write_text("\n".join(_wanted(name)) + "\n")
    except OSError as error:
        raise PeerError(
            f"--peer {name}: {target} cannot be made: {error.strerror or error}"
        ) from error


def _wanted(name: str) -> list[str]:
    return [argument for arguments in INSTALLS[name] for argument in arguments if "==" in argument]


def _python(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _run(name: str, arguments: Sequence[str]) -> None:
    """Run a command, its output among the progress; PeerError with the last of its errors where it fails."""
    done = subprocess.run(
        arguments, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace", check=False
    )
    if done.returncode:
        lines = [f"exit status {done.returncode}", *filter(str.strip, done.stderr.splitlines())]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines
        raise PeerError(f"--peer {name} cannot be installed: {errors[-1].strip()}")
