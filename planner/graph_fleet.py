"""An agent graph together with the fleet that serves its models: the deadline is split over the calls.

The graph says what each model is asked (requests per second, lengths, bunches). What is decided is the limit
on the time to the first token and per further token of every model: tight limits need more devices. For each
model alone the least that a fleet costs under every limit of a grid is found; mixtures of limits are tried
from the cheapest sum on, and the first under which every outcome of the graph is in time is planned for all
models together. The sum is below what any fleet for these limits costs, as each model could have the whole
inventory, so the search ends as soon as the next sum is no cheaper than the best fleet found. The splits that
people make without a search need not be on the grid: one that costs less is the answer in its place.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, product
from pathlib import Path
from typing import Any, cast

from planner.errors import InputError
from planner.frontend.quantities import rate_rps, time_s
from planner.frontend.serve_section import serve_section
from planner.frontend.spec_tree import SpecTree
from planner.frontend.specs import load_spec, read_problem
from planner.ir.agent_graph import AgentProblem, Human, LlmCall, ToolCall
from planner.pipeline import Run, solve
from planner.plan.schema import Plan
from planner.space.agent_flat import Flow, flow_of
from planner.space.agent_flatten import flatten
from planner.space.agent_lower import output_tokens, usable_models
from planner.space.agent_outcomes import worlds_of
from planner.space.agent_traffic import ModelTraffic, latest_end_s, prioritised, traffic_of, with_models

GOALS = ("min_cost", "min_devices", "min_power")
TTFT_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
TPOT_S = (0.006, 0.008, 0.010, 0.0125, 0.016, 0.020, 0.025, 0.032, 0.040, 0.050, 0.064, 0.080, 0.100)
_SPEEDS = ("prefill_tokens_per_s", "decode_s_per_token", "overhead_s", "slots", "replicas")
_NAIVE = ("equal", "proportional")
_MAX_CHOICES = 16
_MAX_TRIED = 300_000
_MAX_FLEETS = 12
_TIE = 1e-9
_HAIR = 1e-4
"""Share by which naive limits stay below the deadline: the graph's times are rounded up to ticks."""
_INSTANT = 1e12
_MANY = 100_000

