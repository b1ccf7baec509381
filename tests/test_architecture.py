"""The house rules that a machine can check: who imports whom, fences, file sizes, light imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "genjax"

# Room -> rooms it may import (besides itself). The order of the table in docs/design.md.
_NUMERICAL = {"core", "parallel", "process", "solvers", "layers", "models", "objectives"}
MAY_IMPORT = {
    "core": set(),
    "parallel": {"core"},
    "process": {"core"},
    "solvers": {"core", "process"},
    "layers": {"core", "parallel"},
    "models": {"core", "layers", "parallel"},
    "objectives": {"core", "process"},
    "weights": {"core", "models"},
    "tasks": _NUMERICAL | {"weights"},
    "checkpoint": {"core", "parallel"},
    "training": {"core", "parallel", "checkpoint"},
    "data": {"core"},
    "evaluation": {"core", "models", "parallel"},
    "scaling": {"core", "parallel", "checkpoint", "training", "evaluation"},
    "cli": _NUMERICAL
    | {"weights", "tasks", "checkpoint", "training", "data", "evaluation", "scaling"},
}
# Library -> the only rooms that may import it.
FENCES = {
    "orbax": {"checkpoint"},
    "grain": {"data"},
    "tensorflow": {"data"},
    "tensorflow_datasets": {"data"},
    "array_record": {"data"},
    "torch": {"weights"},
    "diffusers": set(),
    "transformers": set(),
    "tensorboardX": {"training"},
    "wandb": {"training"},
    "pickle": set(),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Returns the full names of all modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_in_the_direction_of_the_table(path):
    room = room_of(path)
    if room == "__init__.py":
        return
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "genjax" and len(parts) > 1 and parts[1] != room:
            assert parts[1] in MAY_IMPORT[room], f"genjax/{room} must not import genjax.{parts[1]}"
        allowed = FENCES.get(parts[0])
        assert allowed is None or room in allowed, f"genjax/{room} must not import {parts[0]}"
        assert parts[0] != "configs" or room == "cli"


def test_every_room_has_its_row():
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert rooms == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 450


def test_importing_genjax_is_light():
    """No data, plotting or foreign framework loads with the package or with a model's task."""
    code = (
        "import sys, genjax.tasks, genjax.training, genjax.data\n"
        "heavy = {'tensorflow', 'torch', 'matplotlib', 'sklearn', 'grain', 'tensorboardX'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr
