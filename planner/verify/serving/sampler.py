"""Simple configurations that nobody's search proposed: one pool of equal whole servers each.

They are priced by the checker alone. None of them may beat a plan that is called optimal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, inf

from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import AttentionCore, Experts, ModelGraph, StateCore
from planner.ir.objective import Budget
from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem
from planner.plan.schema import Pool, Replica, StrategyModel
from planner.verify.serving.load import Limits, Requests
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
_RESERVED_SHARE = 0.08
"""Share of the device's memory that is kept free of weights and cache: buffers, graphs, activations."""
_CACHE_MARGIN = 0.85
"""Share of the sequences that fit which run in the mean; the rest is for fluctuation."""
_MOST_TRIES = 4
_NUM_BINS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A configuration with what it reaches."""

    summary: str
    group: NodeGroup
    num_devices: int
    rate_rps: float
    e2e_s: float


def samples(problem: Problem[ServingProblem], engine: str, *, thorough: bool) -> Iterator[Sample]:
    """Yield what simple configurations reach on each group alone.

    A `thorough` sample has all formats and more degrees; else the smallest formats stand for all.
    """
    requests = Requests.of(problem.payload.workload, _NUM_BINS)
    for group in problem.cluster.groups:
        most = _most_devices(group, problem.budget)
        for pool in _pools(problem.payload, group, engine, most, thorough=thorough):
            yield from _reached(problem, pool, group, requests, most)


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


def _reached(
    problem: Problem[ServingProblem], pool: Pool, group: NodeGroup, requests: Requests, most: int
) -> Iterator[Sample]:
    payload, size = problem.payload, pool.strategy.tp * pool.strategy.pp
    one = _view(payload, pool, group, requests, 1)
    sequences = _sequences(payload, one)
    if sequences < 1.0:
        return
    slo = payload.workload.slo
    limits = Limits(
        ttft_s=slo.ttft_s or inf,
        tpot_s=slo.tpot_s or inf,
        e2e_s=slo.e2e_s or inf,
        percentile=slo.percentile,
        sequences=sequences,
    )
    rate = payload.workload.rate_rps
    alone = one.load.highest(limits)
    if alone <= 0.0:
        return
    counts = (
        [most // size] if rate is None else range(ceil(rate / alone * 0.8), ceil(rate / alone) + _MOST_TRIES)
    )
    for count in counts:
        if not 1 <= count <= most // size:
            continue
        load = _view(payload, pool, group, requests, count).load
        reached = load.highest(limits)
        if rate is not None and reached < rate:
            continue
        state = load.at_rate(rate if rate is not None else reached * 0.999)
        e2e = inf if state is None else state.ttft_s + requests.mean_steps * state.tpot_s
        yield Sample(
            summary=f"{count} x {pool.name} on {group.name}",
            group=group,
            num_devices=count * size,
            rate_rps=rate if rate is not None else reached,
            e2e_s=e2e,
        )
        return


def _sequences(payload: ServingProblem, view: PoolView) -> float:
    """Return how many sequences may run on average, below 1 if the longest request does not fit."""
    pool, own = view.pool, payload.memory_fraction
    share = (own if own is not None else view.memory_fraction) - _RESERVED_SHARE
    found = float(pool.limits["max_num_seqs"])
    for stage in range(pool.strategy.pp):
        weights = stage_weight_bytes(payload.model, pool, stage)
        left = device_bytes(view.group) * share - weights
        if left < sequence_bytes(payload.model, pool, stage, payload.workload.lengths.max_total):
            return 0.0
        each = sequence_bytes(payload.model, pool, stage, view.requests.context)
        found = min(found, left / each * _CACHE_MARGIN if each else found)
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
