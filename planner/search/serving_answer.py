"""Turns a solution into pools with predictions, memory and a placement."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, isfinite, sqrt

from cost_models.serving.queueing import normal_quantile
from cost_models.serving.uncertainty import handover_sigma, interval_factor
from hardware_profiles.provenance import Provenance
from planner.ir.candidates import (
    Degrees,
    Estimate,
    Limits,
    PoolChoice,
    Predictions,
    ReplicaPlacement,
)
from planner.ir.serving import Adapters
from planner.ir.strategy import ServingStrategy
from planner.ir.weight_offload import WeightOffload
from planner.search.placement import Block, place
from planner.search.serving_load import LoadedPlan, LoadedPool
from planner.search.serving_pools import PoolTables
from planner.search.serving_question import Question
from planner.search.serving_solver import Solution
from planner.space.memory import BLOCK_TOKENS

_RARE_PERCENTILE = 99.99
"""Running sequences exceed what the engine is told to admit this rarely; memory may stop them earlier."""
_RESOURCE_GOALS = frozenset({"min_devices", "min_cost", "min_power"})


def pool_choices(tables: PoolTables, plan: LoadedPlan) -> tuple[PoolChoice, ...]:
    """Return the pools of a loaded plan, named by role in their order."""
    counts: dict[str, int] = {}
    totals: dict[str, int] = {}
    for pool in plan.pools:
        totals[pool.pick.role] = totals.get(pool.pick.role, 0) + 1
    choices: list[PoolChoice] = []
    for pool in plan.pools:
        role = pool.pick.role
        counts[role] = counts.get(role, 0) + 1
        name = role if totals[role] == 1 else f"{role}-{counts[role]}"
        choices.append(_choice(tables, pool, name))
    return tuple(choices)


def degrees_of(strategy: ServingStrategy) -> Degrees:
    """Return the degrees under the names of the plan schema."""
    return (
        ("tp", strategy.tp),
        ("pp", strategy.pp),
        ("ep", strategy.ep),
        ("attention_dp", strategy.attention_dp),
        ("cp", strategy.prefill_cp),
        ("moe_tp", strategy.moe_tp),
        ("decode_cp", strategy.decode_cp),
    )


def _choice(tables: PoolTables, pool: LoadedPool, name: str) -> PoolChoice:
    catalogue = tables.catalogue
    offer = catalogue.offers[pool.pick.offer]
    shape, group = offer.replica.shape, catalogue.groups[offer.group]
    return PoolChoice(
        name=name,
        role=pool.pick.role,
        model=catalogue.problem.payload.model.name,
        replicas=pool.pick.replicas,
        node_group=group.name,
        device=group.device.name,
        degrees=degrees_of(shape.strategy),
        devices_per_replica=offer.replica.num_devices,
        weight_fmt=shape.weight_fmt,
        kv_fmt=shape.kv_fmt,
        engine=shape.engine,
        limits=_limits(tables, pool),
        layers_per_stage=offer.replica.layers_per_stage,
        predicted=_pool_predictions(tables, pool),
        memory=offer.replica.memory_report(),
    )


def _limits(tables: PoolTables, pool: LoadedPool) -> Limits:
    """Return what the engine is told; running sequences are capped where more are as rare as stated."""
    catalogue = tables.catalogue
    offer = catalogue.offers[pool.pick.offer]
    shape = offer.replica.shape
    sequences = shape.max_num_seqs
    if pool.pick.role != "prefill" and catalogue.requests.mean_steps > 0.0:
        mean = float(pool.state.sequences[0]) * pool.capacity_rps / max(pool.rate_rps, 1e-300)
        held = offer.replica.limits
        mean = min(mean, held.slots if pool.pick.role == "aggregated" else held.mean_sequences)
        peak = mean + normal_quantile(_RARE_PERCENTILE) * sqrt(mean)
        sequences = max(1, min(sequences, ceil(peak)))
    longest = int((catalogue.requests.input_tokens + catalogue.requests.output_tokens).max())
    builder = catalogue.builders[offer.group, shape.engine]
    return (
        ("token_budget", max(shape.token_budget, sequences)),
        ("max_num_seqs", sequences),
        ("max_model_len", longest),
        ("memory_fraction", builder.memory_fraction),
        ("block_size", BLOCK_TOKENS),
        *_adapter_limits(catalogue.problem.payload.adapters),
        *((("redundant_experts", n),) if (n := shape.strategy.redundant_experts) else ()),
        *WeightOffload.of_text(shape.offload).limits,
    )


def _adapter_limits(adapters: Adapters | None) -> Limits:
    if adapters is None:
        return ()
    return (("max_loras", adapters.num_resident), ("max_lora_rank", adapters.rank))


def estimate(value: float, unit: str, sigma: float, provenance: Provenance) -> Estimate:
    """Return an estimate with a log-normal 90 % interval."""
    factor = interval_factor(sigma)
    return Estimate(value=value, unit=unit, low=value / factor, high=value * factor, provenance=provenance)


def _pool_predictions(tables: PoolTables, pool: LoadedPool) -> Predictions:
    time_tables = tables.catalogue.offers[pool.pick.offer].replica.tables
    sigma, provenance = time_tables.sigma, time_tables.provenance
    first = time_tables.first_token_sigma
    if pool.pick.role == "prefill":
        first = handover_sigma(first)
    state = pool.state

    def of(value: float, unit: str, spread: float = sigma) -> Estimate:
        return estimate(float(value), unit, spread, provenance)

    found = [
        ("request_rate_rps", Estimate(value=pool.rate_rps, unit="request/s", provenance=provenance)),
        ("capacity_rps", of(pool.capacity_rps, "request/s")),
    ]
    if pool.pick.role != "decode":
        found.append(("ttft_s", of(state.ttft_s[0], "s", first)))
        found.append(("waiting_s", of(state.waiting.mean_s[0], "s", first)))
        found.append(("prefill_utilisation", of(state.utilisation[0], "1")))
    if pool.pick.role != "prefill":
        found.append(("tpot_s", of(state.tpot_s[0], "s")))
        found.append(("running_sequences", of(state.sequences[0], "sequences per rank")))
    held = max(stage.host_bytes for stage in tables.catalogue.offers[pool.pick.offer].replica.stages)
    if held > 0.0:
        found.append(("host_weights_bytes", Estimate(value=held, unit="bytes per device")))
    transfer = float(tables.transfer_s(pool.pick) @ tables.catalogue.requests.weights)
    if transfer > 0.0:
        found.append(("kv_transfer_s", of(transfer, "s")))
    return _finite(found)


def plan_predictions(
    tables: PoolTables, plan: LoadedPlan, solution: Solution, question: Question
) -> Predictions:
    """Return the predictions of the whole plan: means over the traffic, the slowest pool at percentiles."""
    replicas = [tables.catalogue.offers[pool.pick.offer].replica for pool in plan.pools]
    sigma = max(replica.tables.sigma for replica in replicas)
    first = max(replica.tables.first_token_sigma for replica in replicas)
    if any(pool.pick.role == "prefill" for pool in plan.pools):
        first = handover_sigma(first)
    provenance = max(replica.tables.provenance for replica in replicas)
    tokens = plan.rate_rps * tables.catalogue.requests.mean_output_tokens

    def of(value: float, unit: str, spread: float = sigma) -> Estimate:
        return estimate(value, unit, spread, provenance)

    found: list[tuple[str, Estimate]] = [
        ("ttft_s", of(plan.ttft_s, "s", first)),
        *((f"ttft_p{p:g}_s", of(value, "s", first)) for p, value in plan.ttft_percentiles_s),
        ("tpot_s", of(plan.tpot_s, "s")),
        ("e2e_s", of(plan.e2e_s, "s")),
        *((f"e2e_p{p:g}_s", of(value, "s")) for p, value in plan.e2e_percentiles_s),
        ("request_rate_rps", Estimate(value=plan.rate_rps, unit="request/s", provenance=provenance)),
        ("capacity_rps", of(plan.capacity_rps, "request/s")),
        ("output_tokens_per_s", of(tokens, "token/s")),
        ("output_tokens_per_s_per_device", of(tokens / solution.num_devices, "token/s")),
        ("num_devices", Estimate(value=solution.num_devices, unit="devices", provenance=Provenance.MEASURED)),
    ]
    asked = question.limits.percentile
    if asked > 0.0:
        found.insert(4, (f"tpot_p{asked:g}_s", of(plan.tpot_high_s, "s")))
    found.extend(_money_and_power(solution, question, tokens, sigma))
    return _finite(found)


def objective_sigma(tables: PoolTables, plan: LoadedPlan, question: Question) -> float:
    """Return the relative error of the objective: that of the speed of the slowest known replica.

    Devices, money and power are in inverse proportion to the speed where a load or a limit on latency
    decides their number. Without either, memory decides, and that is exact: 0.
    """
    limits = question.limits
    asked = question.rate_rps is not None or question.concurrency is not None
    asked |= isfinite(min(limits.ttft_s, limits.tpot_s, limits.e2e_s))
    if question.goal in _RESOURCE_GOALS and not asked:
        return 0.0
    return max(tables.catalogue.offers[pool.pick.offer].replica.tables.sigma for pool in plan.pools)


def _finite(predictions: Iterable[tuple[str, Estimate]]) -> Predictions:
    """Return the predictions that have a value; at its capacity a queue grows without end and has none."""
    return tuple((name, estimate) for name, estimate in predictions if isfinite(estimate.value))


def _money_and_power(
    solution: Solution, question: Question, tokens_per_s: float, sigma: float
) -> Predictions:
    found: list[tuple[str, Estimate]] = []
    prices = question.resources.usd_per_device_hour
    if all(price is not None for price, n in zip(prices, solution.devices, strict=True) if n):
        usd = sum((price or 0.0) * n for price, n in zip(prices, solution.devices, strict=True))
        found.append(("usd_per_hour", Estimate(value=usd, unit="USD/h", provenance=Provenance.ASSUMED)))
        if tokens_per_s > 0.0:
            per_million = usd / (tokens_per_s * 3600.0) * 1e6
            found.append(
                ("usd_per_million_output_tokens", estimate(per_million, "USD", sigma, Provenance.ASSUMED))
            )
    watts = sum(w * n for w, n in zip(question.resources.power_w_per_device, solution.devices, strict=True))
    found.append(("power_w", Estimate(value=watts, unit="W", provenance=Provenance.ANALYTICAL)))
    return tuple(found)


def placement_of(
    tables: PoolTables, solution: Solution, names: tuple[str, ...]
) -> tuple[ReplicaPlacement, ...] | None:
    """Return the placement of a solution's pools, or None if its replicas cannot be packed this way."""
    blocks: list[Block] = []
    for pick, name in zip(solution.picks, names, strict=True):
        offer = tables.catalogue.offers[pick.offer]
        group = tables.catalogue.groups[offer.group]
        local = pick.context is not None and pick.context.max_devices <= group.domain_size
        strategy = offer.replica.shape.strategy
        blocks.extend(
            Block(
                pool=name,
                replica=replica,
                group=offer.group,
                num_stages=strategy.pp,
                stage_devices=strategy.stage_devices,
                bundle=offer.group if local and group.num_devices > group.domain_size else None,
            )
            for replica in range(pick.replicas)
        )
    return place(blocks, tables.catalogue.groups)


def summary_of(tables: PoolTables, solution: Solution) -> str:
    """Return a solution in one line: roles, replica counts, degrees, formats, devices."""
    parts: list[str] = []
    for pick in solution.picks:
        offer = tables.catalogue.offers[pick.offer]
        shape = offer.replica.shape
        degrees = " ".join(f"{name}{value}" for name, value in degrees_of(shape.strategy) if value > 1)
        group = tables.catalogue.groups[offer.group].name
        parts.append(f"{pick.replicas}x {pick.role} {degrees or 'tp1'} {shape.weight_fmt} on {group}")
    return " + ".join(parts) + f" ({solution.num_devices} devices)"
