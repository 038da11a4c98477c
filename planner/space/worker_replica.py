"""Replicas as a source of whole workers estimates them: a load curve from what it says batch by batch.

Between two batches that were asked the rate is that of the smaller one, so a capacity always belongs to a
batch that the source itself was asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from cost_models.aiconfigurator.query import MissingDataError
from cost_models.aiconfigurator.workers import (
    DECODE_SHARE,
    FIRST_TOKEN_SIGMA_LOG,
    PREFILL_SHARE,
    PREFILL_TTFT_FACTOR,
    STEP_SIGMA_LOG,
    Batch,
    ModelFacts,
    Worker,
    WorkerEstimate,
    WorkerTimes,
)
from cost_models.serving.requests import Requests
from cost_models.serving.steady_state import BatchLimits, LoadCurve
from cost_models.serving.tables import TimeTables
from hardware_profiles.provenance import Provenance
from planner.errors import InputError
from planner.ir.model_graph import Experts, ModelGraph
from planner.ir.serving import ServingProblem
from planner.ir.workload import Slo
from planner.space.compose import ReplicaShape
from planner.space.engine import kv_format
from planner.space.memory import StageBytes

LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Batches that are always asked; the largest one within the limits is looked for between them."""
CHUNKS = (512, 1024, 2048, 4096)
"""Prompt tokens per step that are tried below the length of a prompt."""
_NORMAL_PROMPT_TOKENS = 8192
"""Prompt tokens per step up to which every multiple of the step is tried; beyond, one and two prompts."""
_MOST_REASONS = 3
_POINTS = 2 * (len(LADDER) + 1)
"""Points of a curve: two for every batch asked on the ladder, and for the largest one within the limits."""
_PART_NAMES = {"nccl": "communication", "others": "context"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatedReplica:
    """What stands for a priced replica: the parts of one, all from the source's estimates."""

    shape: ReplicaShape
    layers_per_stage: tuple[int, ...]
    stages: tuple[StageBytes, ...]
    limits: BatchLimits
    tables: TimeTables
    curve: LoadCurve


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """A worker at a batch: sequences in flight per attention rank, rate of one rank, latencies."""

    sequences: int
    rate_rps: float
    ttft_s: float
    tpot_s: float
    cache_bytes: float

    def within(self, slo: Slo, steps: float) -> bool:
        """Return whether the limits are kept (means)."""
        limits = (slo.ttft_s, slo.tpot_s, slo.e2e_s)
        found = (self.ttft_s, self.tpot_s, self.ttft_s + steps * self.tpot_s)
        return all(limit is None or value <= limit for limit, value in zip(limits, found, strict=True))


@dataclass(slots=True, kw_only=True)
class WorkerShapes:
    """Estimates the shapes of one problem by whole workers; `missing` counts what could not be, by reason."""

    problem: ServingProblem
    requests: Requests
    workers: WorkerTimes
    missing: dict[str, int] = field(default_factory=dict[str, int])

    def refuse_unknown(self) -> None:
        """Refuse what the source has no notion of.

        Raises
        ------
        InputError
            If lengths vary, limits are at a percentile, nothing is decoded, or there are adapters.
        """
        if self.problem.workload.images is not None:
            raise InputError("whole workers are estimated without images", key="workload.images")
        if self.problem.adapters is not None:
            raise InputError("whole workers are estimated without adapters", key="adapters")
        workload = self.problem.workload
        if self.requests.weights.size != 1:
            raise InputError(
                "whole workers are estimated for one length of prompts and one of outputs",
                key="costs",
                hint="State single lengths (--isl, --osl), or plan with `costs: aiconfigurator`.",
            )
        if workload.slo.percentile > 0.0:
            raise InputError("whole workers are estimated in the mean only", key="slo.percentile")
        if self.requests.mean_steps <= 0.0:
            raise InputError("whole workers are estimated for two output tokens or more", key="workload")

    def remarks(self) -> tuple[str, ...]:
        """Return how many shapes could not be estimated, with the commonest reasons."""
        if not self.missing:
            return ()
        common = sorted(self.missing.items(), key=lambda item: (-item[1], item[0]))[:_MOST_REASONS]
        reasons = "; ".join(f"{reason} ({count})" for reason, count in common)
        return (f"{sum(self.missing.values())} shapes are left out, which it does not estimate: {reasons}",)

    def estimate(self, shape: ReplicaShape) -> Iterator[EstimatedReplica]:
        """Yield a replica for every batch of prompts (prefill) or prompt tokens per step (aggregated)."""
        strategy = shape.strategy
        if strategy.prefill_cp > 1 or strategy.decode_cp > 1:
            return
        worker = Worker(
            model=facts_of(self.problem.model, shape.weight_fmt, shape.kv_fmt),
            tp=strategy.tp,
            pp=strategy.pp,
            attention_dp=strategy.attention_dp,
            moe_tp=strategy.moe_tp,
            ep=strategy.ep,
        )
        make = {"prefill": self._prefill, "decode": self._decode, "aggregated": self._aggregated}[shape.role]
        try:
            yield from make(shape, worker)
        except MissingDataError as error:
            self.missing[str(error)] = self.missing.get(str(error), 0) + 1

    def _batch(self, size: int, prompt_tokens: int = 0) -> Batch:
        tokens, new = float(self.requests.input_tokens[0]), float(self.requests.new_tokens[0])
        return Batch(
            size=size,
            input_tokens=round(tokens),
            output_tokens=max(2, round(float(self.requests.output_tokens[0]))),
            prefix_tokens=round(tokens - new),
            prompt_tokens=prompt_tokens,
        )

    def _prefill(self, shape: ReplicaShape, worker: Worker) -> Iterator[EstimatedReplica]:
        prompt = round(float(self.requests.new_tokens[0]))
        for size in range(1, max(1, shape.token_budget // prompt) + 1):
            found = self.workers.estimate(worker, "prefill", self._batch(size))
            if not found.fits:
                return
            rate = found.rate_rps * PREFILL_SHARE / worker.attention_dp
            ttft_s = found.ttft_s * PREFILL_TTFT_FACTOR
            points = [
                _Point(sequences=0, rate_rps=rate, ttft_s=ttft_s, tpot_s=0.0, cache_bytes=_cache(found))
            ]
            budget = replace(shape, token_budget=size * prompt, max_num_seqs=size)
            yield self._replica(budget, found, points, points[0], 2)

    def _decode(self, shape: ReplicaShape, worker: Worker) -> Iterator[EstimatedReplica]:
        def ask(size: int) -> tuple[WorkerEstimate, _Point]:
            found = self.workers.estimate(worker, "decode", self._batch(size))
            point = _Point(
                sequences=size * worker.pp,
                rate_rps=found.rate_rps * DECODE_SHARE / worker.attention_dp,
                ttft_s=0.0,
                tpot_s=found.tpot_s,
                cache_bytes=_cache(found),
            )
            return found, point

        slo = replace(self.problem.workload.slo, ttft_s=None)
        yield from self._swept(shape, ask, slo)

    def _aggregated(self, shape: ReplicaShape, worker: Worker) -> Iterator[EstimatedReplica]:
        for tokens in self._prompt_tokens(shape.token_budget):

            def ask(size: int, tokens: int = tokens) -> tuple[WorkerEstimate, _Point]:
                found = self.workers.estimate(worker, "aggregated", self._batch(size, tokens))
                point = _Point(
                    sequences=size * worker.pp,
                    rate_rps=found.rate_rps / worker.attention_dp,
                    ttft_s=found.ttft_s,
                    tpot_s=found.tpot_s,
                    cache_bytes=_cache(found),
                )
                return found, point

            yield from self._swept(replace(shape, token_budget=tokens), ask, self.problem.workload.slo)

    def _prompt_tokens(self, budget: int) -> tuple[int, ...]:
        """Return prompt tokens per step to try: stated budgets, or chunks and whole prompts."""
        pinned = dict(self.problem.choices.fixed).get("token_budget")
        stated = (pinned,) if pinned is not None else self.problem.choices.token_budgets
        if stated:
            return tuple(sorted(set(stated)))
        prompt = round(float(self.requests.input_tokens[0]))
        step = max(prompt, CHUNKS[0])
        whole = {*range(step, _NORMAL_PROMPT_TOKENS + 1, step), prompt, 2 * prompt}
        chunks = {tokens for tokens in CHUNKS if tokens < min(prompt, budget)}
        return tuple(sorted(whole | chunks))

    def _swept(
        self, shape: ReplicaShape, ask: Callable[[int], tuple[WorkerEstimate, _Point]], slo: Slo
    ) -> Iterator[EstimatedReplica]:
        """Yield the replica of one worker over its batches; nothing if not even the smallest fits."""
        steps = self.requests.mean_steps
        sizes = [size for size in LADDER if size <= shape.max_num_seqs]
        points: dict[int, _Point] = {}
        first: WorkerEstimate | None = None
        for size in sizes:
            found, point = ask(size)
            if not found.fits or point.rate_rps <= 0.0:
                break
            points[size], first = point, first or found
            if not point.within(slo, steps):
                break
        if first is None:
            return
        fine = [size for size, point in points.items() if point.within(slo, steps)]
        if fine:
            low, beyond = max(fine), min([s for s in sizes if s > max(fine)], default=shape.max_num_seqs + 1)
            size = _largest(low, beyond, lambda size: _accepted(ask(size), slo, steps))
            points[size] = ask(size)[1]
        best = max(
            (point for point in points.values() if point.within(slo, steps)),
            key=lambda point: point.rate_rps,
            default=max(points.values(), key=lambda point: point.rate_rps),
        )
        yield self._replica(shape, first, list(points.values()), best, _POINTS)

    def _replica(
        self,
        shape: ReplicaShape,
        first: WorkerEstimate,
        points: list[_Point],
        best: _Point,
        num_points: int,
    ) -> EstimatedReplica:
        pp, ranks = shape.strategy.pp, shape.strategy.attention_dp
        rising = _rising(points, best)
        most = float(max(1, *(point.sequences for point in points)))
        return EstimatedReplica(
            shape=shape,
            layers_per_stage=_even(self.problem.model.num_layers, pp),
            stages=(_stage_bytes(first, best),) * pp,
            limits=BatchLimits(
                token_budget=float(shape.token_budget),
                max_sequences=most,
                cache_sequences=most,
                cache_scv=0.0,
                closed_loop=True,
            ),
            tables=_empty_tables(pp, ranks),
            curve=_curve(rising, pp, ranks, num_points),
        )


def facts_of(model: ModelGraph, weight_fmt: str, kv_fmt: str) -> ModelFacts:
    """Return what tells a model from others of its kind."""
    experts = [
        op.num_experts for layer in dict.fromkeys(model.layers) for op in layer.ops if isinstance(op, Experts)
    ]
    return ModelFacts(
        name=model.name,
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        vocab_size=model.vocab_size,
        num_experts=max(experts, default=0),
        weight_fmt=weight_fmt,
        kv_fmt=kv_format(model, kv_fmt),
    )


def _accepted(asked: tuple[WorkerEstimate, _Point], slo: Slo, steps: float) -> bool:
    found, point = asked
    return found.fits and point.within(slo, steps)


def _largest(low: int, high: int, fine: Callable[[int], bool]) -> int:
    """Return the largest fine batch from `low`, which is, to below `high`, by halving."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fine(middle) else (low, middle)
    return low


def _cache(found: WorkerEstimate) -> float:
    return dict(found.memory).get("kvcache", 0.0)


def _rising(points: list[_Point], best: _Point) -> list[_Point]:
    """Return the points by rate, with latencies that never fall: those below `best` are no slower than it."""
    below = [
        point
        for point in points
        if point.rate_rps < best.rate_rps and point.ttft_s <= best.ttft_s and point.tpot_s <= best.tpot_s
    ]
    above = [point for point in points if point.rate_rps > best.rate_rps]
    rising: list[_Point] = []
    for point in sorted([*below, best, *above], key=lambda point: point.rate_rps):
        if rising:
            last = rising[-1]
            point = replace(  # noqa: PLW2901 - the same point, no faster than the one before
                point,
                ttft_s=max(point.ttft_s, last.ttft_s),
                tpot_s=max(point.tpot_s, last.tpot_s),
                sequences=max(point.sequences, last.sequences),
            )
        rising.append(point)
    return rising


def _curve(points: list[_Point], pp: int, ranks: int, num_points: int) -> LoadCurve:
    """Return the curve of a worker: from one batch to the next latencies rise first, then the rate."""
    rows = [(points[0].rate_rps * 1e-9, points[0].ttft_s, points[0].tpot_s, 0.0)]
    for point, following in zip(points, [*points[1:], points[-1]], strict=True):
        rows.append((point.rate_rps, point.ttft_s, point.tpot_s, float(point.sequences)))
        rows.append((point.rate_rps, following.ttft_s, following.tpot_s, float(point.sequences)))
    rows = rows[:-1]
    rows.extend([rows[-1]] * (num_points - len(rows)))
    rate, ttft, tpot, sequences = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    none = np.zeros_like(rate)
    return LoadCurve(
        per_slot=np.arange(rate.size, dtype=np.float64),
        rate_rps=rate,
        step_s=tpot / pp,
        tpot_s=tpot,
        tpot_high_s=tpot,
        service_s=none,
        service_scv=none,
        own_ttft_s=ttft[:, None],
        sequences=sequences,
        mixed_share=none,
        num_ranks=ranks,
        num_stages=pp,
    )


def _stage_bytes(first: WorkerEstimate, best: _Point) -> StageBytes:
    parts = tuple((_PART_NAMES.get(name, name), size) for name, size in first.memory if name != "kvcache")
    return StageBytes(
        parts=parts,
        capacity_bytes=first.capacity_bytes,
        usable_bytes=sum(size for _, size in parts) + best.cache_bytes,
        cache_bytes_per_sequence=best.cache_bytes / max(1, best.sequences),
        cache_bytes_longest=best.cache_bytes / max(1, best.sequences),
        cache_bytes_prompt=0.0,
    )


def _empty_tables(pp: int, ranks: int) -> TimeTables:
    """Return tables without times: the curve has them all; only spread and provenance are read from these."""
    grid = np.array([0.0, 1.0])
    return TimeTables(
        token_grid=grid,
        token_time_s=np.zeros((1, 2)),
        sequence_grid=grid,
        sequence_time_s=np.zeros((1, 2)),
        prompt_attention_s=np.zeros((1, 1)),
        stage_counts=np.array([float(pp)]),
        num_attention_ranks=ranks,
        per_request_s=0.0,
        sigma=STEP_SIGMA_LOG,
        first_token_sigma=FIRST_TOKEN_SIGMA_LOG,
        provenance=Provenance.CALIBRATED,
    )


def _even(num_layers: int, pp: int) -> tuple[int, ...]:
    """Return stages of equal length, the first ones a layer longer where it does not divide."""
    return tuple(num_layers // pp + (stage < num_layers % pp) for stage in range(pp))
