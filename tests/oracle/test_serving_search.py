"""The serving search against brute force: every multiset of pools that fits, valued one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product

import pytest

from cost_models.serving.capacity import Entries, capacity_position, state_at
from planner.diagnostics import Diagnostics
from planner.frontend.models import load_model
from planner.ir.model_graph import ModelGraph
from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem
from planner.search.serving_catalogue import build_catalogue
from planner.search.serving_contexts import cross_contexts, inner_contexts
from planner.search.serving_dominance import undominated
from planner.search.serving_pools import Context, PoolTables, role_limits
from planner.search.serving_question import Question, question_of
from planner.search.serving_solver import solve
from planner.space.stages import balanced_partition
from tests.serving_cases import cluster, costs, device, group, problem

SMALL = device("small-test", 24e9, 0.8e12, 120e12, 240e12, tdp=300.0)
LARGE = device("large-test", 40e9, 1.6e12, 200e12, None, tdp=400.0)


@cache
def llama() -> ModelGraph:
    return load_model("llama-3.1-8b", diagnostics=Diagnostics())


class Brute:
    """Values plans by nested loops, knowing only what one pool of k equal replicas can carry."""

    def __init__(self, case: Problem[ServingProblem]) -> None:
        self.catalogue = build_catalogue(case, costs, Diagnostics(), lambda: False)
        self.question: Question = question_of(case)
        self.tables = PoolTables(catalogue=self.catalogue)
        self.sizes = self.question.resources.num_devices

    def carried(self, index: int, replicas: int, context: Context | None) -> float:
        offer = self.catalogue.offers[index]
        pools = self.tables.pools(offer.role, context)
        row = self.catalogue.by_role(offer.role).index(index)
        entries = Entries.one(row, replicas)
        position = capacity_position(pools, entries, role_limits(offer.role, context, self.question.limits))
        return float(state_at(pools, entries, position).rate_rps[0]) if position[0] >= 0.0 else 0.0

    def pools(self, role: str, where: int, context: Context | None, most: int) -> list[tuple[int, float]]:
        found: list[tuple[int, float]] = []
        for index, offer in enumerate(self.catalogue.offers):
            if offer.role != role or offer.group != where:
                continue
            if role == "decode" and context is not None and offer.cache_lanes < context.lanes:
                continue
            kept = (offer.replica.shape.engine, offer.replica.shape.kv_fmt.replace("auto", "bf16"))
            if context is not None and context.cache != kept:
                continue
            for replicas in range(1, most // offer.replica.num_devices + 1):
                value = self.carried(index, replicas, context)
                if value > 0.0:
                    found.append((replicas * offer.replica.num_devices, value))
        return sorted(set(found))

    def sums(self, items: list[tuple[int, float]], most: int) -> Iterator[tuple[int, float]]:
        """Every multiset of pools with at most so many devices: (devices, carried)."""

        def extend(start: int, used: int, value: float) -> Iterator[tuple[int, float]]:
            yield used, value
            for at in range(start, len(items)):
                if used + items[at][0] <= most:
                    yield from extend(at, used + items[at][0], value + items[at][1])

        yield from extend(0, 0, 0.0)

    def best_by_devices(self, role: str, where: int, context: Context | None) -> list[float]:
        most = self.sizes[where]
        best = [0.0] * (most + 1)
        for used, value in self.sums(self.pools(role, where, context, most), most):
            for n in range(used, most + 1):
                best[n] = max(best[n], value)
        return best

    def pairs(self, where: int) -> list[float]:
        """Best pair inside one group by devices."""
        size = self.sizes[where]
        best = [0.0] * (size + 1)
        for context in inner_contexts(self.catalogue, where, self.question):
            prefill = self.best_by_devices("prefill", where, context)
            decode = self.best_by_devices("decode", where, context)
            for y, z in product(range(size + 1), repeat=2):
                if y + z <= min(size, context.max_devices):
                    for n in range(y + z, size + 1):
                        best[n] = max(best[n], min(prefill[y], decode[z]))
        return best

    def own(self, where: int) -> list[float]:
        """Best use of one group by itself, by devices."""
        alone, pairs = self.best_by_devices("aggregated", where, None), self.pairs(where)
        return [max(alone[x] + pairs[n - x] for x in range(n + 1)) for n in range(self.sizes[where] + 1)]

    def plans(self) -> Iterator[tuple[tuple[int, ...], float]]:
        """Every plan as (devices per group, requests per second)."""
        if len(self.sizes) > 1:
            yield from self.mixed_plans()
            return
        for used, value in enumerate(self.own(0)):
            yield (used,), value

    def mixed_plans(self) -> Iterator[tuple[tuple[int, ...], float]]:
        """Every way to give devices of every group to roles in contexts; pairs carry what both sides do."""
        crossing = cross_contexts(self.catalogue, self.question)
        splits: list[list[dict[tuple[str, Context | None], tuple[int, float]]]] = []
        for where, size in enumerate(self.sizes):
            contexts = [*inner_contexts(self.catalogue, where, self.question), *crossing]
            slots: list[tuple[str, Context | None]] = [("aggregated", None)]
            slots.extend((role, context) for context in contexts for role in ("prefill", "decode"))
            best = {slot: self.best_by_devices(slot[0], where, slot[1]) for slot in slots}
            useful = [slot for slot in slots if best[slot][size] > 0.0]
            splits.append(
                [
                    {slot: (n, best[slot][n]) for slot, n in zip(useful, counts, strict=True) if n}
                    for counts in self.compositions(len(useful), size)
                ]
            )
        for choice in product(*splits):
            used = tuple(sum(n for n, _ in split.values()) for split in choice)
            contexts_used = {context for split in choice for _, context in split if context is not None}
            carried = {
                slot: sum(split[slot][1] for split in choice if slot in split)
                for slot in {slot for split in choice for slot in split}
            }
            inside = all(
                sum(split[slot][0] for split in choice for slot in split if slot[1] == context)
                <= context.max_devices
                for context in contexts_used
            )
            if inside:
                yield (
                    used,
                    carried.get(("aggregated", None), 0.0)
                    + sum(
                        min(carried.get(("prefill", c), 0.0), carried.get(("decode", c), 0.0))
                        for c in contexts_used
                    ),
                )

    def compositions(self, parts: int, most: int) -> Iterator[tuple[int, ...]]:
        """Every way to give at most so many devices to so many parts."""
        if parts == 0:
            yield ()
            return
        for first in range(most + 1):
            for rest in self.compositions(parts - 1, most - first):
                yield (first, *rest)

    def optimum(self, tokens: float, prices: tuple[float, ...]) -> float | None:
        goal, demand = self.question.goal, self.question.rate_rps or 0.0
        best: float | None = None
        for used, value in self.plans():
            if value <= 0.0 or value < demand * (1 - 1e-9):
                continue
            usd = sum(n * p for n, p in zip(used, prices, strict=True))
            worth = {
                "max_throughput": -value * tokens,
                "min_devices": float(sum(used)),
                "min_cost": usd,
                "min_cost_per_token": usd / (value * tokens * 3600) * 1e6,
            }[goal]
            best = worth if best is None else min(best, worth)
        return best


ONE = cluster(group(SMALL, 1, per_node=4, price=1.0))
TWO_NODES = cluster(group(SMALL, 2, per_node=2, price=1.0))
MIXED = cluster(group(SMALL, 1, per_node=2, price=1.0), group(LARGE, 1, per_node=2, price=1.7))
CASES = [
    (ONE, "max_throughput", None, {}),
    (ONE, "min_devices", 1.5, {}),
    (ONE, "max_throughput", None, {"percentile": 90.0}),
    (ONE, "max_throughput", None, {"e2e": 6.0}),
    (TWO_NODES, "max_throughput", None, {}),
    (TWO_NODES, "min_cost", 1.0, {}),
    (MIXED, "max_throughput", None, {}),
    (ONE, "max_throughput", None, {"kv_fmts": ("bf16", "fp8")}),
    (MIXED, "min_cost", 2.0, {}),
    (MIXED, "min_cost_per_token", None, {}),
]


@pytest.mark.parametrize(("where", "goal", "rate", "limits"), CASES)
def test_the_optimum_is_that_of_brute_force(where, goal, rate, limits) -> None:
    case = problem(
        llama(),
        where,
        isl=1000,
        osl=120,
        ttft=1.2,
        tpot=0.06,
        rate=rate,
        goal=goal,
        token_budgets=(2048,),
        max_num_seqs=64,
        **limits,
    )
    brute = Brute(case)
    prices = tuple(g.usd_per_device_hour or 0.0 for g in where.groups)
    expected = brute.optimum(120.0, prices)
    found = solve(PoolTables(catalogue=brute.catalogue), brute.question)
    assert expected is not None
    assert found is not None
    sign = -1.0 if goal == "max_throughput" else 1.0
    assert sign * found.value == pytest.approx(expected, rel=1e-9)
    assert found.bound == found.value


def _partitions(count: int, stages: int) -> Iterator[tuple[int, ...]]:
    if stages == 1:
        yield (count,)
        return
    for first in range(1, count - stages + 2):
        for rest in _partitions(count - first, stages - 1):
            yield (first, *rest)


def _bottleneck(weights: tuple[float, ...], first: float, last: float, counts: tuple[int, ...]) -> float:
    loads: list[float] = []
    start = 0
    for count in counts:
        loads.append(sum(weights[start : start + count]))
        start += count
    loads[0] += first
    loads[-1] += last
    return max(loads)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("weights", "first", "last"),
    [
        ((1.0,) * 9, 0.0, 1.4),
        ((3.0, 1.0, 1.0, 2.0, 5.0, 1.0, 1.0), 0.5, 2.5),
        ((1.0, 9.0, 1.0, 1.0), 0.0, 0.0),
    ],
)
def test_stages_are_balanced_as_well_as_any_partition(weights, first, last, stages) -> None:
    found = balanced_partition(weights, first, last, stages)
    best = min(_bottleneck(weights, first, last, c) for c in _partitions(len(weights), stages))
    assert sum(found) == len(weights)
    assert min(found) >= 1
    assert _bottleneck(weights, first, last, found) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("limits", [{}, {"percentile": 90.0}, {"e2e": 8.0}])
def test_dropping_dominated_shapes_loses_nothing(limits) -> None:
    case = problem(llama(), ONE, isl=3000, osl=100, ttft=2.0, tpot=0.06, max_num_seqs=64, **limits)
    catalogue = build_catalogue(case, costs, Diagnostics(), lambda: False)
    question = question_of(case)
    whole = solve(PoolTables(catalogue=catalogue), question)
    count = len(catalogue.offers)
    catalogue.offers[:] = undominated(catalogue.offers)
    fewer = solve(PoolTables(catalogue=catalogue), question)
    assert len(catalogue.offers) < count
    assert whole is not None
    assert fewer is not None
    assert fewer.value == whole.value
