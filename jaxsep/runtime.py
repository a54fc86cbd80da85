"""Settings of the process that computes: where compiled programs are kept, which instructions XLA
uses, how memory is held, and which of several processes this one is.

Importing jaxsep changes nothing: the commands `main`, `separate` and `benchmark` call `configure`
first, a library's user may.
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
    """Set this process up for training or separation; call it before jax computes anything.

    - Compiled programs are kept in jaxsep's cache, so that a second run starts at once.
      JAX_COMPILATION_CACHE_DIR=DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false
      switches this off.
    - XLA may use vectors of 512 bits on a CPU that has them, and on a GPU only operations that give
      the same result every time. What XLA_FLAGS says of these is left alone.
    - On a CPU, a program runs in the thread that calls it, and memory that is freed stays with the
      process (with glibc): a training step reuses the gigabyte of the step before, which the
      system would otherwise clear again page by page. Environment variables GLIBC_TUNABLES or
      MALLOC_… switch this off.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        # One folder for each kind of processor: code made for one may not run on another.
        info = Path("/proc/cpuinfo")
        lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
        features = (line for line in lines if line.startswith(("flags", "Features")))
        kind = hashlib.sha256(next(features, platform.processor()).encode()).hexdigest()[:16]
        jax.config.update("jax_compilation_cache_dir", str(default_cache() / "compiled" / kind))
    flags = os.environ.get("XLA_FLAGS", "")
    wanted = {"xla_cpu_prefer_vector_width": "512", "xla_gpu_deterministic_ops": "true"}
    added = [f"--{name}={value}" for name, value in wanted.items() if name not in flags]
    os.environ["XLA_FLAGS"] = " ".join([*flags.split(), *added])
    # glibc gives other threads heaps of their own, which cannot be kept.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    user_decides = any(name.startswith(("GLIBC_TUNABLES", "MALLOC_")) for name in os.environ)
    if platform.libc_ver()[0] == "glibc" and not user_decides:
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # parameters of <malloc.h>
        mallopt(mmap_max, 0)  # large arrays too are taken from the heap of the main thread,
        mallopt(trim_threshold, -1)  # which is never cut back
        mallopt(top_pad, 64 << 20)


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Make this process number `process` of several that train together, if it is one.

    It is where all arguments are given (process 0 listens at HOST:PORT, `coordinator`), or where
    SLURM started several tasks. Raises ConfigError where they do not fit together.
    """
    given: list[Any] = [v for v in (coordinator, processes, process) if v is not None]
    if not given and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return
    if given and not (len(given) == 3 and 0 <= given[2] < given[1] and ":" in given[0]):
        raise ConfigError(
            "--coordinator HOST:PORT, --processes N and --process I, from 0 to N - 1, go together"
        )
    # The main process may decode recordings for an hour while the others wait for it. One that has
    # died is noticed all the same, by its missing heartbeat.
    patience = "--xla_cpu_collective_timeout_seconds=86400"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {patience}".strip()
    jax.distributed.initialize(*given)
