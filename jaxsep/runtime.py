"""What a command of jaxsep asks of its process before any work: compiled programs and memory kept, wide vectors used.

Importing jaxsep changes nothing; `main`, `separate` and `benchmark` call `configure` first.
"""

import ctypes
import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax

from jaxsep.errors import ConfigError
from jaxsep.files import default_cache


def configure() -> None:
    """Set up this process; to be called before jax computes anything.

    Compiled programs are kept in `compilation_cache()`, so that a second run starts at once. JAX's own settings have
    the last word: JAX_COMPILATION_CACHE_DIR=DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false switches it off.

    XLA's CPU code may use vectors of 512 bits where the processor has them, and on a GPU only operations that give the same
    result every time are used; an XLA_FLAGS that says otherwise is left alone.

    On a CPU, a program runs in the thread that calls it, and with glibc memory that is freed stays with the process: a
    training step finds the gigabyte that the last one used, instead of being given it anew, page by page (but for what now
    and then another thread allocates). A GLIBC_TUNABLES or MALLOC_… in the environment is left alone.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(compilation_cache()))
    flags = os.environ.get("XLA_FLAGS", "")
    wanted = {"xla_cpu_prefer_vector_width": "512", "xla_gpu_deterministic_ops": "true"}
    added = [f"--{name}={value}" for name, value in wanted.items() if name not in flags]
    os.environ["XLA_FLAGS"] = " ".join([*flags.split(), *added])
    jax.config.update(
        "jax_cpu_enable_async_dispatch", False
    )  # other threads' memory cannot be kept (glibc's arenas)
    chosen = any(name.startswith(("GLIBC_TUNABLES", "MALLOC_")) for name in os.environ)
    if platform.libc_ver()[0] == "glibc" and not chosen:
        _keep_freed_memory()


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Make this process one of many that share the work, where it is: by its arguments, or as a task of a SLURM step.

    Args:
      coordinator: HOST:PORT at which process 0 listens.
      processes: how many there are.
      process: which this is, from 0.

    Raises:
      ConfigError: only some are given, or they do not fit.
    """
    if (coordinator, processes, process) == (None, None, None):
        if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            _initialize()
        return
    if coordinator is None or processes is None or process is None or ":" not in coordinator:
        raise ConfigError("--coordinator HOST:PORT, --processes N and --process I go together")
    if not 0 <= process < processes:
        raise ConfigError(
            f"--process is {process}, it must be from 0 to {processes - 1}, below --processes"
        )
    _initialize(coordinator, processes, process)


def _initialize(*where: Any) -> None:
    # The first process may decode recordings for an hour while the others wait; one that died is found by its heartbeat.
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_collective_timeout_seconds=86400".strip()
    )
    jax.distributed.initialize(*where)


def _keep_freed_memory() -> None:
    """The main thread's heap grows in place of mappings of their own for large arrays, and is never cut back."""
    mallopt = ctypes.CDLL(None).mallopt
    # Parameters and values of <malloc.h>.
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
    mallopt(top_pad, 64 << 20)


def compilation_cache() -> Path:
    """The folder of compiled programs: in jaxsep's cache, one for each kind of processor, because machine code made
    for one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    kind = next(
        (line for line in lines if line.startswith(("flags", "Features"))), platform.processor()
    )
    return default_cache() / "compiled" / hashlib.sha256(kind.encode()).hexdigest()[:16]
