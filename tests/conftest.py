"""Settings of every test: CPU backend, rank promotion raises, shared folders found or the test skipped with its reason."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The runs of the tests compile the same few programs again and again: once is enough. Their processes inherit this.
_compiled = tempfile.mkdtemp(prefix="jaxsep-compiled-")
atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
# As the commands do (`jaxsep.runtime`): a run in a process of its own and one in this process are compared bit for bit.
os.environ["XLA_FLAGS"] = "--xla_cpu_prefer_vector_width=512 --xla_gpu_deterministic_ops=true"

import hypothesis  # noqa: E402
import jax  # noqa: E402  the settings above are read on import
import pytest  # noqa: E402
import runs  # noqa: E402

from jaxsep.main import main  # noqa: E402

# The same examples every time, and no folder of those that failed.
hypothesis.settings.register_profile("jaxsep", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("jaxsep")
jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(os.environ.get("JAXSEP_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pack_cache(cache_folder):
    """One cache of packed corpora for all runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXSEP_CACHE", str(cache_folder))
        yield


@pytest.fixture(scope="session")
def finished_run(cache_folder, tmp_path_factory) -> Path:
    """The folder of a small run of two epochs that nothing disturbed; to be read or copied."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXSEP_CACHE", str(cache_folder))
        assert main(runs.arguments(workdir)) == 0
    return workdir


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Numbers computed with the authors' released code."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip(f"the authors' reference numbers are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def recordings_dir() -> Path:
    """Real recordings: ESC-50/, ESC-50-44k/ and speech/."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"the real recordings are not at {folder}")
    return folder
