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
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((64, 64))).block_until_ready()
print(json.dumps([jax.config.jax_compilation_cache_dir, os.environ["XLA_FLAGS"]]))
"""


def run(code: str, **environment: str) -> str:
    """What a Python process prints, without the settings that the tests' own process has."""
    ours = ("JAX_", "XLA_", "MALLOC_", "GLIBC_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(
    ("environment", "folder", "files", "flags"),
    [
        (
            {},
            "compiled",
            True,
            "--xla_cpu_prefer_vector_width=512 --xla_gpu_deterministic_ops=true",
        ),
        (
            {
                "JAX_COMPILATION_CACHE_DIR": "mine",
                "XLA_FLAGS": "--xla_gpu_deterministic_ops=false --xla_cpu_prefer_vector_width=256",
            },
            "mine",
            True,
            "--xla_gpu_deterministic_ops=false --xla_cpu_prefer_vector_width=256",
        ),
        (
            {"JAX_ENABLE_COMPILATION_CACHE": "false"},
            "compiled",
            False,
            "--xla_cpu_prefer_vector_width=512 --xla_gpu_deterministic_ops=true",
        ),
    ],
    ids=["ours", "the user's", "no cache"],
)
def test_programs_are_kept_and_the_user_has_the_last_word(
    tmp_path, monkeypatch, environment, folder, files, flags
):
    monkeypatch.chdir(tmp_path)
    settings = {"JAXSEP_CACHE": ".", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    cache, seen_flags = json.loads(run(SHOW, **settings, **paths, **environment))
    assert cache.split(os.sep)[0] == folder
    assert seen_flags == flags
    assert any(path.is_file() for path in tmp_path.rglob("*")) == files


FAULTS = """
import jax, resource
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
print(min(faults))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept with glibc alone")
@pytest.mark.parametrize(
    ("environment", "least", "most"),
    [({}, 0, 1000), ({"MALLOC_MMAP_MAX_": "65536"}, 4000, 10**9)],
    ids=["kept", "the user's"],
)
def test_freed_memory_stays_with_the_process(environment, least, most):
    """Page faults of the best of 5 training steps, each with tens of megabytes.

    Now and then another thread than the main one allocates, whose memory cannot be kept. 65536
    mappings are glibc's own default.
    """
    assert least <= int(run(FAULTS, **environment)) <= most
