from __future__ import annotations

import re
from pathlib import Path

from planner.verify import RULES


def test_every_rule_is_named_by_a_mutant_test() -> None:
    tests = [p for p in Path(__file__).parents[1].rglob("test_*.py") if p != Path(__file__)]
    text = "".join(p.read_text(encoding="utf-8") for p in tests)
    named = set(re.findall(r'"([a-z]+(?:-[a-z]+)*)"', text))
    assert set(RULES.names()) - named == set()
