"""The virtual environment of asteroid, so that torch never enters that of jaxsep."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxsep.console import say
from jaxsep.errors import ConfigError
from jaxsep.files import default_cache

# Installed in this order. asteroid without what it asks for, which is much more than its networks
# and losses import.
INSTALLS = (
    ("torch==2.13.0", "numpy"),
    ("--no-deps", "asteroid==0.7.0", "asteroid-filterbanks==0.4.0"),
    ("soundfile", "scipy", "packaging", "requests", "huggingface_hub"),
)
WORKER = Path(__file__).with_name("asteroid_worker.py")
# Written last: an environment without it is not complete.
STAMP = "installed"


def folder() -> Path:
    """Where the environment lies, or will lie."""
    return default_cache() / "peers" / "asteroid-0.7.0"


def command() -> list[str]:
    """What starts the worker, whatever PYTHON* variables and user packages there are."""
    return [str(folder() / "bin" / "python"), "-E", "-s", str(WORKER)]


def prepare() -> None:
    """Make the environment unless it is there; takes minutes and says so.

    Raises:
      ConfigError: it cannot be made.
    """
    target = folder()
    if (target / STAMP).is_file():
        return
    say(f"making {target} for asteroid: some minutes, once")
    try:
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", str(target)])
        for arguments in INSTALLS:
            say("installing " + " ".join(name for name in arguments if name[0] != "-"))
            pip = [str(target / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
            _run([*pip, "install", *arguments])
        (target / STAMP).touch()
    except OSError as error:
        problem = error.strerror or error
        raise ConfigError(f"--peer asteroid: {target} cannot be made: {problem}") from error


def _run(arguments: Sequence[str]) -> None:
    """Run a command, its output among the progress; ConfigError with its last error if it fails."""
    done = subprocess.run(
        arguments, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace", check=False
    )
    if done.returncode:
        lines = [f"exit status {done.returncode}", *filter(str.strip, done.stderr.splitlines())]
        errors = [line for line in lines if line.startswith("ERROR:")] or lines
        raise ConfigError(f"--peer asteroid: cannot be installed: {errors[-1].strip()}")
