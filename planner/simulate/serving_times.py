"""Step times of one replica as lists that a simulation can index: seconds by tokens and by sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from cost_models.serving.tables import TimeTables, interpolate
from hardware_profiles.schema import SoftwareProfile
from planner.errors import InputError
from planner.ir.cluster import NodeGroup
from planner.ir.cost_sources import step_source
from planner.ir.serving import Role, ServingProblem
from planner.ir.strategy import ServingStrategy
from planner.ir.weight_offload import WeightOffload
from planner.ir.workload import Lengths
from planner.plan.schema import Pool
from planner.simulate.serving_cache import PrefixCache, Store, Tier
from planner.space.compose import ReplicaShape
from planner.space.engine import costs_from
from planner.space.replica import ReplicaBuilder

_NUM_PROMPT_POINTS = 24
_THROWS_BACK = ("vllm",)
_ROLES: dict[str, Role] = {"aggregated": "aggregated", "prefill": "prefill", "decode": "decode"}


class Batch(NamedTuple):
    """What a rank has in a step: decoding sequences, prompt tokens, and (first, last) tokens of prompts.

    `more_context` is by how many tokens the decoding sequences are longer than the tables' own.
    """

    decode: int
    prompt: int
    pieces: list[tuple[int, int]]
    more_context: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Seconds on each distinct stage, which occurs `counts` times.

    `tokens[row][m]` for m tokens in a step, `sequences[row][d]` for d of them decoding, `prompt[row][n]`
    for the attention of the first n tokens of a prompt (a piece of it costs the difference), and, where
    ranks share the experts, `shared[row][m]` on top for m tokens per rank in the mean. `sequences`
    holds for sequences of `context_tokens` cached tokens in the mean; `per_context[row][d]` is what each
    token more costs.
    """

    counts: tuple[int, ...]
    tokens: tuple[list[float], ...]
    sequences: tuple[list[float], ...]
    prompt: tuple[list[float], ...]
    per_request_s: float
    prompt_step_s: tuple[float, ...]
    shared: tuple[list[float], ...] = ()
    context_tokens: float = 0.0
    per_context: tuple[list[float], ...] = ()
    launch_sharpness: float = 1.0

    @property
    def num_stages(self) -> int:
        """Pipeline stages."""
        return sum(self.counts)

    def step_s(self, batches: Sequence[Batch]) -> tuple[float, float]:
        """Return seconds of a step of all ranks on the slowest stage, and on all stages together.

        Ranks wait for the fullest, experts compute the tokens of all. Nothing to do takes no time.
        """
        busy = [batch for batch in batches if batch.decode or batch.prompt]
        if not busy:
            return 0.0, 0.0
        slot_s = through_s = 0.0
        prompts, p = any(batch.prompt for batch in busy), self.launch_sharpness
        mean = sum(b.decode + b.prompt for b in busy) / len(batches) if self.shared else 0.0
        for row, count in enumerate(self.counts):
            seconds = self._rank_s(row, busy[0])
            for batch in busy[1:]:
                seconds = max(seconds, self._rank_s(row, batch))
            if self.shared:
                seconds += _between(self.shared[row], mean)
            if prompts:
                seconds = (seconds**p + self.prompt_step_s[row] ** p) ** (1.0 / p)
            slot_s = max(slot_s, seconds)
            through_s += seconds * count
        return slot_s, through_s

    @property
    def is_plain(self) -> bool:
        """Whether a step takes what one rank on one kind of stage takes by itself."""
        return len(self.counts) == 1 and not self.shared

    def decode_s(self, decode: int, more_context: float) -> float:
        """Return seconds of a step without prompts of a rank, where times are plain."""
        seconds = self.tokens[0][decode] + self.sequences[0][decode]
        return seconds + self.per_context[0][decode] * more_context if self.per_context else seconds

    def _rank_s(self, row: int, batch: Batch) -> float:
        """Return seconds that a rank's device takes by itself."""
        decode = batch.decode
        seconds = self.tokens[row][decode + batch.prompt] + self.sequences[row][decode]
        if self.per_context:
            seconds += self.per_context[row][decode] * batch.more_context
        if batch.prompt:
            reach = self.prompt[row]
            seconds += sum(reach[end] - reach[start] for start, end in batch.pieces)
        return seconds


def _between(values: list[float], at: float) -> float:
    """Return a list's value at a fractional index."""
    low = int(at)
    return values[low] + (at - low) * (values[low + 1] - values[low]) if at > low else values[low]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaModel:
    """A replica as the simulation sees it; limits count per attention rank, the cache in tokens.

    `reserved_share` is the share of a request's output whose cache must be free before it starts. With
    `random_prefill_ranks` the rank that computes a prompt for a decode worker is drawn. Prompts wait up to
    `prompt_wait_steps` until every rank has one (see `cost_models.serving.closed_loop.Discipline`), and steps
    in which prompts end follow each other no faster than one per `admission_s` (see there).
    """

    times: StepTimes
    num_ranks: int
    token_budget: int
    max_sequences: int
    cache_tokens: float
    reserved_share: float = 0.0
    random_prefill_ranks: bool = False
    prompt_wait_steps: int = 0
    admission_s: float = 0.0
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
    source = costs_from(step_source(payload.choices.costs))
    builder = ReplicaBuilder(problem=payload, group=group, costs=source(group, pool.engine))
    found = built_model(builder, _shape(pool, group), tuple(pool.layers_per_stage), longest)
    if found is None:
        raise InputError(f"pool {pool.name!r} does not fit its devices", key="pools", value=pool.name)
    return found


