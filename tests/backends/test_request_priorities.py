"""Switches that let servers go by the priorities of requests."""

from __future__ import annotations

import pytest

from planner.backends import BACKENDS, ExportOptions, export_files
from planner.errors import UnsupportedError

from .plans import for_engine, load

OPTIONS = ExportOptions(request_priorities=True)


@pytest.mark.parametrize(
    ("backend", "engine", "switch"),
    [
        ("vllm", "vllm", "scheduling-policy"),
        ("sglang", "sglang", "enable-priority-scheduling"),
        ("kubernetes", "vllm", "scheduling-policy"),
        ("ray_serve", "vllm", "scheduling_policy"),
    ],
)
def test_are_written_where_they_are_asked_for(backend: str, engine: str, switch: str) -> None:
    plan = for_engine(load("llama-tp8"), engine)
    chosen = BACKENDS.get(backend)
    asked = "".join(f.text for f in export_files(chosen, plan, OPTIONS))
    assert switch in asked
    assert switch not in "".join(f.text for f in export_files(chosen, plan, ExportOptions()))
    counted_on = plan.model_copy(update={"details": {"request_priorities": True}})
    assert "".join(f.text for f in export_files(chosen, counted_on, ExportOptions())) == asked


def test_engine_without_priorities_is_refused_by_name() -> None:
    plan = for_engine(load("llama-tp8"), "trtllm")
    with pytest.raises(UnsupportedError, match="priority") as error:
        export_files(BACKENDS.get("trtllm"), plan, OPTIONS)
    assert error.value.key == "pools[0].engine"
