"""Simple configurations that nobody's search proposed: one pool of equal whole servers each.

They are priced by the checker alone. None of them may beat a plan that is called optimal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, inf

from hardware_profiles.loader import load_software
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import AttentionCore, Experts, ModelGraph, StateCore
from planner.ir.objective import Budget
from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem
from planner.plan.schema import Pool, Replica, StrategyModel
from planner.verify.resources import device_power_w
from planner.verify.serving.load import Limits, PoolLoad, Requests
from planner.verify.serving.shards import (
    bytes_of,
    cache_format,
    device_bytes,
    sequence_bytes,
    stage_weight_bytes,
)
from planner.verify.serving.view import PoolView, pool_view

_DEGREES = ((1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (8, 2))
"""(tp, pp) that are always tried."""
_MORE_DEGREES = ((1, 2), (1, 4), (2, 2), (2, 4), (4, 4), (8, 4), (16, 1), (16, 2))
_TOKEN_BUDGETS = (8192, 2048)
_RESERVED_SHARE, _RESERVED_BYTES = 0.08, 3.2e9
"""What is kept free of weights and cache, the larger of both: buffers, graphs, activations."""
_CACHE_MARGIN = 0.85
"""Share of the places that are taken in the mean; the rest is for fluctuation."""
_HALVES = (0.5,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What a configuration has to reach to count: a value of the objective."""

    objective: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A configuration that clears the bar, with its value."""

    summary: str
    value: float


def samples(problem: Problem[ServingProblem], engine: str, bar: Bar, *, thorough: bool) -> Iterator[Sample]:
    """Yield the simple configurations on each group alone that are better than the bar.

    A `thorough` sample has all formats and more degrees; else the smallest formats stand for all.
    """
    workload = problem.payload.workload
    requests = Requests.of(workload, _cuts(workload.slo.percentile))
    for group in problem.cluster.groups:
        if not load_software(engine).runs_on(group.device):
            continue
        most = _most_devices(group, problem.budget)
        for pool in _pools(problem.payload, group, engine, most, thorough=thorough):
            found = _better(problem, pool, group, requests, (bar, most))
            if found is not None:
                yield found


def _most_devices(group: NodeGroup, budget: Budget) -> int:
    limits = [group.num_devices]
    if budget.num_devices is not None:
        limits.append(budget.num_devices)
    if budget.usd_per_hour is not None and group.usd_per_device_hour:
        limits.append(int(budget.usd_per_hour / group.usd_per_device_hour))
    if budget.power_w is not None:
        each = group.device.tdp_w.value + group.node_power_overhead_w / group.devices_per_node
        limits.append(int(budget.power_w / each))
    return min(limits)


def _pools(
    payload: ServingProblem, group: NodeGroup, engine: str, most: int, *, thorough: bool
) -> Iterator[Pool]:
    choices = payload.choices
    fixed = dict(choices.fixed)
    weight_fmts, kv_fmts = _formats(payload, thorough=thorough)
    budgets = choices.token_budgets or _TOKEN_BUDGETS
    budgets = budgets if thorough else (max(budgets),)
    degrees = (*_DEGREES, *_MORE_DEGREES) if thorough else _DEGREES
    for fmt, kv, (tp, pp) in product(weight_fmts, kv_fmts, degrees):
        if tp * pp > most or tp > max(8, group.domain_size) or not _divides(payload.model, tp):
            continue
        strategy = StrategyModel(tp=tp, pp=pp, **_expert_degrees(payload.model, tp))
        chosen = {**strategy.model_dump(), "prefill_cp": strategy.cp}
        if any(chosen.get(name, value) != value for name, value in fixed.items()):
            continue
        for budget in budgets:
            layers = len(payload.model.layers)
            yield Pool(
                name=f"tp{tp} pp{pp} {fmt}/{kv} budget {budget}",
                role="aggregated",
                model=payload.model.name,
                replicas=1,
                device=group.device.name,
                node_group=group.name,
                strategy=strategy,
                weight_dtype=fmt,
                kv_dtype=kv,
                engine=engine,
                limits={
                    "token_budget": fixed.get("token_budget", budget),
                    "max_num_seqs": fixed.get("max_num_seqs", choices.max_num_seqs),
                },
                layers_per_stage=[layers // pp + (i < layers % pp) for i in range(pp)],
                predicted={},
                memory=[],
            )


def _formats(payload: ServingProblem, *, thorough: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    model, choices = payload.model, payload.choices
    if thorough:
        return choices.weight_fmts, choices.kv_fmts
    smallest = min(choices.weight_fmts, key=bytes_of)
    return (smallest,), (min(choices.kv_fmts, key=lambda fmt: bytes_of(cache_format(model, fmt))),)


def _divides(model: ModelGraph, tp: int) -> bool:
    cores = {op for layer in model.layers for op in layer.ops if isinstance(op, AttentionCore | StateCore)}
    kv = {c.num_kv_heads for c in cores if isinstance(c, AttentionCore) and c.kind == "gqa"}
    return all(c.num_heads % tp == 0 for c in cores) and all(n % tp == 0 or tp % n == 0 for n in kv)


def _expert_degrees(model: ModelGraph, tp: int) -> dict[str, int]:
    found = {op for layer in model.layers for op in layer.ops if isinstance(op, Experts)}
    if not found:
        return {}
    if all(op.num_experts % tp == 0 for op in found):
        return {"ep": tp, "moe_tp": 1}
    return {"ep": 1, "moe_tp": tp}


def _better(
    problem: Problem[ServingProblem], pool: Pool, group: NodeGroup, requests: Requests, goal: tuple[Bar, int]
) -> Sample | None:
    """Return the pool with as many replicas as bar and devices allow, if it is better than the bar so."""
    bar, most = goal
    size = pool.strategy.tp * pool.strategy.pp
    each = _of_a_device(problem, group, bar.objective) * size
    count = min(most // size, ceil(bar.value / each) - 1 if each else most)
    if count < 1:
        return None
    view = _view(problem.payload, pool, group, requests, count)
    held = _held(problem.payload, view)
    if held < 1.0:
        return None
    load, limits = view.holding(held).load, _limits(problem.payload, pool, requests, held)
    rate = problem.payload.workload.rate_rps
    if each:
        value = each * count
        fine = load.keeps(limits, rate) if rate is not None else load.highest(limits) > 0.0
    elif bar.objective == "max_throughput":
        value = bar.value
        fine = load.keeps(limits, value / problem.payload.workload.lengths.mean_output)
    else:
        value = _at_the_highest(problem, load, limits, (bar.objective, group, count * size))
        fine = value < bar.value
    return Sample(summary=f"{count} x {pool.name} on {group.name}", value=value) if fine else None


def _of_a_device(problem: Problem[ServingProblem], group: NodeGroup, objective: str) -> float:
    """Return what each device adds to the objective; 0 where it is no sum over devices or is not known."""
    price = group.usd_per_device_hour or 0.0
    workload = problem.payload.workload
    tokens = (workload.rate_rps or 0.0) * workload.lengths.mean_output
    return {
        "min_devices": 1.0,
        "min_cost": price,
        "min_power": device_power_w(group),
        "min_cost_per_token": price / (tokens * 3600.0) * 1e6 if tokens else 0.0,
    }.get(objective, 0.0)


def _at_the_highest(
    problem: Problem[ServingProblem], load: PoolLoad, limits: Limits, asked: tuple[str, NodeGroup, int]
) -> float:
    """Return a latency at the rate asked, or a price per token at the highest; infinite if there is none."""
    (objective, group, num_devices), workload = asked, problem.payload.workload
    rate = workload.rate_rps
    if rate is not None and not load.keeps(limits, rate):
        return inf
    reached = load.highest(limits) * 0.999 if rate is None else rate
    state = load.at_rate(reached) if reached > 0.0 else None
    if state is None:
        return inf
    if objective == "min_latency":
        return state.ttft_s + load.requests.mean_steps * state.tpot_s
    if objective != "min_cost_per_token" or group.usd_per_device_hour is None:
        return inf
    tokens = reached * workload.lengths.mean_output
    return group.usd_per_device_hour * num_devices / (tokens * 3600.0) * 1e6


def _limits(payload: ServingProblem, pool: Pool, requests: Requests, held: float) -> Limits:
    slo = payload.workload.slo
    return Limits(
        ttft_s=slo.ttft_s or inf,
        tpot_s=slo.tpot_s or inf,
        e2e_s=slo.e2e_s or inf,
        percentile=slo.percentile,
        sequences=_CACHE_MARGIN * min(requests.places(held), float(pool.limits["max_num_seqs"])),
        longer=_longer(payload.workload.lengths.samples, slo.percentile, requests),
    )


def _cuts(percentile: float) -> tuple[float, ...]:
    """Return where to cut the requests: finely around the percentile, beyond which some may come late."""
    late = 1.0 - percentile / 100.0
    return (
        tuple(sorted({0.5, max(0.5, 1.0 - 2.0 * late), 1.0 - late, 1.0 - late / 2.0}))
        if percentile
        else _HALVES
    )


def _longer(samples: Sequence[tuple[int, int, float]], percentile: float, requests: Requests) -> float:
    """Return the prompt at a percentile over the mean of the longest bin, at least 1."""
    seen = 0.0
    for tokens, _, share in sorted(samples):
        seen += share
        if percentile and seen >= percentile / 100.0 - 1e-9:
            return max(1.0, tokens / requests.bins[-1].tokens)
    return 1.0


def _held(payload: ServingProblem, view: PoolView) -> float:
    """Return how many sequences of mean length fit, below 1 if the longest request does not."""
    pool, own = view.pool, payload.memory_fraction
    memory = device_bytes(view.group)
    usable = (own if own is not None else view.memory_fraction) * memory
    usable -= max(_RESERVED_SHARE * memory, _RESERVED_BYTES)
    found = inf
    for stage in range(pool.strategy.pp):
        weights = stage_weight_bytes(payload.model, pool, stage)
        left = usable - weights
        if left < sequence_bytes(payload.model, pool, stage, payload.workload.lengths.max_total):
            return 0.0
        each = sequence_bytes(payload.model, pool, stage, view.requests.context)
        found = min(found, left / each if each else found)
    return found


def _view(
    payload: ServingProblem, pool: Pool, group: NodeGroup, requests: Requests, replicas: int
) -> PoolView:
    size = pool.strategy.tp * pool.strategy.pp
    node = group.node_names or tuple(f"n{i}" for i in range(group.num_nodes))
    each = group.devices_per_node
    devices = [f"{node[i // each]}/{i % each}" for i in range(size)]
    several = pool.model_copy(update={"replicas": replicas})
    replica = Replica(pool=pool.name, replica=0, devices=devices)
    return pool_view(payload, several, replica, group, requests)