def built_model(
    builder: ReplicaBuilder, shape: ReplicaShape, layers: tuple[int, ...], longest: int
) -> ReplicaModel | None:
    """Return the model of replicas that a builder prices, for contexts of up to `longest` tokens.

    None if the shape does not fit.
    """
    own = builder.build_with(shape, layers)
    if own is None:
        return None
    context = builder.requests.context_moments()[0]
    budget = int(own.limits.token_budget)
    return ReplicaModel(
        times=_lists(own.tables, _prompts(builder, shape, layers, longest), budget, context),
        num_ranks=own.tables.num_attention_ranks,
        token_budget=budget,
        max_sequences=int(own.limits.max_sequences),
        cache_tokens=own.limits.cache_sequences * context,
        reserved_share=_reserved_share(builder.costs.software),
        random_prefill_ranks=builder.costs.software.random_prefill_ranks,
    )


def _reserved_share(software: SoftwareProfile) -> float:
    """Return the share of outputs that admission keeps room for.

    Source: vLLM's scheduler admits by the prompt alone and throws requests back when room runs out; what
    its profile states stands in for that where nothing is thrown back.
    """
    fact = software.reserved_output_share
    return fact.value if fact is not None and software.engine not in _THROWS_BACK else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompts:
    """Tables for prompts of the lengths `grid`; their sequences decode with `context_tokens` cached."""

    grid: np.ndarray[tuple[int], np.dtype[np.int_]]
    tables: TimeTables
    context_tokens: float


def _prompts(builder: ReplicaBuilder, shape: ReplicaShape, layers: tuple[int, ...], longest: int) -> _Prompts:
    """Return tables for a range of prompts, decoding far from the mean context of the builder's requests.

    Where contexts make a difference to decoding, the two tables tell how much.
    """
    grid = np.unique(np.geomspace(1, max(2, longest), _NUM_PROMPT_POINTS).astype(int))
    context = builder.requests.context_moments()[0]
    heavy = -1 if context < 0.5 * longest else 0
    weights = np.full(grid.size, 1e-6)
    weights[heavy] = 1.0
    samples = tuple(zip(grid.tolist(), [2] * grid.size, (weights / weights.sum()).tolist(), strict=True))
    problem = builder.problem
    workload = replace(problem.workload, lengths=Lengths(samples=samples), prefix_hit_share=0.0)
    other = ReplicaBuilder(
        problem=replace(problem, workload=workload), group=builder.group, costs=builder.costs
    )
    tables = other.pricer.tables(
        shape.strategy, shape.weight_fmt, shape.kv_fmt, float(shape.token_budget), layers
    )
    return _Prompts(grid=grid, tables=tables, context_tokens=other.requests.context_moments()[0])


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
            redundant_experts=int(limits.get("redundant_experts", 0)),
        ),
        token_budget=int(limits["token_budget"]),
        max_num_seqs=int(limits["max_num_seqs"]),
        offload=WeightOffload.of_limits(limits).text,
    )


def _lists(own: TimeTables, prompts: _Prompts, budget: int, context_tokens: float) -> StepTimes:
    top = min(int(own.token_grid[-1]), budget + int(own.sequence_grid[-1]))
    up_to_top = np.arange(top + 1, dtype=np.float64)
    tokens = interpolate(own.token_grid, own.token_time_s, up_to_top)
    shared: tuple[list[float], ...] = ()
    if own.shared_time_s is not None:
        together = interpolate(own.token_grid, own.shared_time_s, up_to_top)
        tokens, shared = tokens - together, tuple(row.tolist() for row in together)
    every = np.arange(int(own.sequence_grid[-1]) + 1, dtype=np.float64)
    sequences = interpolate(own.sequence_grid, own.sequence_time_s, every)
    elsewhere = interpolate(prompts.tables.sequence_grid, prompts.tables.sequence_time_s, every)
    apart = prompts.context_tokens - context_tokens
    per_context = (elsewhere - sequences) / apart if abs(apart) >= 1.0 else np.zeros_like(sequences)
    reach = np.arange(int(prompts.grid[-1]) + 1, dtype=np.float64)
    points = np.concatenate(([0.0], prompts.grid.astype(np.float64)))
    attention = prompts.tables.prompt_attention_s
    prompt = [np.interp(reach, points, np.concatenate(([0.0], row))) for row in attention]
    return StepTimes(
        counts=tuple(round(float(c)) for c in own.stage_counts),
        tokens=tuple(row.tolist() for row in tokens),
        sequences=tuple(row.tolist() for row in sequences),
        prompt=tuple(row.tolist() for row in prompt),
        per_request_s=own.per_request_s,
        prompt_step_s=tuple(np.broadcast_to(own.prompt_step_s, len(tokens)).tolist()),
        shared=shared,
        context_tokens=context_tokens,
        per_context=tuple(row.tolist() for row in per_context),
        launch_sharpness=own.launch_sharpness,
    )
