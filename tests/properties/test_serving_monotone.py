"""More bandwidth, compute, memory or devices, or a looser limit, never gives a worse serving optimum.

Times between priced batch sizes are linear, so curves of different hardware may differ by interpolation:
a tolerance of a tenth of what counts as a tie is granted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.diagnostics import Diagnostics
from planner.frontend.models import load_model
from planner.ir.model_graph import ModelGraph
from planner.search.kinds.serving import search
from tests.serving_cases import cluster, costs, device, group, problem

TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Setting:
    memory: float = 32e9
    bandwidth: float = 1e12
    peak: float = 150e12
    nodes: int = 1
    per_node: int = 4
    isl: int = 1000
    osl: int = 150
    ttft: float = 1.0
    tpot: float = 0.05
    percentile: float = 0.0
    rate: float | None = None
    goal: str = "max_throughput"


@cache
def llama() -> ModelGraph:
    return load_model("llama-3.1-8b", diagnostics=Diagnostics())


def optimum(s: Setting) -> float | None:
    profile = device("synthetic-test", s.memory, s.bandwidth, s.peak, None)
    case = problem(
        llama(),
        cluster(group(profile, s.nodes, per_node=s.per_node)),
        isl=s.isl,
        osl=s.osl,
        ttft=s.ttft,
        tpot=s.tpot,
        percentile=s.percentile,
        rate=s.rate,
        goal=s.goal,
        token_budgets=(1024, 4096),
        max_num_seqs=128,
    )
    case = replace(case, options=replace(case.options, num_alternatives=0))
    return search(case, Diagnostics(), costs=costs).objective.value


SETTINGS = st.builds(
    Setting,
    memory=st.sampled_from([12e9, 18e9, 24e9, 40e9, 80e9]),
    bandwidth=st.floats(0.4e12, 4e12),
    peak=st.floats(60e12, 900e12),
    nodes=st.sampled_from([1, 2]),
    per_node=st.sampled_from([1, 2, 4]),
    isl=st.integers(50, 6000),
    osl=st.integers(1, 600),
    ttft=st.floats(0.1, 4.0),
    tpot=st.floats(0.008, 0.1),
    percentile=st.sampled_from([0.0, 90.0]),
)


def never_worse(before: Setting, after: Setting) -> None:
    first, second = optimum(before), optimum(after)
    if first is None:
        return
    assert second is not None
    if before.goal == "max_throughput":
        assert second >= first * (1.0 - TOLERANCE)
    else:
        assert second <= first * (1.0 + TOLERANCE)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(setting=SETTINGS, factor=st.floats(1.0, 3.0), what=st.sampled_from(["bandwidth", "memory", "peak"]))
def test_a_better_device_is_never_worse(setting: Setting, factor: float, what: str) -> None:
    never_worse(setting, replace(setting, **{what: getattr(setting, what) * factor}))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(setting=SETTINGS, factor=st.floats(1.0, 3.0), what=st.sampled_from(["ttft", "tpot"]))
def test_a_looser_limit_is_never_worse(setting: Setting, factor: float, what: str) -> None:
    never_worse(setting, replace(setting, **{what: getattr(setting, what) * factor}))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(setting=SETTINGS, more=st.integers(1, 2), rate=st.floats(0.1, 3.0))
def test_more_devices_are_never_worse(setting: Setting, more: int, rate: float) -> None:
    never_worse(setting, replace(setting, nodes=setting.nodes + more))
    asked = replace(setting, rate=rate, goal="min_devices")
    never_worse(asked, replace(asked, nodes=setting.nodes + more))