Limit = tuple[float, float]
"""Seconds to the first token, and per further token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFleet:
    """The answer: limits and traffic by model, both plans, and what no split of the grid costs less than.

    `split` is where the limits come from: "grid", or the name of a naive split that costs less. `grid` is
    what the best split found on the grid costs, `naive` what the fleet costs if the deadline is split without
    a search; None where no fleet does it in time.
    """

    limits: dict[str, Limit]
    traffic: dict[str, ModelTraffic]
    rate_rps: float
    graph: Plan
    fleet: Plan
    bound: float
    num_priced: int
    split: str
    grid: float | None
    naive: dict[str, float | None]

    @property
    def gap(self) -> float:
        """The share by which the fleet may cost more than the best split of the grid."""
        value = self.fleet.objective.value or 0.0
        return (value - self.bound) / value if value > 0.0 else 0.0

    def as_dict(self) -> dict[str, object]:
        """Return it as plain values, without the plans."""
        goal = self.fleet.objective
        return {
            "objective": {"name": goal.name, "unit": goal.unit, "value": goal.value, "bound": self.bound},
            "gap": self.gap,
            "latency_s": self.graph.predicted["latency_s"].value,
            "models": {
                name: {
                    "rate_rps": self.rate_rps * self.traffic[name].per_run,
                    "burstiness": self.traffic[name].burstiness,
                    "ttft_s": limit[0],
                    "tpot_s": limit[1],
                }
                for name, limit in self.limits.items()
            },
            "split": self.split,
            "grid": self.grid,
            "naive": self.naive,
            "fleets_priced": self.num_priced,
        }


def plan_graph_fleet(source: str | Path | Mapping[str, object], run: Run) -> GraphFleet:
    """Return the cheapest split of a graph's deadline with its fleet and its plan.

    Raises
    ------
    InputError
        If the spec is wrong, or no split of the grid is in time on this inventory.
    """
    return _Split(load_spec(source), run).best()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """One choice of models: the traffic, and the calls of each model by name with their answers in tokens."""

    chosen: dict[str, str]
    traffic: dict[str, ModelTraffic]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Priced:
    """Limits with a fleet that keeps them, and what that costs."""

    split: str
    choice: _Choice
    limits: dict[str, Limit]
    fleet: Plan
    value: float


@dataclass(slots=True, kw_only=True)
class _Costs:
    """Least costs (value, bound) of single models by traffic and limit; None where there is no fleet."""

    known: dict[tuple[ModelTraffic, Limit], tuple[float, float] | None] = field(default_factory=dict)


class _Split:
    def __init__(self, tree: SpecTree, run: Run) -> None:
        self.tree, self.run = tree, run
        self.section = serve_section(tree)
        self.entries = cast("dict[str, dict[str, object]]", self.section["models"])
        self.rate_rps = self._value("rate", rate_rps, None)
        self.ttft_s = self._grid("ttft", TTFT_S)
        self.tpot_s = self._grid("tpot", TPOT_S)
        self.graph = self._graph_problem(dict.fromkeys(self.entries, (1.0, 0.02))).payload.graph
        self.flow: Flow = flow_of(flatten(self.graph))
        self.worlds = worlds_of(self.flow)
        self.costs = _Costs()
        if self.graph.deadline_s is None:
            raise tree.error("there is no deadline to split", ("deadline_s",), hint="State deadline_s.")

    # -- reading ---------------------------------------------------------------------------------

    def _value(self, key: str, parse: Any, default: float | None) -> float:
        if key not in self.section and default is None:
            raise self.tree.error("is missing", ("serve", key))
        try:
            return float(parse(self.section.get(key, default)))
        except InputError as error:
            raise self.tree.located(error, ("serve", key)) from None

    def _grid(self, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
        given = self.section.get(key)
        if given is None:
            return default
        values = cast("list[object]", given) if isinstance(given, list) else [given]
        try:
            found = sorted({time_s(value) for value in values})
        except InputError as error:
            raise self.tree.located(error, ("serve", key)) from None
        if not found or found[0] <= 0.0 or len(found) > 64:
            raise self.tree.error("up to 64 times above 0 are expected", ("serve", key))
        return tuple(found)

    def _graph_problem(self, limits: Mapping[str, Limit], chosen: Mapping[str, str] | None = None) -> Any:
        """Return the graph's problem if every request takes as long as the limits of its model allow."""
        data = {key: value for key, value in self.tree.data.items() if key != "serve"}
        stated = cast("dict[str, dict[str, object]]", data.get("models") or {})
        models: dict[str, object] = {}
        for name, (ttft_s, tpot_s) in limits.items():
            own = stated.get(name) or {}
            for key in _SPEEDS:
                if key in own:
                    raise self.tree.error("follows from the fleet", ("models", name, key), value=own[key])
            models[name] = {
                **own,
                "prefill_tokens_per_s": _INSTANT,
                "decode_s_per_token": tpot_s,
                "overhead_s": max(ttft_s - tpot_s, 0.0),
                "slots": _MANY,
            }
        unknown = sorted(set(stated) - set(models))
        if unknown:
            raise self.tree.error(
                "nothing says how it is served", ("models", unknown[0]), hint="Name it under serve.models."
            )
        tree = SpecTree(
            data={**data, "models": models},
            file=self.tree.file,
            base_dir=self.tree.base_dir,
            lines=self.tree.lines,
            origins=self.tree.origins,
            digests=[*self.tree.digests],
        )
        problem = read_problem(tree, self.run.diagnostics)
        if problem.kind != "agents":
            raise self.tree.error("only a graph is planned with its fleet", ("kind",), value=problem.kind)
        if chosen is None:
            return problem
        payload: AgentProblem = problem.payload
        return replace(problem, payload=replace(payload, graph=with_models(payload.graph, chosen)))

    # -- choices ---------------------------------------------------------------------------------

    def _choices(self) -> list[_Choice]:
        """Return every choice of models per node."""
        options: dict[str, list[str]] = {}
        for call in self.flow.flat.calls:
            if isinstance(call.work, LlmCall):
                options[call.node.split("@")[0]] = [m.name for m in usable_models(self.graph, call.work)]
        free = [node for node, names in options.items() if len(names) > 1]
        count = 1
        for names in options.values():
            count *= len(names)
        if count > _MAX_CHOICES:
            raise self.tree.error(
                f"{count} choices of models: too many to plan a fleet for each",
                ("nodes",),
                value=", ".join(free[:8]),
                allowed=f"up to {_MAX_CHOICES}",
                hint="Fix the model of some nodes.",
            )
        found: list[_Choice] = []
        for picks in product(*options.values()):
            by_node = dict(zip(options, picks, strict=True))
            chosen = {c.node: by_node.get(c.node.split("@")[0], "") for c in self.flow.flat.calls}
            found.append(_Choice(chosen=chosen, traffic=traffic_of(self.graph, self.flow, chosen)))
        return found

    def in_time(self, choice: _Choice, limits: Mapping[str, Limit]) -> bool:
        """Return whether every outcome is in time if each request takes what its limits allow."""
        lengths = {c.name: self._length_s(c, choice, limits) for c in self.flow.flat.calls}
        deadline = cast("float", self.graph.deadline_s) * (1 + 1e-9)
        for world in self.worlds.worlds:
            end_s, kept = latest_end_s(world, lengths)
            if not kept or end_s > deadline:
                return False
        return True

    def _length_s(self, call: Any, choice: _Choice, limits: Mapping[str, Limit]) -> float:
        if isinstance(call.work, LlmCall):
            ttft_s, tpot_s = limits[choice.chosen[call.node]]
            return max(ttft_s, tpot_s) + (max(output_tokens(call), 1.0) - 1.0) * tpot_s
        return call.work.latency.mean_s if isinstance(call.work, ToolCall | Human) else 0.0

    # -- costs -----------------------------------------------------------------------------------

    def _fleet(self, traffic: Mapping[str, ModelTraffic], limits: Mapping[str, Limit]) -> Plan:
        """Return the plan of a fleet for models under limits, infeasible ones too."""
        data: dict[str, object] = {
            "kind": "fleet",
            "name": f"{self.graph.name}-fleet",
            "cluster": self.section["cluster"],
            "models": [self._entry(name, traffic[name], limit) for name, limit in limits.items()],
            "search": {"alternatives": 0},
        }
        if "objective" in self.section:
            data["objective"] = self.section["objective"]
        tree = SpecTree(data=data, file=self.tree.file, base_dir=self.tree.base_dir)
        tree.add_data_digest("spec", f"{self.graph.name}-fleet", data)
        problem = read_problem(tree, Run().diagnostics)
        if problem.objective.name not in GOALS:
            raise self.tree.error(
                "unknown objective",
                ("serve", "objective"),
                value=problem.objective.name,
                allowed=", ".join(GOALS),
            )
        return solve(problem, Run())

    def _entry(self, name: str, traffic: ModelTraffic, limit: Limit) -> dict[str, object]:
        slo: dict[str, object] = {"ttft": f"{limit[0]!r} s", "tpot": f"{limit[1]!r} s"}
        if "percentile" in self.section:
            slo["percentile"] = self.section["percentile"]
        workload: dict[str, object] = {
            "lengths": [
                {"weight": r.per_run, "input_tokens": r.prompt_tokens, "output_tokens": r.output_tokens}
                for r in traffic.requests
            ],
            "burstiness": traffic.burstiness,
            "prefix_hit": traffic.prefix_share,
        }
        return {
            **self.entries[name],
            "name": name,
            "workload": workload,
            "slo": slo,
            "rate": f"{self.rate_rps * traffic.per_run!r}/s",
        }

    def _cost(self, traffic: ModelTraffic, limit: Limit) -> tuple[float, float] | None:
        """Return (value, bound) of the least fleet for one model alone; None if there is none."""
        key = (traffic, limit)
        if key not in self.costs.known:
            self.run.diagnostics.progress(
                f"pricing {traffic.model} at {limit[0]:g} s and {limit[1]:g} s per token"
            )
            plan = self._fleet({traffic.model: traffic}, {traffic.model: limit})
            goal = plan.objective
            bound = goal.value if goal.bound is None else goal.bound
            found = None if goal.value is None or bound is None else (goal.value, bound)
            self.costs.known[key] = found
        return self.costs.known[key]

    def _ladder(self, choice: _Choice, name: str) -> list[tuple[float, Limit]]:
        """Return (least cost, limit) of one model, dearer ones only where they are quicker, cheapest first.

        A looser limit never costs more, so what lies between two equal costs is not priced.
        """
        quickest = dict.fromkeys(choice.traffic, (self.ttft_s[0], self.tpot_s[0]))
        rows: list[tuple[float, Limit]] = []
        for ttft_s in self.ttft_s:
            useful = [t for t in self.tpot_s if self.in_time(choice, {**quickest, name: (ttft_s, t)})]
            limits = [(ttft_s, t) for t in useful]
            costs = self._between(choice.traffic[name], limits)
            rows += [(cost, limit) for cost, limit in zip(costs, limits, strict=True) if cost is not None]
        rows.sort()
        return [
            (cost, limit)
            for cost, limit in rows
            if not any(
                other <= cost + _TIE * abs(cost)
                and own != limit
                and own[0] <= limit[0]
                and own[1] <= limit[1]
                for other, own in rows
            )
        ]

    def _between(self, traffic: ModelTraffic, limits: list[Limit]) -> list[float | None]:
        """Return the bounds on costs of limits from tight to loose, by halving."""
        found: list[float | None] = [None] * len(limits)

        def bound(i: int) -> float | None:
            cost = self._cost(traffic, limits[i])
            return None if cost is None else cost[1]

        def fill(low: int, high: int) -> None:
            if high - low < 2:
                return
            tight, loose = found[low], found[high]
            if loose is None:
                return
            if tight is not None and tight - loose <= _TIE * loose:
                found[low + 1 : high] = [loose] * (high - low - 1)
                return
            middle = (low + high) // 2
            found[middle] = bound(middle)
            fill(low, middle)
            fill(middle, high)

        if limits:
            found[-1] = bound(len(limits) - 1)
            found[0] = bound(0) if found[-1] is not None else None
            fill(0, len(limits) - 1)
        return found

    # -- search ----------------------------------------------------------------------------------

    def best(self) -> GraphFleet:
        """Return the cheapest split, of the grid or naive, whose graph plan is in time."""
        found: list[_Priced] = []
        bound = least = float("inf")
        for total, choice, limits in islice(self._splits(), _MAX_FLEETS):
            bound = min(bound, total)
            if total >= least * (1 - _TIE):
                break
            found += self._priced("grid", choice, limits)
            least = min((one.value for one in found), default=least)
        if not found:
            raise self._nothing()
        naive = self._naive(min(found, key=_value_of).choice)
        costs: dict[str, float | None] = {"grid": None, **dict.fromkeys(_NAIVE)}
        answer: tuple[_Priced, Plan] | None = None
        for one in sorted([*found, *naive], key=_value_of):
            if answer is None:
                plan = solve(self._graph_problem(one.limits, one.choice.chosen), self.run)
                if plan.status == "infeasible":
                    continue
                answer = (one, plan)
            costs[one.split] = one.value if costs[one.split] is None else costs[one.split]
        if answer is None:
            raise self._nothing()
        best, plan = answer
        return GraphFleet(
            limits=best.limits,
            traffic=best.choice.traffic,
            rate_rps=self.rate_rps,
            graph=plan,
            fleet=prioritised(best.fleet, self.graph),
            bound=min(bound, best.value),
            num_priced=len(self.costs.known),
            split=best.split,
            grid=costs.pop("grid"),
            naive=costs,
        )

    def _priced(self, split: str, choice: _Choice, limits: dict[str, Limit]) -> list[_Priced]:
        """Return the split with its fleet; none where no fleet keeps the limits."""
        fleet = self._fleet(choice.traffic, limits)
        value = fleet.objective.value
        if value is None:
            return []
        return [_Priced(split=split, choice=choice, limits=limits, fleet=fleet, value=value)]

    def _nothing(self) -> InputError:
        return self.tree.error(
            "no limits of the grid are in time on this inventory",
            ("deadline_s",),
            value=self.graph.deadline_s,
            hint="Loosen deadline_s, give more devices, or state tighter limits under serve: ttft and tpot.",
        )

    def _splits(self) -> Iterator[tuple[float, _Choice, dict[str, Limit]]]:
        """Yield (sum of least costs, choice of models, limits) of splits that are in time, cheapest first."""
        heap: list[tuple[float, int, tuple[int, ...]]] = []
        choices = self._choices()
        ladders = [{name: self._ladder(choice, name) for name in choice.traffic} for choice in choices]
        for number, ladder in enumerate(ladders):
            if all(ladder.values()):
                start = (0,) * len(ladder)
                heap.append((_sum(ladder, start), number, start))
        heapq.heapify(heap)
        seen = {(number, at) for _, number, at in heap}
        for _ in range(_MAX_TRIED):
            if not heap:
                return
            total, number, at = heapq.heappop(heap)
            ladder = ladders[number]
            limits = {name: rows[i][1] for (name, rows), i in zip(ladder.items(), at, strict=True)}
            if self.in_time(choices[number], limits):
                yield total, choices[number], limits
            for place, rows in enumerate(ladder.values()):
                after = (*at[:place], at[place] + 1, *at[place + 1 :])
                if after[place] < len(rows) and (number, after) not in seen:
                    seen.add((number, after))
                    heapq.heappush(heap, (_sum(ladder, after), number, after))
        raise self.tree.error("too many splits to try", ("serve", "tpot"), hint="State fewer limits.")

    # -- what people do without it -----------------------------------------------------------------

    def _naive(self, choice: _Choice) -> list[_Priced]:
        """Return the split into equal times per call in a row, and that with one time per token for all.

        Both use up the deadline, so they are taken a hair tighter.
        """
        found: list[_Priced] = []
        for name, limits in zip(_NAIVE, (self._equal(choice), self._scaled(choice)), strict=True):
            if limits is not None and self.in_time(choice, limits):
                less = {k: (ttft * (1 - _HAIR), tpot * (1 - _HAIR)) for k, (ttft, tpot) in limits.items()}
                found += self._priced(name, choice, less)
        return found

    def _equal(self, choice: _Choice) -> dict[str, Limit] | None:
        """Give every call the same time: a fifth of it to the first token, the rest to its longest answer."""
        depth = 0.0
        ones = {c.name: float(isinstance(c.work, LlmCall)) for c in self.flow.flat.calls}
        fixed = {
            c.name: self._length_s(c, choice, {}) if not ones[c.name] else 0.0 for c in self.flow.flat.calls
        }
        left = cast("float", self.graph.deadline_s)
        for world in self.worlds.worlds:
            depth = max(depth, latest_end_s(world, ones)[0])
            left = min(left, cast("float", self.graph.deadline_s) - latest_end_s(world, fixed)[0])
        if depth <= 0.0 or left <= 0.0:
            return None
        own = left / depth
        return {
            name: (0.2 * own, 0.8 * own / max(r.output_tokens for r in traffic.requests))
            for name, traffic in choice.traffic.items()
        }

    def _scaled(self, choice: _Choice) -> dict[str, Limit] | None:
        """Give all models one time per token and twenty times that to the first, as slow as is in time."""
        low, high = 0.0, 10.0
        for _ in range(60):
            middle = (low + high) / 2
            fits = self.in_time(choice, dict.fromkeys(choice.traffic, (20 * middle, middle)))
            low, high = (middle, high) if fits else (low, middle)
        return dict.fromkeys(choice.traffic, (20 * low, low)) if low > 0.0 else None


def _value_of(one: _Priced) -> float:
    return float(f"{one.value:.9g}")


def _sum(ladder: Mapping[str, list[tuple[float, Limit]]], at: tuple[int, ...]) -> float:
    return sum(rows[i][0] for rows, i in zip(ladder.values(), at, strict=True))
