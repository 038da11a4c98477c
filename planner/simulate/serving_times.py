"""Step times of one replica as lists that a simulation can index: seconds by tokens and by sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cost_models.serving.tables import TimeTables, interpolate
from planner.errors import InputError
from planner.ir.cluster import NodeGroup
from planner.ir.cost_sources import step_source
from planner.ir.serving import Role, ServingProblem
from planner.ir.strategy import ServingStrategy
from planner.ir.workload import Lengths
from planner.plan.schema import Pool
from planner.simulate.serving_cache import PrefixCache, Store, Tier
from planner.space.compose import ReplicaShape
from planner.space.engine import costs_from
from planner.space.replica import ReplicaBuilder

_NUM_PROMPT_POINTS = 24
_ROLES: dict[str, Role] = {"aggregated": "aggregated", "prefill": "prefill", "decode": "decode"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Seconds on each distinct stage, which occurs `counts` times.

    `tokens[row][m]` for m tokens in a step, `sequences[row][d]` for d of them decoding, `prompt[row][n]`
    for the attention of the first n tokens of a prompt (a piece of it costs the difference).
    """

    counts: tuple[int, ...]
    tokens: tuple[list[float], ...]
    sequences: tuple[list[float], ...]
    prompt: tuple[list[float], ...]
    decode_only: list[float]
    per_request_s: float
    prompt_step_s: tuple[float, ...]

    @property
    def num_stages(self) -> int:
        """Pipeline stages."""
        return sum(self.counts)

    def slot_s(self, decode: int, prompt: int, pieces: list[tuple[int, int]]) -> float:
        """Return seconds of a step on the slowest stage; `pieces` are (first, last) tokens of prompts."""
        return max(
            tokens[decode + prompt]
            + sequences[decode]
            + sum(reach[end] - reach[start] for start, end in pieces)
            + (launches if prompt else 0.0)
            for tokens, sequences, reach, launches in zip(
                self.tokens, self.sequences, self.prompt, self.prompt_step_s, strict=True
            )
        )

    def fill_s(self, slot_s: float) -> float:
        """Return what a step takes to pass the other stages."""
        return slot_s * (self.num_stages - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaModel:
    """A replica as the simulation sees it; limits count per attention rank, the cache in tokens."""

    times: StepTimes
    num_ranks: int
    token_budget: int
    max_sequences: int
    cache_tokens: float
    block_tokens: int = 0
    tiers: tuple[Tier, ...] = ()

    def prefix_cache(self) -> PrefixCache | None:
        """Return an empty prefix cache for a rank, None where requests carry no blocks."""
        if not self.block_tokens:
            return None
        stores = [
            Store(tier=replace(t, capacity_tokens=t.capacity_tokens / self.num_ranks)) for t in self.tiers
        ]
        return PrefixCache(block_tokens=self.block_tokens, stores=stores)


def replica_cache_bytes_per_token(pool: Pool, model: ReplicaModel) -> float:
    """Return bytes of cache of one token over all devices of a replica.

    Raises
    ------
    InputError
        If the pool does not say what its caches take.
    """
    devices = pool.strategy.tp * pool.strategy.attention_dp * pool.strategy.cp
    held = sum(part.num_bytes for stage in pool.memory for part in stage.parts if part.name == "kv_cache")
    stages = max(1, len(pool.memory))
    total = held / stages * pool.strategy.pp * devices
    if total <= 0.0:
        raise InputError(
            f"pool {pool.name!r} does not say what its caches take, so no tier below them can be sized",
            key="pools.memory",
        )
    return total / (model.cache_tokens * model.num_ranks)


def replica_model(payload: ServingProblem, pool: Pool, group: NodeGroup, longest: int) -> ReplicaModel:
    """Return the model of a pool's replicas for prompts of up to `longest` tokens.

    Raises
    ------
    InputError
        If the pool does not fit its devices, or names an engine or a format that nobody prices.
    """
    try:
        return _replica_model(payload, pool, group, longest)
    except ValueError as error:
        raise InputError(f"pool {pool.name!r} cannot be priced: {error}", key="pools") from error


def _replica_model(payload: ServingProblem, pool: Pool, group: NodeGroup, longest: int) -> ReplicaModel:
    shape, layers = _shape(pool, group), tuple(pool.layers_per_stage)
    own = _builder(payload, pool, group).build_with(shape, layers)
    if own is None:
        raise InputError(f"pool {pool.name!r} does not fit its devices", key="pools", value=pool.name)
    grid = np.unique(np.geomspace(1, max(2, longest), _NUM_PROMPT_POINTS).astype(int))
    samples = tuple((int(n), 1, 1.0 / grid.size) for n in grid)
    workload = replace(payload.workload, lengths=Lengths(samples=samples), prefix_hit_share=0.0)
    pricer = _builder(replace(payload, workload=workload), pool, group).pricer
    prompts = pricer.tables(shape.strategy, shape.weight_fmt, shape.kv_fmt, float(shape.token_budget), layers)
    first = own.limits.cache_sequences
    context = payload.workload.lengths.mean_input + payload.workload.lengths.mean_output / 2.0
    budget = int(own.limits.token_budget)
    return ReplicaModel(
        times=_lists(own.tables, prompts, grid, budget),
        num_ranks=own.tables.num_attention_ranks,
        token_budget=budget,
        max_sequences=int(own.limits.max_sequences),
        cache_tokens=first * context,
    )


def _builder(payload: ServingProblem, pool: Pool, group: NodeGroup) -> ReplicaBuilder:
    source = costs_from(step_source(payload.choices.costs))
    return ReplicaBuilder(problem=payload, group=group, costs=source(group, pool.engine))


def _shape(pool: Pool, group: NodeGroup) -> ReplicaShape:
    s = pool.strategy
    missing = [name for name in ("token_budget", "max_num_seqs") if name not in pool.limits]
    if pool.role not in _ROLES or missing:
        raise InputError(
            f"pool {pool.name!r} cannot be simulated",
            key="pools.role" if not missing else f"pools.limits.{missing[0]}",
            value=pool.role if not missing else None,
            allowed=", ".join(_ROLES) if not missing else None,
        )
    limits = pool.limits
    return ReplicaShape(
        role=_ROLES[pool.role],
        group=group.name,
        engine=pool.engine,
        weight_fmt=pool.weight_dtype,
        kv_fmt=pool.kv_dtype,
        strategy=ServingStrategy(
            tp=s.tp,
            pp=s.pp,
            attention_dp=s.attention_dp,
            ep=s.ep,
            moe_tp=s.moe_tp,
            prefill_cp=s.cp,
            decode_cp=s.decode_cp,
        ),
        token_budget=int(limits["token_budget"]),
        max_num_seqs=int(limits["max_num_seqs"]),
    )


def _lists(
    own: TimeTables, prompts: TimeTables, grid: np.ndarray[tuple[int], np.dtype[np.int_]], budget: int
) -> StepTimes:
    top = min(int(own.token_grid[-1]), budget + int(own.sequence_grid[-1]))
    tokens = interpolate(own.token_grid, own.token_time_s, np.arange(top + 1, dtype=np.float64))
    most = int(own.sequence_grid[-1])
    sequences = interpolate(own.sequence_grid, own.sequence_time_s, np.arange(most + 1, dtype=np.float64))
    reach = np.arange(int(grid[-1]) + 1, dtype=np.float64)
    points = np.concatenate(([0.0], grid.astype(np.float64)))
    prompt = [np.interp(reach, points, np.concatenate(([0.0], row))) for row in prompts.prompt_attention_s]
    both = (tokens[:, : min(most, top) + 1] + sequences[:, : min(most, top) + 1]).max(axis=0)
    return StepTimes(
        counts=tuple(round(float(c)) for c in own.stage_counts),
        tokens=tuple(row.tolist() for row in tokens),
        sequences=tuple(row.tolist() for row in sequences),
        prompt=tuple(row.tolist() for row in prompt),
        decode_only=both.tolist(),
        per_request_s=own.per_request_s,
        prompt_step_s=tuple(np.broadcast_to(own.prompt_step_s, len(tokens)).tolist()),
    )
