"""Turns the choices of the master problem into pools with predictions, a placement and totals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cost_models.serving.capacity import Entries, position_at_rate, state_at
from hardware_profiles.provenance import Provenance
from planner.ir.candidates import Estimate, PoolChoice, Predictions
from planner.ir.cluster import NodeGroup
from planner.ir.fleet import FleetModel, FleetProblem
from planner.ir.problem import Problem
from planner.search.fleet_columns import DECODE, PREFILL, STAGE, Column, ModelSupply
from planner.search.fleet_master import Chosen
from planner.search.fleet_place import Item
from planner.search.fleet_room import cell_devices, device_power_w
from planner.search.serving_answer import estimate, pool_choices
from planner.search.serving_load import REPORTED_PERCENTILES, LoadedPlan, LoadedPool
from planner.search.serving_pools import PoolPick, PoolTables


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswer:
    """The pools of one model with the queues in each, and what the model as a whole does."""

    pools: tuple[PoolChoice, ...] = ()
    queues: tuple[int, ...] = ()
    columns: tuple[Column, ...] = ()
    predicted: Predictions = ()
    served_rps: float = 0.0


def answer_of(
    model: FleetModel, supply: ModelSupply, chosen: Chosen | None, groups: Sequence[NodeGroup]
) -> ModelAnswer:
    """Return the pools of a model at the rate that was chosen to be served."""
    if chosen is None or not any(chosen.counts):
        return ModelAnswer()
    served = chosen.served_rps
    columns = [(column, count) for half in chosen.counts for column, count in half]
    if supply.tables is None:
        return _stated(model, columns, served, groups)
    loaded = _loaded(supply.tables, chosen, served)
    pools = pool_choices(supply.tables, loaded)
    named: list[PoolChoice] = []
    totals = _role_totals(columns)
    seen: dict[str, int] = {}
    for pool, (column, count) in zip(pools, columns, strict=True):
        seen[column.role] = seen.get(column.role, 0) + 1
        suffix = "" if totals[column.role] == 1 else f"-{seen[column.role]}"
        named.append(
            replace(
                pool,
                name=f"{model.name}-{column.role}{suffix}",
                model=model.name,
                replicas=pool.replicas * count,
                predicted=_scaled(pool.predicted, count),
            )
        )
    return ModelAnswer(
        pools=tuple(named),
        queues=tuple(count for _, count in columns),
        columns=tuple(column for column, _ in columns),
        predicted=_model_predictions(supply.tables, loaded, served),
        served_rps=served,
    )


def items_of(problem: Problem[FleetProblem], answers: Sequence[ModelAnswer]) -> list[Item]:
    """Return the replicas of all pools, to be placed."""
    items: list[Item] = []
    groups = problem.cluster.groups
    for index, answer in enumerate(answers):
        tolerance = problem.payload.models[index].tolerance
        for pool, column in zip(answer.pools, answer.columns, strict=True):
            spread = None
            if tolerance is not None:
                cell = cell_devices(groups[column.group], tolerance.domain, problem.payload)
                spread = (cell, tolerance.most_per_domain)
            items.extend(
                Item(
                    pool=pool.name,
                    replica=number,
                    model=index,
                    role=column.role,
                    group=column.group,
                    units=column.units,
                    num_devices=column.replica_devices,
                    spread=spread,
                )
                for number in range(pool.replicas)
            )
    return items


def totals_of(problem: Problem[FleetProblem], answers: Sequence[ModelAnswer]) -> Predictions:
    """Return what the whole fleet uses and serves."""
    devices = [0] * len(problem.cluster.groups)
    for answer in answers:
        for pool, column in zip(answer.pools, answer.columns, strict=True):
            devices[column.group] += pool.replicas * column.replica_devices
    groups = problem.cluster.groups
    served = sum(answer.served_rps for answer in answers)
    tokens = sum(
        answer.served_rps * tokens_of(model)
        for model, answer in zip(problem.payload.models, answers, strict=True)
    )
    watts = sum(device_power_w(group) * n for group, n in zip(groups, devices, strict=True))
    found = [
        ("num_devices", _plain(float(sum(devices)), "devices", Provenance.MEASURED)),
        ("request_rate_rps", _plain(served, "request/s", Provenance.ANALYTICAL)),
        ("output_tokens_per_s", _plain(tokens, "token/s", Provenance.ANALYTICAL)),
        ("power_w", _plain(watts, "W", Provenance.ANALYTICAL)),
    ]
    if all(group.usd_per_device_hour is not None for group, n in zip(groups, devices, strict=True) if n):
        usd = sum((group.usd_per_device_hour or 0.0) * n for group, n in zip(groups, devices, strict=True))
        found.append(("usd_per_hour", _plain(usd, "USD/h", Provenance.ASSUMED)))
    return tuple(found)


def tokens_of(model: FleetModel) -> float:
    """Return the mean output tokens of a request; a stated stage counts a request as one."""
    return 1.0 if model.serving is None else model.serving.workload.lengths.mean_output


def _plain(value: float, unit: str, provenance: Provenance) -> Estimate:
    return Estimate(value=value, unit=unit, provenance=provenance)


def _role_totals(columns: Iterable[tuple[Column, int]]) -> Mapping[str, int]:
    totals: dict[str, int] = {}
    for column, _ in columns:
        totals[column.role] = totals.get(column.role, 0) + 1
    return totals


def _scaled(predicted: Predictions, count: int) -> Predictions:
    """Return the predictions of a pool of several equal queues: rates add up, latencies stay."""
    return tuple(
        (name, _times(estimate, count) if name.endswith("_rps") else estimate) for name, estimate in predicted
    )


def _times(estimate: Estimate, count: int) -> Estimate:
    return replace(
        estimate,
        value=estimate.value * count,
        low=None if estimate.low is None else estimate.low * count,
        high=None if estimate.high is None else estimate.high * count,
    )


def _stated(
    model: FleetModel, columns: Sequence[tuple[Column, int]], served_rps: float, groups: Sequence[NodeGroup]
) -> ModelAnswer:
    total = sum(column.capacity_rps * count for column, count in columns)
    pools: list[PoolChoice] = []
    for number, (column, count) in enumerate(columns, start=1):
        shape = model.stated[column.offer]
        rate = served_rps * column.capacity_rps * count / total
        predicted = [
            ("request_rate_rps", _plain(rate, "request/s", Provenance.ASSUMED)),
            ("capacity_rps", _plain(column.capacity_rps * count, "request/s", Provenance.ASSUMED)),
        ]
        if shape.latency_s is not None:
            predicted.append(("latency_s", _plain(shape.latency_s, "s", Provenance.ASSUMED)))
        pools.append(
            PoolChoice(
                name=f"{model.name}-{STAGE}" + ("" if len(columns) == 1 else f"-{number}"),
                role=STAGE,
                model=model.name,
                replicas=count,
                node_group=groups[column.group].name,
                device=shape.device,
                degrees=(("tp", column.replica_devices),),
                devices_per_replica=column.replica_devices,
                weight_fmt="stated",
                kv_fmt="stated",
                engine="stated",
                limits=(),
                layers_per_stage=(),
                predicted=tuple(predicted),
                memory=(),
            )
        )
    return ModelAnswer(
        pools=tuple(pools),
        queues=tuple(count for _, count in columns),
        columns=tuple(column for column, _ in columns),
        predicted=(("request_rate_rps", _plain(served_rps, "request/s", Provenance.ASSUMED)),),
        served_rps=served_rps,
    )


def _loaded(tables: PoolTables, chosen: Chosen, served_rps: float) -> LoadedPlan:
    """Return one queue of every column at its share of the rate: all queues of a half are equally loaded."""
    pools: list[LoadedPool] = []
    weights: list[float] = []
    capacity = min(sum(c.capacity_rps * n for c, n in half) for half in chosen.counts)
    for half in chosen.counts:
        total = sum(column.capacity_rps * count for column, count in half)
        for column, count in half:
            pools.append(_queue(tables, column, served_rps * column.capacity_rps / total))
            weights.append(count * pools[-1].rate_rps)
    first = [(p, w) for p, w in zip(pools, weights, strict=True) if p.pick.role != DECODE]
    steps = [(p, w) for p, w in zip(pools, weights, strict=True) if p.pick.role != PREFILL]
    ttft = _mean([(float(p.state.ttft_s[0]), w) for p, w in first])
    step = _mean([(float(p.state.tpot_s[0]), w) for p, w in steps])
    high = max((float(p.state.tpot_high_s[0]) for p, _ in steps), default=0.0)
    slo = tables.catalogue.problem.payload.workload.slo
    percentiles = np.array(sorted({*REPORTED_PERCENTILES, *([slo.percentile] if slo.percentile > 0 else [])}))
    late = np.max([p.ttft_percentiles_s(percentiles) for p, _ in first], axis=0)
    ends = np.max(
        [
            p.e2e_percentiles_s(
                percentiles, float(p.state.tpot_high_s[0]) if p.pick.role != PREFILL else high
            )
            for p, _ in first
        ],
        axis=0,
    )
    return LoadedPlan(
        pools=tuple(pools),
        rate_rps=served_rps,
        capacity_rps=capacity,
        ttft_s=ttft,
        tpot_s=step,
        tpot_high_s=high,
        e2e_s=ttft + step * tables.catalogue.requests.mean_steps,
        ttft_percentiles_s=tuple((float(p), float(v)) for p, v in zip(percentiles, late, strict=True)),
        e2e_percentiles_s=tuple((float(p), float(v)) for p, v in zip(percentiles, ends, strict=True)),
    )


def _mean(values: Sequence[tuple[float, float]]) -> float:
    total = sum(weight for _, weight in values)
    if total <= 0.0:
        return max((value for value, _ in values), default=0.0)
    return sum(value * weight for value, weight in values) / total


def _queue(tables: PoolTables, column: Column, rate_rps: float) -> LoadedPool:
    role = tables.catalogue.offers[column.offer].role
    pick = PoolPick(role=role, offer=column.offer, replicas=column.replicas, context=column.context)
    pools = tables.pools(role, column.context)
    entries = Entries.one(tables.row_of(pick), column.replicas)
    position = np.maximum(position_at_rate(pools, entries, rate_rps * (1.0 - 1e-12)), 0.0)
    return LoadedPool(
        pick=pick,
        capacity_rps=column.capacity_rps,
        rate_rps=rate_rps,
        pools=pools,
        entry=entries,
        state=state_at(pools, entries, position),
    )


def _model_predictions(tables: PoolTables, plan: LoadedPlan, served_rps: float) -> Predictions:
    replicas = [tables.catalogue.offers[pool.pick.offer].replica for pool in plan.pools]
    sigma = max(replica.tables.sigma for replica in replicas)
    provenance = max(replica.tables.provenance for replica in replicas)
    tokens = served_rps * tables.catalogue.requests.mean_output_tokens
    asked = tables.catalogue.problem.payload.workload.slo.percentile
    values = [
        ("ttft_s", plan.ttft_s, "s"),
        *((f"ttft_p{p:g}_s", value, "s") for p, value in plan.ttft_percentiles_s),
        ("tpot_s", plan.tpot_s, "s"),
        ("e2e_s", plan.e2e_s, "s"),
        *((f"e2e_p{p:g}_s", value, "s") for p, value in plan.e2e_percentiles_s),
        ("capacity_rps", plan.capacity_rps, "request/s"),
        ("output_tokens_per_s", tokens, "token/s"),
    ]
    if asked > 0.0:
        values.append((f"tpot_p{asked:g}_s", plan.tpot_high_s, "s"))
    found = [
        (name, estimate(value, unit, sigma, provenance)) for name, value, unit in values if np.isfinite(value)
    ]
    found.append(("request_rate_rps", _plain(served_rps, "request/s", provenance)))
    return tuple(found)
