"""Models, streams and order of agent graphs together, against trying every one of each on small graphs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations, permutations, product
from pathlib import Path

import pytest

from planner.ir.agent_graph import AgentProblem, LlmCall
from planner.ir.scheduling_problem import SchedulingProblem
from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan
from planner.search.heft import list_schedule
from planner.space.agent_flat import Flow, flow_of
from planner.space.agent_flatten import flatten
from planner.space.agent_gains import gaining_streams
from planner.space.agent_lower import lower, usable_models
from planner.space.agent_streams import Stream
from planner.verify import problem_of

SHAPES = (
    "a -> z, b -> z",
    "a -> b, b -> z",
    "a -> b, a -> z, b -> z",
    "a -> c, b -> c, c -> z",
    "a -> b, a -> c, b -> z, c -> z",
)


def _spec(seed: int) -> str:
    """Return a graph of up to four calls that may stream, on one or two models with few slots."""
    rng = random.Random(seed)
    pairs = [tuple(edge.split(" -> ")) for edge in rng.choice(SHAPES).split(", ")]
    names = sorted({name for pair in pairs for name in pair})
    models = {
        f"m{i}": f"{{prefill_tokens_per_s: {rng.choice([800, 4000])}, "
        f"decode_s_per_token: {rng.choice([0.01, 0.02, 0.03])}, overhead_s: {rng.choice([0.02, 0.3])}, "
        f"slots: {rng.randint(1, 2)}, cache_block_tokens: {rng.choice([0, 16])}, "
        f"usd_per_million_input: {rng.choice([1, 5])}, usd_per_million_output: {rng.choice([2, 20])}}}"
        for i in range(2)
    }
    nodes: list[str] = []
    for name in names:
        parts = ", ".join(["{static: 100}", *(f"{{from: {s}}}" for s, t in pairs if t == name)])
        chosen = "[m0, m1]" if rng.random() < 0.7 else rng.choice(["[m0]", "[m1]"])
        partial = ", partial_inputs: true" if any(t == name for _, t in pairs) else ""
        written = rng.choice([60, 200, 400])
        nodes.append(f"  {name}: {{models: {chosen}, prompt: [{parts}], output: {written}{partial}}}")
    limit = rng.choice(["", "budget_usd: 0.02", "budget_usd: 0.008", "deadline_s: 14"])
    return "\n".join(
        [
            "kind: agents",
            "search: {time_limit: 10min}",
            f"goal: {rng.choice(['min_ttft', 'min_latency', 'min_latency', 'min_cost'])}",
            limit,
            "models:",
            *(f"  {name}: {text}" for name, text in models.items()),
            "nodes:",
            *nodes,
            "",
        ]
    )


def _subsets(streams: dict[str, Stream]) -> Iterator[dict[str, Stream]]:
    for count in range(len(streams) + 1):
        for names in combinations(streams, count):
            yield {name: streams[name] for name in names}


def _quickest(problem: SchedulingProblem) -> float | None:
    """Return the best value over every order of the tasks, each placed as early as it can be."""
    count = len(problem.tasks)
    found = [list_schedule(problem, order) for order in permutations(range(count))]
    return min((problem.objective(s) for s in found if s is not None), default=None)


def _best_by_enumeration(payload: AgentProblem) -> float | None:
    graph = payload.graph
    flow: Flow = flow_of(flatten(graph))
    models = {
        c.name: [m.name for m in usable_models(graph, c.work)]
        for c in flow.flat.calls
        if isinstance(c.work, LlmCall)
    }
    best: float | None = None
    for chosen in product(*models.values()):
        fixed = dict(zip(models, chosen, strict=True))
        for streams in _subsets(gaining_streams(payload, flow, fixed)):
            value = _quickest(lower(graph, flow, streams, fixed).problem)
            if value is not None and (best is None or value < best):
                best = value
    return best


def _plan(seed: int, tmp_path: Path) -> Plan:
    spec = tmp_path / "agents.yaml"
    spec.write_text(_spec(seed))
    return make_plan(spec, Run())


@pytest.mark.parametrize("seed", range(28))
def test_equals_trying_everything(seed: int, tmp_path: Path) -> None:
    plan = _plan(seed, tmp_path)
    expected = _best_by_enumeration(problem_of(plan).payload)
    if expected is None:
        assert plan.status == "infeasible"
        return
    assert plan.status == "optimal"
    assert plan.objective.value == pytest.approx(expected, rel=1e-5)
    assert plan.objective.bound is not None
    assert plan.objective.bound <= expected * (1 + 1e-9)
