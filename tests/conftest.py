"""Settings of every test, the folders that tests share, and the small run that many look at."""

import atexit
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The runs of the tests compile the same few programs again and again: once is enough. Their
# processes inherit this.
_compiled = tempfile.mkdtemp(prefix="jaxsep-compiled-")
atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
# As the commands do (`jaxsep.runtime`): a run in a process of its own and one in this process are
# compared bit for bit.
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
def shared_folder(tmp_path_factory) -> Path:
    """A temporary folder of this session, the same for all processes that share its tests."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="module")
def pack_cache(shared_folder):
    """One cache of packed corpora for all runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXSEP_CACHE", str(shared_folder / "cache"))
        yield


@pytest.fixture(scope="session")
def finished_run(shared_folder) -> Path:
    """The folder of a small run of two epochs that nothing disturbed; to be read or copied."""
    workdir = shared_folder / "finished"
    with open(shared_folder / "finished.lock", "w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        patch.setenv("JAXSEP_CACHE", str(shared_folder / "cache"))
        if not workdir.exists():
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
