"""What ruff cannot see: lengths of files and functions, names, words that do not belong."""

from __future__ import annotations

import re
from pathlib import Path

from .sources import ROOT, functions, shown, source_files, tree

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".sh", ".json", ".csv", ".lock", ""}
# The places where this repository is worked on are no part of it.
PRIVATE_PLACES = re.compile(r"/work/(main|wt|venv|shared|brief)|\.\./shared/")


def test_files_stay_short() -> None:
    sizes = {shown(p): len(p.read_text(encoding="utf-8").splitlines()) for p in source_files()}
    assert {name: n for name, n in sizes.items() if n > MAX_FILE_LINES} == {}


def test_functions_stay_short() -> None:
    long = {
        f"{shown(path)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in source_files()
        for node in functions(path)
    }
    assert {name: n for name, n in long.items() if n > MAX_FUNCTION_LINES} == {}


def test_no_vague_module_names() -> None:
    assert [shown(p) for p in source_files() if p.stem in VAGUE_NAMES] == []


def test_nothing_is_left_unfinished() -> None:
    found = [
        f"{shown(path)}:{number}"
        for path in source_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if UNFINISHED.search(line)
    ]
    assert found == []


def test_every_module_says_what_it_is() -> None:
    import ast

    missing = [shown(p) for p in source_files() if not (ast.get_docstring(tree(p)) or "").strip()]
    assert missing == []


def _repository_texts() -> list[Path]:
    folders = ("planner", "cost_models", "hardware_profiles", "tests", "examples", "docs", ".ci")
    inside = (p for name in folders for p in (ROOT / name).rglob("*"))
    files = [
        p
        for p in (*ROOT.glob("*"), *inside)
        if p.is_file() and p.name != ".git" and "__pycache__" not in p.parts
    ]
    return [p for p in files if p.suffix in TEXT_SUFFIXES and p != Path(__file__).resolve()]


def test_no_path_of_a_private_workplace() -> None:
    found = [
        shown(p)
        for p in _repository_texts()
        if PRIVATE_PLACES.search(p.read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == []
