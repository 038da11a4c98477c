"""Pools of whole workers carry their rates: their source is asked again, batch by batch.

Between two batches that the search asked about, a pool's latency is that of the larger one, so asking for
the batch that the plan says is running may only be faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import cast

from cost_models.aiconfigurator.query import MissingDataError
from cost_models.aiconfigurator.workers import (
    DECODE_SHARE,
    PREFILL_SHARE,
    PREFILL_TTFT_FACTOR,
    Batch,
    ModelFacts,
    Worker,
    WorkerEstimate,
    WorkerRole,
    WorkerTimes,
)
from hardware_profiles.loader import load_software
from planner.ir.cost_sources import priced_by
from planner.ir.model_graph import Experts
from planner.ir.serving import ServingProblem
from planner.plan.schema import Pool
from planner.verify.report import Violation
from planner.verify.rule import SERVING, Case, Rule, estimated_whole
from planner.verify.serving.shards import cache_format

TOLERANCE = 0.01
_SHARES = {"aggregated": 1.0, "prefill": PREFILL_SHARE, "decode": DECODE_SHARE}
_NEXT_BATCHES = 3
"""Batches above the stated one that may carry the rate: between two that were asked it is interpolated."""


def _check(case: Case) -> Iterator[Violation]:
    if not estimated_whole(case):
        return
    payload = cast("ServingProblem", case.problem.payload)
    groups = {group.name: group for group in case.problem.cluster.groups}
    for pool in case.plan.pools:
        device = groups[pool.node_group].device
        workers = priced_by(payload.choices.costs, device, load_software(pool.engine)).workers
        if workers is not None:
            yield from _pool(payload, pool, workers)


def _pool(payload: ServingProblem, pool: Pool, workers: WorkerTimes) -> Iterator[Violation]:
    claimed = pool.predicted.get("request_rate_rps")
    if claimed is None:
        yield Violation(message=f"pool {pool.name!r} does not say which rate it carries")
        return
    running = pool.predicted.get("running_sequences")
    first = max(1, ceil((running.value if running else 0.0) / pool.strategy.pp - 1e-6))
    if pool.role == "prefill":
        first = max(1, int(pool.limits["max_num_seqs"]))
    best, worker, role = 0.0, _worker(payload, pool), cast("WorkerRole", pool.role)
    for size in range(first, first + _NEXT_BATCHES):
        try:
            found = workers.estimate(worker, role, _batch(payload, pool, size))
        except MissingDataError as error:
            yield Violation(message=f"pool {pool.name!r}: {error}")
            return
        if not found.fits:
            break
        best = max(best, found.rate_rps * _SHARES[pool.role] * pool.replicas)
        if best >= claimed.value * (1 - TOLERANCE):
            yield from _times(pool, found)
            return
    yield Violation(
        message=f"pool {pool.name!r} carries {best:.4g} requests/s, the plan says {claimed.value:.4g}",
        numbers=(("own_rate_rps", best), ("claimed_rate_rps", claimed.value)),
    )


def _times(pool: Pool, found: WorkerEstimate) -> Iterator[Violation]:
    factor = PREFILL_TTFT_FACTOR if pool.role == "prefill" else 1.0
    for name, own in (("ttft_s", found.ttft_s * factor), ("tpot_s", found.tpot_s)):
        claimed = pool.predicted.get(name)
        if claimed is not None and claimed.value < own * (1 - TOLERANCE):
            yield Violation(
                message=f"pool {pool.name!r}: {name} is {own:.4g}, the plan says {claimed.value:.4g}",
                numbers=((f"own_{name}", own), (f"claimed_{name}", claimed.value)),
            )


def _worker(payload: ServingProblem, pool: Pool) -> Worker:
    model, degrees = payload.model, pool.strategy
    experts = [op.num_experts for layer in set(model.layers) for op in layer.ops if isinstance(op, Experts)]
    return Worker(
        model=ModelFacts(
            name=model.name,
            num_layers=model.num_layers,
            hidden_size=model.hidden_size,
            vocab_size=model.vocab_size,
            num_experts=max(experts, default=0),
            weight_fmt=pool.weight_dtype,
            kv_fmt=cache_format(model, pool.kv_dtype),
        ),
        tp=degrees.tp,
        pp=degrees.pp,
        attention_dp=degrees.attention_dp,
        moe_tp=degrees.moe_tp,
        ep=degrees.ep,
    )


def _batch(payload: ServingProblem, pool: Pool, size: int) -> Batch:
    workload = payload.workload
    (tokens, outputs, _), *_ = workload.lengths.samples
    new = max(1.0, tokens * (1.0 - workload.prefix_hit_share))
    return Batch(
        size=size,
        input_tokens=round(tokens),
        output_tokens=round(outputs),
        prefix_tokens=round(tokens - new),
        prompt_tokens=int(pool.limits["token_budget"]) if pool.role == "aggregated" else 0,
    )


RULE = Rule(
    says="pools of whole workers carry their rates as their source says",
    check=_check,
    kinds=SERVING,
    requires=("layers", "divisibility", "inventory"),
)
