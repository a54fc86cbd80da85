"""What a command of jaxsep asks of its process before any work: compiled programs kept, wide vectors used.

Importing jaxsep changes nothing; `main` and `benchmark` call `configure` first.
"""

import hashlib
import os
import platform
from pathlib import Path

import jax

from jaxsep.data.packing import default_cache


def configure() -> None:
    """Set up this process; to be called before jax computes anything.

    Compiled programs are kept in `compilation_cache()`, so that a second run starts at once. JAX's own settings have
    the last word: JAX_COMPILATION_CACHE_DIR=DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false switches it off.

    XLA's CPU code may use vectors of 512 bits where the processor has them; an XLA_FLAGS that says otherwise is left
    alone.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(compilation_cache()))
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_prefer_vector_width" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_prefer_vector_width=512".strip()


def compilation_cache() -> Path:
    """The folder of compiled programs: in jaxsep's cache, one for each kind of processor, because machine code made
    for one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    kind = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return default_cache() / "compiled" / hashlib.sha256(kind.encode()).hexdigest()[:16]
