"""Who may import whom, read from the source: the rooms of the house stay apart."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "jaxsep"
FILES = sorted(PACKAGE.rglob("*.py"))
# Room -> the rooms below it, which it may import; the commands may import all.
ALLOWED = {
    "objective": set(),
    "models": set(),
    "data": set(),
    "config": {"objective", "models", "data", "evaluation"},
    "evaluation": {"objective", "models", "data", "config"},
    "inference": {"objective", "models", "data", "config", "evaluation"},
    "training": {"objective", "models", "data", "config", "evaluation", "inference"},
    "report": {"objective", "models", "data", "config", "evaluation", "inference", "training"},
    "benchmark": {"objective", "models", "data", "config", "evaluation", "inference", "training", "runtime"},
}


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
    if len(place.parts) == 1:
        return
    room, allowed = place.parts[0], ALLOWED[place.parts[0]]
    for name in found:
        if name.startswith("jaxsep.") and name.split(".")[1] not in {room, "__version__"}:
            assert name.split(".")[1] in allowed, f"{place} imports {name}"


def test_the_library_imports_no_torch_tensorflow_or_matplotlib():
    code = (
        "import sys, jaxsep, jaxsep.main, jaxsep.report; "
        "print([m for m in ('torch', 'tensorflow', 'matplotlib') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
