"""Most runs per second of agent graphs, against every choice of models and every vertex of the program."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest

from cost_models.agents.queues import mean_wait_s
from planner.pipeline import Run, check, make_plan
from planner.plan.schema import Plan
from planner.simulate.agent_load import LoadOptions, Program, simulate_load
from planner.verify import problem_of

LOADS = (0.98, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)


@dataclass(frozen=True)
class Model:
    prefill: int
    decode_s: float
    overhead_s: float
    slots: int
    calls_per_minute: int | None

    def length_s(self, prompt: float, output: float) -> float:
        return self.overhead_s + prompt / self.prefill + output * self.decode_s


@dataclass(frozen=True)
class Case:
    """a, then b and c side by side, then with some probability d."""

    models: dict[str, Model]
    outputs: dict[str, int]
    chance: float
    deadline_s: float | None

    def spec(self) -> str:
        rows = [
            f"  {name}: {{prefill_tokens_per_s: {m.prefill}, decode_s_per_token: {m.decode_s}, "
            f"overhead_s: {m.overhead_s}, slots: {m.slots}"
            + (f", calls_per_minute: {m.calls_per_minute}" if m.calls_per_minute else "")
            + "}"
            for name, m in self.models.items()
        ]
        nodes = [
            f"  {n}: {{models: [m0, m1], prompt: [{{static: 100}}], output: {o}}}"
            for n, o in self.outputs.items()
        ]
        limit = [] if self.deadline_s is None else [f"deadline_s: {self.deadline_s}"]
        edges = f"edges: [a -> b, a -> c, b -> j, c -> j, {{from: j, to: d, probability: {self.chance}}}]"
        head = ["kind: agents", "goal: max_throughput", "search: {time_limit: 10min}", *limit, "models:"]
        return "\n".join([*head, *rows, "nodes:", *nodes, "  j: {kind: router}", edges, ""])

    def calls(self) -> list[tuple[str, float]]:
        return [("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", self.chance)]

    def best(self, load: float) -> float:
        """Return the most runs per second with servers busy for `load`; waits as documented."""
        waits = self._waits(load) if load < 1.0 else dict.fromkeys(self.models, 0.0)
        capacity: list[float] = []
        for model in self.models.values():
            capacity.append(model.slots * load)
            if model.calls_per_minute:
                capacity.append(model.calls_per_minute / 60 * load)
        routes = [
            self._uses(dict(zip("abcd", picks, strict=True)))
            for picks in product(self.models, repeat=4)
            if self._in_time(dict(zip("abcd", picks, strict=True)), waits)
        ]
        return most(np.array(routes).T, np.array(capacity)) if routes else 0.0

    def _uses(self, route: dict[str, str]) -> list[float]:
        found: list[float] = []
        for name, model in self.models.items():
            mine = [(n, w) for n, w in self.calls() if route[n] == name]
            found.append(sum(w * model.length_s(100, self.outputs[n]) for n, w in mine))
            if model.calls_per_minute:
                found.append(sum(w for _, w in mine))
        return found

    def _in_time(self, route: dict[str, str], waits: dict[str, float]) -> bool:
        if self.deadline_s is None:
            return True
        took = {n: waits[m] + self.models[m].length_s(100, self.outputs[n]) for n, m in route.items()}
        return took["a"] + max(took["b"], took["c"]) + took["d"] <= self.deadline_s + 1e-9

    def _waits(self, load: float) -> dict[str, float]:
        # b and c may come at once; all calls may run on either model
        return {
            name: mean_wait_s(m.slots, load, max(m.length_s(100, o) for o in self.outputs.values()), 0.0, 2)
            for name, m in self.models.items()
        }


def most(uses: np.ndarray, capacity: np.ndarray) -> float:
    """Return max sum x with uses x <= capacity, x >= 0, from all vertices."""
    rows, columns = uses.shape
    wide = np.hstack([uses, np.eye(rows)])
    best = 0.0
    for basis in combinations(range(columns + rows), rows):
        square = wide[:, basis]
        if abs(np.linalg.det(square)) < 1e-12:
            continue
        values = np.linalg.solve(square, capacity)
        if (values >= -1e-9).all():
            best = max(best, sum(v for v, i in zip(values, basis, strict=True) if i < columns))
    return best


def case(seed: int) -> Case:
    rng = random.Random(seed)
    models = {
        f"m{i}": Model(
            prefill=rng.choice([1000, 4000]),
            decode_s=rng.choice([0.005, 0.01, 0.03]),
            overhead_s=rng.choice([0.02, 0.2]),
            slots=rng.choice([2, 4, 16]),
            calls_per_minute=rng.choice([None, None, 60]),
        )
        for i in range(2)
    }
    outputs = {n: rng.choice([20, 100, 200]) for n in "abcd"}
    return Case(
        models=models,
        outputs=outputs,
        chance=rng.choice([0.25, 0.6]),
        deadline_s=rng.choice([None, 4.0, 8.0, 14.0]),
    )


def plan_of(text: str, tmp_path: Path) -> Plan:
    spec = tmp_path / "agents.yaml"
    spec.write_text(text)
    return make_plan(spec, Run())


@pytest.mark.parametrize("seed", range(12))
def test_equals_every_route_and_vertex(seed: int, tmp_path: Path) -> None:
    own = case(seed)
    plan = plan_of(own.spec(), tmp_path)
    expected = own.best(1.0) if own.deadline_s is None else max(own.best(load) for load in LOADS)
    if expected == 0.0:
        assert plan.status == "infeasible"
        return
    assert plan.status == "optimal"
    assert plan.objective.value == pytest.approx(expected, rel=1e-4)
    assert plan.objective.bound == pytest.approx(expected, rel=1e-4)
    assert check(plan).passed


def test_the_simulation_sustains_what_is_planned_and_no_more(tmp_path: Path) -> None:
    own = case(5)
    plan = plan_of(own.spec(), tmp_path)
    graph = problem_of(plan).payload.graph
    planned = plan.objective.value
    assert planned is not None

    def ended(rate: float) -> float:
        program = Program(name="own", graph=graph, details=plan.details, runs_per_s=rate)
        options = LoadOptions(num_runs=1500, arrivals="even")
        return simulate_load([program], options)["own"].ended_per_s

    assert ended(0.97 * planned) == pytest.approx(0.97 * planned, rel=0.02)
    assert ended(1.2 * planned) == pytest.approx(planned, rel=0.04)


def test_a_deadline_is_kept_in_the_simulation_with_its_waits(tmp_path: Path) -> None:
    text = (
        "kind: agents\ngoal: max_throughput\ndeadline_s: 5\nmodels:\n"
        "  m: {prefill_tokens_per_s: 1e9, decode_s_per_token: 0.01, overhead_s: 0, slots: 8}\n"
        "nodes:\n  a: {model: m, output: 100}\n  b: {model: m, output: 200}\nedges: [a -> b]\n"
    )
    plan = plan_of(text, tmp_path)
    graph = problem_of(plan).payload.graph
    planned = plan.objective.value
    assert planned is not None
    assert planned == pytest.approx(8 / 3 * 0.9)
    program = Program(name="m", graph=graph, details=plan.details, runs_per_s=planned)
    seen = simulate_load([program], LoadOptions(num_runs=4000))["m"]
    assert seen.mean_latency_s <= 5.0
    assert seen.mean_latency_s == pytest.approx(plan.predicted["latency_s"].value, rel=0.15)
