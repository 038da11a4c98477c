"""Models, streams and order of agent graphs together, against trying every one of each on small graphs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations, permutations, product
from pathlib import Path

import pytest

from planner.ir.agent_graph import AgentProblem, LlmCall
from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan
from planner.simulate.agent_plan import expected_run
from planner.space.agent_courses import Courses, Decisions, expected_usd
from planner.space.agent_flat import Flow, flow_of
from planner.space.agent_flatten import flatten
from planner.space.agent_gains import gaining_streams
from planner.space.agent_lower import usable_models
from planner.space.agent_outcomes import worlds_of
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


def _runs(payload: AgentProblem) -> Iterator[tuple[float, float]]:
    """Yield (value, latency) of every choice of models, streams that gain and order that keeps the limits."""
    graph = payload.graph
    flow: Flow = flow_of(flatten(graph))
    worlds = worlds_of(flow)
    courses = Courses(graph, worlds)
    names = [c.name for c in flow.flat.calls]
    models = {
        c.name: [m.name for m in usable_models(graph, c.work)]
        for c in flow.flat.calls
        if isinstance(c.work, LlmCall)
    }
    for chosen in product(*models.values()):
        fixed = dict(zip(models, chosen, strict=True))
        for streams in _subsets(gaining_streams(payload, flow, fixed)):
            for order in permutations(range(len(names))):
                places = dict(zip(names, map(float, order), strict=True))
                decisions = Decisions(models=fixed, streams=streams, places=places)
                found = courses.run(decisions)
                assert found is not None
                combined, schedule = courses.combined(decisions, found)
                if courses.keeps_limits(combined, schedule):
                    cost = expected_usd(combined)
                    value = cost if graph.goal == "min_cost" else courses.value(found)
                    yield value, courses.latency_s(found)


def _plan(seed: int, tmp_path: Path) -> Plan:
    spec = tmp_path / "agents.yaml"
    spec.write_text(_spec(seed))
    return make_plan(spec, Run())


@pytest.mark.parametrize("seed", range(0, 28, 2))
def test_is_as_good_as_trying_everything_and_bounds_it(seed: int, tmp_path: Path) -> None:
    plan = _plan(seed, tmp_path)
    payload = problem_of(plan).payload
    runs = list(_runs(payload))
    if plan.objective.value is None:
        assert not runs
        return
    soonest = min((latency for _, latency in runs), default=0.0)
    slack = 1.0 + payload.e2e_slack if payload.graph.goal == "min_ttft" else float("inf")
    best = min((v for v, latency in runs if latency <= soonest * slack), default=float("inf"))
    assert plan.objective.value <= best * 1.001
    assert plan.objective.bound is not None
    assert plan.objective.bound <= min((v for v, _ in runs), default=float("inf")) * (1 + 1e-9)
    run = expected_run(payload.graph, plan.details)
    assert run.ttft_s == pytest.approx(plan.predicted["ttft_s"].value, rel=0.01)
    assert run.latency_s == pytest.approx(plan.predicted["latency_s"].value, rel=0.01)
