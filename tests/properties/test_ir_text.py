"""The IR's text form reads back to an equal tree, whatever the tree, and equal nodes become one object."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.ir.candidates import BindingLimit, Estimate, StageMemory
from planner.ir.objective import Budget, Objective
from planner.ir.parser import parse_ir
from planner.ir.printer import print_ir
from planner.ir.problem import InputDigest
from planner.ir.strategy import ServingStrategy
from planner.ir.verifier import verify_ir
from planner.ir.workload import Lengths, ServingWorkload, Slo

FLOATS = st.floats(allow_nan=False)
TEXTS = st.text(max_size=12)
OPTIONAL_FLOATS = st.none() | FLOATS | st.integers()
SLOS = st.builds(
    Slo, ttft_s=OPTIONAL_FLOATS, tpot_s=OPTIONAL_FLOATS, e2e_s=OPTIONAL_FLOATS, percentile=FLOATS
)
LENGTHS = st.builds(
    Lengths,
    samples=st.lists(st.tuples(st.integers(), st.integers(), FLOATS), max_size=4).map(tuple),
    source=TEXTS,
)
WORKLOADS = st.builds(
    ServingWorkload,
    lengths=LENGTHS,
    slo=SLOS,
    rate_rps=OPTIONAL_FLOATS,
    concurrency=st.none() | st.integers(),
    burstiness=FLOATS,
)
NODES = (
    WORKLOADS
    | SLOS
    | st.builds(Budget, num_devices=st.none() | st.integers(), power_w=OPTIONAL_FLOATS)
    | st.builds(Objective, name=TEXTS, robust=FLOATS)
    | st.builds(InputDigest, role=TEXTS, name=TEXTS, sha256=TEXTS)
    | st.builds(ServingStrategy, tp=st.integers(), pp=st.integers())
    | st.builds(Estimate, value=FLOATS, unit=TEXTS)
    | st.builds(
        StageMemory,
        stage=st.integers(),
        parts=st.lists(st.tuples(TEXTS, FLOATS), max_size=3).map(tuple),
        capacity_bytes=FLOATS,
    )
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(NODES)
def test_text_reads_back_to_an_equal_tree(node: object) -> None:
    text = print_ir(node)
    back = parse_ir(text)
    assert back == node
    assert repr(back) == repr(node)
    assert print_ir(back) == text


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.text(max_size=60))
def test_strings_of_any_kind_survive(text: str) -> None:
    node = BindingLimit(name=text, limit=None, best_reachable=None, unit="", message=text)
    assert parse_ir(print_ir(node)) == node


def test_types_hold_after_reading() -> None:
    workload = ServingWorkload(lengths=Lengths(samples=((4000, 500, 1.0),)), slo=Slo(ttft_s=1.0))
    assert verify_ir(workload) == []
    wrong = replace(workload, lengths=Lengths(samples=((4000, 0, 0.5),)))
    assert verify_ir(wrong) == [
        "ServingWorkload.lengths: lengths and weights must be positive",
        "ServingWorkload.lengths: weights must sum to 1",
    ]
