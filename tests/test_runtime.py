"""What the commands set up before any work, in processes of their own."""

import json
import os
import platform
import subprocess
import sys

import pytest

GLIBC = platform.libc_ver()[0] == "glibc"
OURS = "--xla_cpu_prefer_vector_width=512 --xla_gpu_deterministic_ops=true"
THEIRS = "--xla_gpu_deterministic_ops=false --xla_cpu_prefer_vector_width=256"
# Prints the settings, and the page faults of the best of 5 training steps, each with tens of
# megabytes. (Now and then another thread than the main one allocates, whose memory cannot be kept.)
SHOW = """
import jax, json, os, resource
from jaxsep import runtime
runtime.configure()

def loss(w, x):
    for _ in range(2):
        x = jax.numpy.tanh(x @ w)
    return x.sum()

step = jax.jit(lambda w, x: w - 1e-3 * jax.grad(loss)(w, x), donate_argnums=0)
w, x, faults = jax.numpy.eye(64), jax.numpy.ones((32768, 64)), []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    w = step(w, x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps([jax.config.jax_compilation_cache_dir, os.environ["XLA_FLAGS"], min(faults)]))
"""


@pytest.mark.parametrize(
    ("environment", "folder", "flags", "faults"),
    [
        ({}, "compiled", OURS, range(1000)),
        (  # 65536 mappings are glibc's own default
            {
                "JAX_COMPILATION_CACHE_DIR": "mine",
                "XLA_FLAGS": THEIRS,
                "MALLOC_MMAP_MAX_": "65536",
            },
            "mine",
            THEIRS,
            range(4000, 10**9),
        ),
    ],
    ids=["ours", "the user's"],
)
def test_programs_and_memory_are_kept_and_the_user_has_the_last_word(
    tmp_path, environment, folder, flags, faults
):
    ours = ("JAX_", "XLA_", "MALLOC_", "GLIBC_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    settings = {"JAXSEP_CACHE": ".", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    settings |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=tmp_path,
        env=inherited | settings | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    cache, seen_flags, seen_faults = json.loads(done.stdout)
    assert cache.split(os.sep)[0] == folder
    assert any(path.is_file() for path in (tmp_path / folder).rglob("*"))
    assert seen_flags == flags
    assert seen_faults in faults or not GLIBC
