"""Where the time of a serving pool goes: its mean decode step and its mean prefill, by kind of work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from planner.errors import InputError
from planner.ir.cost_sources import step_source
from planner.ir.problem import Problem
from planner.ir.serving import Role, ServingProblem
from planner.ir.strategy import ServingStrategy
from planner.ir.weight_offload import WeightOffload
from planner.plan.schema import Pool
from planner.report.explanation import Bottleneck
from planner.space.breakdown import Step, step_seconds
from planner.space.compose import ReplicaShape
from planner.space.engine import costs_from
from planner.space.replica import ReplicaBuilder

_BUDGET = 8192
"""Tokens of a step where a plan does not say."""
_HOST = "weights from host memory"


def pool_bottlenecks(problem: Problem[ServingProblem], pool: Pool) -> Iterator[Bottleneck]:
    """Yield the breakdown of the pool's steps.

    Raises
    ------
    InputError
        If the plan names a node group or an engine that is not known.
    """
    group = next((g for g in problem.cluster.groups if g.name == pool.node_group), None)
    if group is None:
        raise InputError("the plan names a node group that its problem lacks", value=pool.node_group)
    source = costs_from(step_source(problem.payload.choices.costs))
    builder = ReplicaBuilder(problem=problem.payload, group=group, costs=source(group, pool.engine))
    degrees = pool.strategy
    strategy = ServingStrategy(
        tp=degrees.tp,
        pp=degrees.pp,
        attention_dp=degrees.attention_dp,
        ep=degrees.ep,
        moe_tp=degrees.moe_tp,
        prefill_cp=degrees.cp,
        decode_cp=degrees.decode_cp,
        redundant_experts=int(pool.limits.get("redundant_experts", 0)),
    )
    shape = ReplicaShape(
        role=cast("Role", pool.role),
        group=group.name,
        engine=pool.engine,
        weight_fmt=pool.weight_dtype,
        kv_fmt=pool.kv_dtype,
        strategy=strategy,
        token_budget=int(pool.limits.get("token_budget", _BUDGET)),
        max_num_seqs=int(pool.limits.get("max_num_seqs", 1)),
        offload=WeightOffload.of_limits(pool.limits).text,
    )
    for words, step in _steps(pool, builder):
        seconds = step_seconds(builder.pricer, strategy, pool.weight_dtype, pool.kv_dtype, step)
        waiting = builder.streaming_s(shape, tuple(pool.layers_per_stage), step.num_tokens)
        if waiting > 0.0:
            seconds[_HOST] = waiting
        total = sum(seconds.values())
        shares = sorted(
            ((name, time_s / total) for name, time_s in seconds.items()), key=lambda s: (-s[1], s[0])
        )
        yield Bottleneck(pool=pool.name, step=words, step_s=total, shares=tuple(shares))


def _steps(pool: Pool, builder: ReplicaBuilder) -> Iterator[tuple[str, Step]]:
    budget = float(pool.limits.get("token_budget", _BUDGET))
    running = pool.predicted.get("running_sequences")
    if pool.role != "prefill" and running is not None:
        num_sequences = max(1.0, running.value)
        yield (
            f"decode step of {num_sequences:.3g} sequences per rank",
            Step(num_tokens=num_sequences, num_sequences=num_sequences, num_prompts=0.0, token_budget=budget),
        )
    if pool.role != "decode":
        mean = builder.requests.mean_new_tokens
        num_tokens = min(mean, budget)
        yield (
            f"prefill step of {num_tokens:.4g} tokens",
            Step(
                num_tokens=num_tokens, num_sequences=0.0, num_prompts=num_tokens / mean, token_budget=budget
            ),
        )
