"""The virtual environment of asteroid, so that torch never enters that of jaxsep."""

import subprocess
import sys
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


def folder() -> Path:
    """Where the environment lies, or will lie."""
    return default_cache() / "peers" / "asteroid-0.7.0"


def command() -> list[str]:
    """What starts the peer's worker; makes its environment on first use, which takes minutes.

    Raises:
      ConfigError: it cannot be made.
    """
    python, complete = str(folder() / "bin" / "python"), folder() / "installed"
    if not complete.is_file():
        say(f"making {folder()} for asteroid: some minutes, once")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder())], check=True)
            for packages in INSTALLS:
                subprocess.run([*pip, *packages], check=True)
            complete.touch()
        except (OSError, subprocess.CalledProcessError) as error:
            raise ConfigError(f"--peer asteroid: cannot be installed: {error}") from error
    # Whatever PYTHON* variables and user packages there are.
    return [python, "-E", "-s", str(Path(__file__).with_name("asteroid_worker.py"))]
