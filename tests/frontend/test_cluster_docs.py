"""The examples of docs/clusters.md are read as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.clusters import parse_cluster
from planner.frontend.yaml_source import parse_document

TEXT = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text(encoding="utf-8")
SHORTHANDS = [
    text for row in re.findall(r"^\| (`[^|]*) \|", TEXT, re.M) for text in re.findall(r"`([^`]+)`", row)
]
INVENTORIES = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)


def test_there_are_examples() -> None:
    assert len(SHORTHANDS) >= 9
    assert len(INVENTORIES) == 3


@pytest.mark.parametrize("text", SHORTHANDS)
def test_shorthands(text: str) -> None:
    assert parse_cluster(text, source=None, diagnostics=Diagnostics()).num_devices >= 8


@pytest.mark.parametrize("text", INVENTORIES)
def test_inventories(text: str) -> None:
    document = parse_document(text, file="docs/clusters.md")
    cluster = parse_cluster(document.data, source=None, diagnostics=Diagnostics(), lines=document.lines)
    assert cluster.num_devices >= 32
