"""What the commands set up before any work, in processes of their own."""

import json
import os
import platform
import subprocess
import sys

import pytest

SHOW = """
import json, os, jax
from jaxsep import runtime
runtime.configure()
cache = jax.config.jax_compilation_cache_dir if jax.config.jax_enable_compilation_cache else None
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((64, 64))).block_until_ready()
print(json.dumps([cache, os.environ["XLA_FLAGS"], sum(map(len, (files for _, _, files in os.walk(cache or "/none"))))]))
"""


def shown(tmp_path, **environment):
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))
    }
    environment = {
        "JAXSEP_CACHE": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        env={**inherited, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_compiled_programs_are_kept_in_the_cache(tmp_path):
    folder, flags, files = shown(tmp_path)
    assert folder.startswith(str(tmp_path / "compiled"))
    assert files > 0
    assert flags == "--xla_cpu_prefer_vector_width=512 --xla_gpu_deterministic_ops=true"


def test_the_users_own_settings_have_the_last_word(tmp_path):
    folder, flags, _ = shown(
        tmp_path,
        JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"),
        XLA_FLAGS="--xla_gpu_deterministic_ops=false --xla_cpu_prefer_vector_width=256",
    )
    assert folder == str(tmp_path / "mine")
    assert flags == "--xla_gpu_deterministic_ops=false --xla_cpu_prefer_vector_width=256"


def test_the_cache_can_be_switched_off(tmp_path):
    assert shown(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")[0] is None
    assert list(tmp_path.iterdir()) == []


FAULTS = """
import jax, resource
from jaxsep import runtime
runtime.configure()

def loss(w, x):
    for _ in range(4):
        x = jax.numpy.tanh(x @ w)
    return x.sum()

step = jax.jit(lambda w, x: w - 1e-3 * jax.grad(loss)(w, x), donate_argnums=0)
w, x, faults = jax.numpy.eye(512), jax.numpy.ones((8192, 512)), []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    w = step(w, x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


def test_freed_memory_stays_with_the_process_unless_the_user_says_otherwise():
    """Page faults of the best of some training steps that need tens of megabytes: now and then another thread than the main
    one, whose memory cannot be kept, allocates. glibc's own default is 65536 mappings."""

    def faults(**environment):
        command = [sys.executable, "-c", FAULTS]
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MALLOC_", "GLIBC_"))
        }
        done = subprocess.run(
            command, env={**inherited, **environment}, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    if platform.libc_ver()[0] != "glibc":
        pytest.skip("memory is kept with glibc alone")
    assert faults() < 2000
    assert faults(MALLOC_MMAP_MAX_="65536") > 10000
