"""Who may import whom, read from the source: a room imports from lower floors only."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "jaxsep"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the ground up; what is not named here is a command, which may import everything.
FLOORS = [
    {"errors", "files", "console", "runtime"},
    {"objective", "models", "data"},
    {"config"},
    {"evaluation"},
    {"inference"},
    {"training"},
    {"report", "benchmark"},
]
# Packages that only some files may import.
OWNERS = {
    "orbax": {"training/checkpoint.py"},
    "torch": {"benchmark/asteroid_worker.py"},  # runs in the peer's environment
    "tensorflow": set(),
}


def imports(node: ast.AST) -> list[str]:
    names = []
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import):
            names += [alias.name for alias in inner.names]
        elif isinstance(inner, ast.ImportFrom):
            assert inner.level == 0, "relative import"
            names += [f"{inner.module}.{alias.name}" for alias in inner.names]
    return names


def modules(path: Path) -> set[Path]:
    """The files of the package that a file imports."""
    found = set()
    for name in imports(ast.parse(path.read_text(encoding="utf-8"))):
        parts = name.split(".")
        if parts[0] != "jaxsep":
            continue
        for end in range(len(parts), 0, -1):
            place = PACKAGE.joinpath(*parts[1:end])
            file = place.with_suffix(".py") if end > 1 else place / "__init__.py"
            if file.is_file() or (file := place / "__init__.py").is_file():
                found.add(file)
                break
    return found - {path, PACKAGE / "__init__.py"}


def floor(place: Path) -> int:
    room = place.parts[0].removesuffix(".py")
    return next((n for n, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_from_its_room_and_lower_floors(path):
    place = path.relative_to(PACKAGE)
    if place.name == "__init__.py" and len(place.parts) == 1:
        return  # the library's own list of what is public
    for target in modules(path):
        other = target.relative_to(PACKAGE)
        same_room = place.parts[0] == other.parts[0] and len(place.parts) > 1
        ground = floor(place) == floor(other) == 0
        assert same_room or ground or floor(other) < floor(place), f"{place} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_packages_that_are_its_to_use(path):
    place = path.relative_to(PACKAGE)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    roots = {name.split(".")[0] for name in imports(tree)}
    for package, owners in OWNERS.items():
        assert package not in roots or str(place) in owners, f"{place} imports {package}"
    assert "flax" not in roots or place.parts[0] == "models" or "flax.linen" not in imports(tree)
    assert "jax" not in roots or place.parts[0] not in ("data", "report")


def test_nothing_is_imported_in_a_circle():
    graph = {path: modules(path) for path in FILES}
    order = list(TopologicalSorter(graph).static_order())  # a circle raises CycleError
    assert set(order) == {*FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_function_imports_jaxsep_to_dodge_a_circle(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert not [name for name in imports(node) if name.startswith("jaxsep")]


def test_the_library_imports_no_torch_tensorflow_or_packages_of_the_report():
    code = (
        "import sys, jaxsep, jaxsep.main; kept_out = ('torch', 'tensorflow', 'matplotlib', "
        "'pandas', 'jinja2', 'jaxsep.report'); print([m for m in kept_out if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
