"""A replica priced: its stages, memory, limits and the curve of what it does at every load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from cost_models.aiconfigurator.workers import WorkerTimes
from cost_models.cost import FloatArray
from cost_models.serving.queueing import normal_quantile
from cost_models.serving.requests import Requests
from cost_models.serving.steady_state import (
    BatchLimits,
    LoadCurve,
    aggregated_curves,
    decode_curves,
    prefill_curves,
)
from cost_models.serving.tables import TimeTables, interpolate
from planner.errors import InputError
from planner.ir.candidates import StageMemory
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import AttentionCore, ModelGraph
from planner.ir.serving import ServingProblem
from planner.ir.weight_offload import WeightOffload
from planner.ir.workload import Lengths
from planner.space.compose import ReplicaShape
from planner.space.engine import EngineCosts, bytes_per_element, kv_format
from planner.space.memory import MemoryModel, Residency, StageBytes
from planner.space.pricing import Pricer, StageShape
from planner.space.spans import link_spec
from planner.space.stages import balanced_partition
from planner.space.weight_offload import HeldBack, held_back, host_room_bytes, with_streaming
from planner.space.worker_replica import WorkerShapes

PARTITION_AT_TOKENS = (128.0, 4096.0)
"""Step sizes at which stages are balanced: a decode batch and a prefill chunk; each is a candidate."""


def requests_of(lengths: Lengths, prefix_hit_share: float) -> Requests:
    """Return the requests of a workload; cached prefix tokens need no computing, the last one does."""
    samples = np.array(lengths.samples, dtype=np.float64)
    inputs, outputs, weights = samples[:, 0], samples[:, 1], samples[:, 2]
    return Requests(
        input_tokens=inputs,
        new_tokens=np.maximum(inputs * (1.0 - prefix_hit_share), 1.0),
        output_tokens=outputs,
        weights=weights / weights.sum(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One priced shape.

    `stages` are the bytes per stage; `limits` per attention rank; `curve` follows the load.
    `cache_lanes` is how many devices hold distinct parts of a request's cache and move them side by side.
    """

    shape: ReplicaShape
    layers_per_stage: tuple[int, ...]
    stages: tuple[StageBytes, ...]
    limits: BatchLimits
    tables: TimeTables
    curve: LoadCurve
    cache_lanes: int

    @property
    def num_devices(self) -> int:
        """Devices of the replica."""
        return self.shape.strategy.num_devices

    def memory_report(self) -> tuple[StageMemory, ...]:
        """Return the memory per stage; engines reserve for the cache whatever is left of their share."""
        return tuple(
            stage.report(index, max(0.0, stage.free_bytes)) for index, stage in enumerate(self.stages)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A replica whose curve is still to be worked out, and its place among the cases asked for."""

    at: int
    shape: ReplicaShape
    layers: tuple[int, ...]
    stages: tuple[StageBytes, ...]
    limits: BatchLimits
    tables: TimeTables


def _cache_shards(core: AttentionCore) -> int:
    return core.num_kv_heads if core.kind == "gqa" else 1


@dataclass(slots=True, kw_only=True)
class ReplicaBuilder:
    """Builds replicas of one problem on one node group under one engine."""

    problem: ServingProblem
    group: NodeGroup
    costs: EngineCosts
    requests: Requests = field(init=False)
    pricer: Pricer = field(init=False)
    memory: MemoryModel = field(init=False)
    robust_quantile: float = 0.5
    _worker_shapes: WorkerShapes | None = None
    _prompt_cache: dict[str, FloatArray] = field(default_factory=dict[str, FloatArray])
    _held: dict[tuple[object, ...], tuple[HeldBack, ...]] = field(
        default_factory=dict[tuple[object, ...], tuple[HeldBack, ...]]
    )
    _rough: dict[tuple[object, ...], bool] = field(default_factory=dict[tuple[object, ...], bool])
    _cuts: dict[tuple[object, ...], tuple[tuple[int, ...], ...]] = field(
        default_factory=dict[tuple[object, ...], tuple[tuple[int, ...], ...]]
    )
    _times: dict[tuple[object, ...], TimeTables] = field(default_factory=dict[tuple[object, ...], TimeTables])
    _resident: dict[tuple[object, ...], tuple[StageBytes, ...]] = field(
        default_factory=dict[tuple[object, ...], tuple[StageBytes, ...]]
    )
    _stage_bytes: dict[tuple[object, ...], StageBytes] = field(
        default_factory=dict[tuple[object, ...], StageBytes]
    )

    def __post_init__(self) -> None:
        """Set up pricing and memory for the problem's requests."""
        workload, choices = self.problem.workload, self.problem.choices
        self.requests = requests_of(workload.lengths, workload.prefix_hit_share)
        budgets = [*choices.token_budgets, *(v for n, v in choices.fixed if n == "token_budget"), 16384]
        pinned = [v for n, v in choices.fixed if n == "max_num_seqs"]
        self.pricer = Pricer(
            model=self.model,
            group=self.group,
            costs=self.costs,
            requests=self.requests,
            routing_skew=self.problem.routing_skew,
            max_tokens=float(max(budgets)),
            max_sequences=float(max([choices.max_num_seqs, *pinned])),
            adapters=self.problem.adapters,
            expert_loads=self.problem.expert_loads,
            images=workload.images,
        )
        self.memory = MemoryModel(
            model=self.model,
            group=self.group,
            software=self.costs.software,
            requests=self.requests,
            adapters=self.problem.adapters,
        )

    @property
    def model(self) -> ModelGraph:
        """The model."""
        return self.problem.model

    @property
    def memory_fraction(self) -> float:
        """Share of device memory the engine may use."""
        own = self.problem.memory_fraction
        return own if own is not None else self.costs.software.memory_fraction.value

    @property
    def memory_scope(self) -> str:
        """What the share is of: the whole device where a problem states it, else what the engine means."""
        return "device" if self.problem.memory_fraction is not None else self.costs.software.memory_scope

    def use(self, costs: EngineCosts) -> None:
        """Build from now on with other facts on the same engine; kernels are not priced again."""
        self.costs = costs
        self.pricer.use(costs)
        self._times.clear()
        self._cuts.clear()

    def remarks(self) -> tuple[str, ...]:
        """Return where the prices came from, and what was missing there."""
        own = self._worker_shapes.remarks() if self._worker_shapes is not None else ()
        return (*self.costs.remarks(), *own)

    def build(self, shape: ReplicaShape) -> list[Replica]:
        """Return the priced replicas of a shape, one per distinct partition; empty if none fits memory."""
        return self.build_all([shape])

    def build_all(self, shapes: Sequence[ReplicaShape]) -> list[Replica]:
        """Return the priced replicas of shapes, in order, one per distinct partition that fits memory."""
        if self.costs.workers is not None:
            return [replica for shape in shapes for replica in self._estimated(shape)]
        cases = [(shape, layers) for shape in shapes for layers in self._partitions(shape)]
        return [replica for replica in self.build_exactly(cases) if replica is not None]

    def refuse_unknown(self) -> None:
        """Refuse a problem that the source of costs has no notion of.

        Raises
        ------
        InputError
            If whole workers are estimated, and the problem varies lengths or asks for percentiles.
        """
        if self.costs.workers is None:
            return
        if self.robust_quantile != 0.5:
            raise InputError("whole workers are estimated without a quantile", key="objective.robust")
        self._shapes_of_workers().refuse_unknown()

    def _shapes_of_workers(self) -> WorkerShapes:
        if self._worker_shapes is None:
            self._worker_shapes = WorkerShapes(
                problem=self.problem, requests=self.requests, workers=cast("WorkerTimes", self.costs.workers)
            )
        return self._worker_shapes

    def _estimated(self, shape: ReplicaShape) -> list[Replica]:
        """Return the replicas of a shape as whole workers are estimated."""
        return [
            Replica(
                shape=found.shape,
                layers_per_stage=found.layers_per_stage,
                stages=found.stages,
                limits=found.limits,
                tables=found.tables,
                curve=found.curve,
                cache_lanes=self._cache_lanes(shape),
            )
            for found in self._shapes_of_workers().estimate(shape)
        ]

    def build_with(self, shape: ReplicaShape, layers_per_stage: tuple[int, ...]) -> Replica | None:
        """Return the priced replica with these stages, or None if it does not fit."""
        return self.build_exactly([(shape, layers_per_stage)])[0]

    def build_exactly(self, cases: Sequence[tuple[ReplicaShape, tuple[int, ...]]]) -> list[Replica | None]:
        """Return the priced replica of every shape with these stages, None where it does not fit."""
        found: list[Replica | None] = [None] * len(cases)
        drafts: list[_Draft] = []
        for at, (shape, layers) in enumerate(cases):
            stages = self.stage_bytes(shape, layers)
            limits = self._limits(shape, stages)
            if limits is not None:
                tables = self._tables(shape, layers)
                drafts.append(
                    _Draft(at=at, shape=shape, layers=layers, stages=stages, limits=limits, tables=tables)
                )
        for draft, curve in zip(drafts, self._curves(drafts), strict=True):
            if curve is not None:
                found[draft.at] = Replica(
                    shape=draft.shape,
                    layers_per_stage=draft.layers,
                    stages=draft.stages,
                    limits=draft.limits,
                    tables=draft.tables,
                    curve=curve,
                    cache_lanes=self._cache_lanes(draft.shape),
                )
        return found

    def _tables(self, shape: ReplicaShape, layers_per_stage: tuple[int, ...]) -> TimeTables:
        what = (shape.strategy, shape.weight_fmt, shape.kv_fmt, float(shape.token_budget), layers_per_stage)
        how = (*what, shape.offload)
        if how not in self._times:
            tables = self.pricer.tables(*what)
            if shape.offload:
                tables = self._streaming(tables, shape, layers_per_stage)
            if self.robust_quantile != 0.5:
                tables = tables.scaled(1.0 + normal_quantile(100.0 * self.robust_quantile) * tables.sigma)
            self._times[how] = tables
        return self._times[how]

    def _streaming(
        self, tables: TimeTables, shape: ReplicaShape, layers_per_stage: tuple[int, ...]
    ) -> TimeTables:
        """Return tables with what streaming weights adds; of equal stages the slowest stands for all."""
        parts = self.pricer.stage_shapes(layers_per_stage)
        rows: dict[StageShape, HeldBack] = {}
        for part, held in zip(parts, self.held_back(shape, layers_per_stage), strict=True):
            known = rows.setdefault(part, held)
            rows[part] = max(known, held, key=lambda one: one.host_bytes)
        link = link_spec(self.group.host_link)
        return with_streaming(tables, list(rows.values()), shape.strategy, self.costs.model, link)

    def streaming_s(self, shape: ReplicaShape, layers_per_stage: tuple[int, ...], num_tokens: float) -> float:
        """Return what all stages together wait for weights in host memory in a step of so many tokens."""
        if not shape.offload:
            return 0.0
        how = (shape.strategy, shape.weight_fmt, shape.kv_fmt, float(shape.token_budget), layers_per_stage)
        plain = self.pricer.tables(*how)
        slower = self._streaming(plain, shape, layers_per_stage)
        more = slower.token_time_s - plain.token_time_s
        rows = interpolate(plain.token_grid, more, np.array([num_tokens]))
        return float(rows[:, 0] @ plain.stage_counts)

    def held_back(self, shape: ReplicaShape, layers_per_stage: tuple[int, ...]) -> tuple[HeldBack, ...]:
        """Return what every stage leaves in host memory; empty where a shape keeps all on its devices."""
        key = (replace(shape, role="aggregated", token_budget=0, max_num_seqs=0), layers_per_stage)
        if shape.offload and key not in self._held:
            op_bytes = self.memory.op_bytes(self._residency(shape))
            offload, start = WeightOffload.of_text(shape.offload), 0
            found: list[HeldBack] = []
            for count in layers_per_stage:
                found.append(held_back(self.model.layers[start : start + count], offload, op_bytes))
                start += count
            self._held[key] = tuple(found)
        return self._held.get(key, ())

    def stage_bytes(self, shape: ReplicaShape, layers_per_stage: tuple[int, ...]) -> tuple[StageBytes, ...]:
        """Return the bytes of every stage."""
        key = (
            shape.strategy,
            shape.weight_fmt,
            shape.kv_fmt,
            shape.token_budget,
            shape.max_num_seqs,
            shape.offload,
            self.memory_fraction,
            layers_per_stage,
        )
        if key not in self._resident:
            self._resident[key] = tuple(self._bytes_of(shape, layers_per_stage))
        return self._resident[key]

    def _bytes_of(self, shape: ReplicaShape, layers_per_stage: tuple[int, ...]) -> Iterator[StageBytes]:
        what = self._residency(shape)
        kinds, held = self.pricer.layer_kinds, self.held_back(shape, layers_per_stage)
        for stage, part in enumerate(self.pricer.stage_shapes(layers_per_stage)):
            own = held[stage] if held else None
            key = (part, what, own)
            if key not in self._stage_bytes:
                layers = tuple((kinds[kind], count) for kind, count in part.layer_counts)
                self._stage_bytes[key] = self.memory.stage(layers, part.first, part.last, what, own)
            yield self._stage_bytes[key]

    def _residency(self, shape: ReplicaShape) -> Residency:
        return Residency(
            strategy=shape.strategy,
            weight_fmt=shape.weight_fmt,
            kv_fmt=shape.kv_fmt,
            token_budget=float(shape.token_budget),
            max_sequences=float(shape.max_num_seqs),
            memory_fraction=self.memory_fraction,
            memory_scope=self.memory_scope,
        )

    def fits_roughly(self, shape: ReplicaShape) -> bool:
        """Return False if even an even split of the weights over the replica's stages exceeds memory.

        The mean over stages is a lower bound of the fullest stage, so nothing that fits is lost.
        """
        if self.costs.workers is not None or shape.offload:
            return True
        key = (shape.strategy, shape.weight_fmt, shape.kv_fmt)
        if key not in self._rough:
            whole = self.stage_bytes(
                replace(shape, strategy=replace(shape.strategy, pp=1)), (self.model.num_layers,)
            )
            weights = dict(whole[0].parts)["weights"]
            self._rough[key] = weights / shape.strategy.pp <= whole[0].usable_bytes
        return self._rough[key]

    def fits(self, shape: ReplicaShape) -> bool:
        """Return whether the memory of every stage holds the shape and one request of the longest length."""
        if self.costs.workers is not None:
            return bool(self._estimated(shape))
        return any(
            self._limits(shape, self.stage_bytes(shape, layers)) is not None
            for layers in self._partitions(shape)
        )

    def prompt_cache_bytes(self, shape: ReplicaShape) -> FloatArray:
        """Return the cache of each sample's prompt over all ranks of a replica, without copies, bytes."""
        if shape.kv_fmt in self._prompt_cache:
            return self._prompt_cache[shape.kv_fmt]
        width = bytes_per_element(kv_format(self.model, shape.kv_fmt))
        tokens = self.requests.input_tokens.astype(np.int64)
        cache = np.array([self.model.cache_elems(int(n)) for n in tokens], dtype=np.float64) * width
        cache += self.model.recurrent_elems_per_seq * 4.0 + self.model.conv_elems_per_seq * 2.0
        self._prompt_cache[shape.kv_fmt] = cache
        return cache

    def _cache_lanes(self, shape: ReplicaShape) -> int:
        """Return how many devices hold distinct parts of a cache: tensor ranks up to the heads, per stage."""
        tp = shape.strategy.tp
        cores = [op for layer in self.pricer.layer_kinds for op in layer.ops if isinstance(op, AttentionCore)]
        split = min((min(tp, _cache_shards(core)) for core in cores), default=tp)
        return max(1, split) * shape.strategy.pp

    def _partitions(self, shape: ReplicaShape) -> tuple[tuple[int, ...], ...]:
        if shape.strategy.pp == 1:
            return ((self.model.num_layers,),)
        key = (shape.strategy, shape.weight_fmt, shape.kv_fmt)
        if key not in self._cuts:
            found: dict[tuple[int, ...], None] = {}
            for at in PARTITION_AT_TOKENS:
                layers, embedding, head = self.pricer.layer_weights(*key, float(shape.token_budget), at)
                found[balanced_partition(layers, embedding, head, shape.strategy.pp)] = None
            self._cuts[key] = tuple(found)
        return self._cuts[key]

    def _limits(self, shape: ReplicaShape, stages: tuple[StageBytes, ...]) -> BatchLimits | None:
        """Return how many sequences fit, or None if the longest request does not.

        An aggregated replica also holds, per rank, a prompt that is half prefilled in the mean.
        """
        holds_prompt = 0.5 if shape.role == "aggregated" else 0.0
        cache = np.inf
        for stage in stages:
            free = stage.free_bytes
            if free < stage.cache_bytes_longest or free < 0.0:
                return None
            if stage.host_bytes > host_room_bytes(self.group):
                return None
            left = free - holds_prompt * stage.cache_bytes_prompt
            if stage.cache_bytes_per_sequence > 0.0:
                cache = min(cache, left / stage.cache_bytes_per_sequence)
        first, second = self.requests.context_moments()
        return BatchLimits(
            token_budget=float(shape.token_budget),
            max_sequences=float(shape.max_num_seqs),
            cache_sequences=min(cache, 1e9),
            cache_scv=max(0.0, second / first**2 - 1.0) if first > 0.0 else 0.0,
            closed_loop=self.problem.workload.concurrency is not None,
        )

    def _curves(self, drafts: Sequence[_Draft]) -> list[LoadCurve | None]:
        """Return the curves of drafts in their order; those of one role are worked out together."""
        percentile = self.problem.workload.slo.percentile
        found: list[LoadCurve | None] = [None] * len(drafts)
        for role in dict.fromkeys(draft.shape.role for draft in drafts):
            rows = [row for row, draft in enumerate(drafts) if draft.shape.role == role]
            own = [drafts[row] for row in rows]
            cases = [(draft.tables, draft.limits) for draft in own]
            curves: Sequence[LoadCurve | None]
            if role == "prefill":
                budgets = [(draft.tables, float(draft.shape.token_budget)) for draft in own]
                curves = prefill_curves(budgets, self.requests)
            elif role == "decode":
                curves = decode_curves(cases, self.requests, percentile)
            else:
                curves = aggregated_curves(cases, self.requests, percentile)
            for row, curve in zip(rows, curves, strict=True):
                found[row] = curve
        return found
