"""Import contracts of pyproject.toml, and a command line that starts fast."""

from __future__ import annotations

import json
import subprocess
import sys

from .sources import ROOT

HEAVY = ("numpy", "pydantic", "ortools", "yaml", "networkx", "rich", "scipy", "pandas", "importlib.metadata")


def _modules_after(statement: str) -> set[str]:
    code = f"{statement}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout))


def test_import_contracts_hold() -> None:
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_building_the_command_line_imports_nothing_heavy() -> None:
    loaded = _modules_after("from planner.cli.main import build_app; build_app()")
    assert sorted(loaded.intersection(HEAVY)) == []


def test_importing_the_library_imports_nothing_heavy() -> None:
    loaded = _modules_after("import planner")
    assert sorted(loaded.intersection((*HEAVY, "typer"))) == []
