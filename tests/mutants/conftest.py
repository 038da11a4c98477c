from __future__ import annotations

import pytest

from .cases import plain_engine


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.verify.serving.view.load_software", lambda _: plain_engine())
