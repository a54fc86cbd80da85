"""Who may import whom, read from the source: the rooms of the house stay apart."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "jaxsep"
FILES = sorted(PACKAGE.rglob("*.py"))
# Room -> what of jaxsep it may import beside itself; command modules, settings and the package's own __init__ may import all.
ALLOWED = {
    "objective": set(),
    "models": set(),
    "data": set(),
    "evaluation": {"objective"},
    "inference": {"models", "objective", "data.audio"},
    "training": {"objective", "models", "data", "evaluation"},
    "benchmark": {"objective", "models", "data", "training", "runtime", "__version__"},
}
# The files where a configuration becomes plain arguments; they also write the model bundle and read the settings.
CONFIGURED = {"training/build.py", "training/folder.py", "training/run.py", "training/experiment.py"}


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [node.module] if node.module != "jaxsep" else []
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_stay_apart(path):
    place = path.relative_to(PACKAGE)
    found = imports(path)
    roots = {name.split(".")[0] for name in found}
    if str(place) != "benchmark/asteroid_worker.py":  # runs in the peer's environment
        assert not roots & {"torch", "tensorflow"}
    if "orbax" in roots:
        assert str(place) == "training/checkpoint.py"
    if "flax" in roots:
        assert place.parts[0] == "models"
    if "jax" in roots:
        assert place.parts[0] != "data"
    if "ml_collections" in roots:
        assert str(place) in CONFIGURED | {"settings.py", "rules.py"}
    if len(place.parts) == 1:
        return
    room, allowed = place.parts[0], ALLOWED[place.parts[0]]
    if "jaxsep" in found:
        assert str(place) in {"inference/bundle.py", "training/experiment.py"}, "these read jaxsep.__version__"
    for name in found:
        if not name.startswith("jaxsep.") or name.startswith(f"jaxsep.{room}"):
            continue
        inner = name.removeprefix("jaxsep.")
        if str(place) in CONFIGURED and inner.split(".")[0] in {"settings", "rules", "inference"}:
            continue
        assert any(inner == a or inner.startswith(f"{a}.") or a.startswith(inner) for a in allowed), (
            f"{place} imports {name}"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_can_be_read_in_an_afternoon(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 320


def test_the_library_imports_no_torch_tensorflow_or_matplotlib():
    code = (
        "import sys, jaxsep, jaxsep.main, jaxsep.report; "
        "print([m for m in ('torch', 'tensorflow', 'matplotlib') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
