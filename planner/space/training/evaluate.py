"""What a training plan costs: step time term by term and memory of every stage, for many plans at once."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from cost_models.base import CostModel
from cost_models.cost import FloatArray
from cost_models.work import Collective, HostTransfer, Span, Stream
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import ModelGraph
from planner.ir.training import TrainingWorkload
from planner.space.spans import span_of
from planner.space.training.layer_work import Shape, Tuning
from planner.space.training.memory import MemoryRules, StageLoad, StageMemory, in_flight, stage_memory
from planner.space.training.network import hop_link
from planner.space.training.partition import StageClasses, stage_classes
from planner.space.training.plans import SCHEDULES, IntArray, PlanArrays
from planner.space.training.software import TrainingSoftware
from planner.space.training.tables import PlanTable, TableBuilder

_MOST_DETAILED = 64
_ADAM_BYTES_PER_PARAM = (
    34.0  # gradient twice (norm, update), master and moments read and written, weight written
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Terms of the step time in seconds, each [plans]; `total_s` is their sum.

    `compute_s` is the bottleneck stage's work on all micro-batches, recompute included; `tensor_s`,
    `context_and_expert_s` lie in `layer_comm_s`; `bubble_s` is ramp-up and drain.
    """

    compute_s: FloatArray
    layer_comm_s: FloatArray
    bubble_s: FloatArray
    pipeline_comm_s: FloatArray
    data_parallel_s: FloatArray
    optimizer_s: FloatArray
    overhead_s: FloatArray

    @property
    def total_s(self) -> FloatArray:
        """Step time."""
        return (
            self.compute_s
            + self.layer_comm_s
            + self.bubble_s
            + self.pipeline_comm_s
            + self.data_parallel_s
            + self.optimizer_s
            + self.overhead_s
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Times and memory of plans; infinite where the layers cannot be split so."""

    time: StepTime
    memory: list[StageMemory | None]
    peak_bytes: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Per-stage times of one micro-batch, seconds, [stages, plans]; `comm` is what no overlap hides."""

    forward: FloatArray
    backward: FloatArray
    weight_grad: FloatArray
    comm: FloatArray

    @property
    def total(self) -> FloatArray:
        """All of one micro-batch."""
        return self.forward + self.backward + self.weight_grad + self.comm


@dataclass(slots=True, kw_only=True)
class _Parts:
    """What the step time needs of the stages, each [plans]: of the slowest stage, or of the fullest.

    `updated_params` are the parameters that one rank updates.
    """

    compute_s: FloatArray
    comm_s: FloatArray
    ramp_s: FloatArray
    window_backward_s: FloatArray
    window_forward_s: FloatArray
    dense_params: FloatArray
    expert_params: FloatArray
    updated_params: FloatArray

    @staticmethod
    def empty(num: int) -> _Parts:
        """Return parts of plans that cannot be split: infinite compute, and no other part."""
        return _Parts(
            **{f.name: np.full(num, np.inf if f.name == "compute_s" else 0.0) for f in fields(_Parts)}
        )

    def put(self, index: IntArray, values: list[FloatArray]) -> None:
        """Set the parts of the plans at `index`."""
        for field, value in zip(fields(_Parts), values, strict=True):
            getattr(self, field.name)[index] = value


class TrainingEvaluator:
    """Prices plans of one model on one node group under one software stack."""

    def __init__(
        self,
        model: ModelGraph,
        group: NodeGroup,
        costs: CostModel,
        software: TrainingSoftware,
        workload: TrainingWorkload,
        micro_batches: IntArray,
    ) -> None:
        self.model = model
        self.group = group
        self.software = software
        self.workload = workload
        self._costs = costs
        self._batches = np.unique(micro_batches)
        tuning = Tuning(
            attention_backward=software.attention_backward,
            elementwise=software.elementwise_scale,
            per_layer_s=software.per_layer_s,
        )
        self.tables = TableBuilder(model, group, costs, tuning, self._batches.astype(np.float64))

    def batch_column(self, micro_batch: int) -> int:
        """Return the column of a micro-batch size in the tables."""
        return int(np.searchsorted(self._batches, micro_batch))

    def evaluate(self, plans: PlanArrays, fmt: str = "bf16") -> Evaluation:
        """Return time and memory of every plan (all of one number format).

        Stages are priced per split of the layers; what runs once per step is then priced for all plans at
        once, so that a collective of one span is priced once. Memory by stage is kept for at most 64 plans.
        """
        num = len(plans)
        detailed = num <= _MOST_DETAILED
        table = self._table(plans, fmt)
        parts = _Parts.empty(num)
        peak = np.full(num, np.inf)
        memory: list[StageMemory | None] = [None] * num
        for index in _groups(plans):
            part = plans.take(index)
            classes = self._classes(part, every=detailed)
            if classes is None:
                continue
            stages = self._stages(table.take(index), classes, part)
            load = self._load(table.take(index), classes, part)
            stage_mem = self._memory(part, load, classes)
            parts.put(index, self._parts(part, stages, load, classes))
            peak[index] = stage_mem.total.max(axis=0)
            if detailed:
                for column, i in enumerate(index):
                    memory[int(i)] = _column(stage_mem, column)
        return Evaluation(time=self._step(plans, parts), memory=memory, peak_bytes=peak)

    def stage_times(self, plans: PlanArrays, fmt: str = "bf16") -> StageTimes:
        """Return the times of one micro-batch on every stage of plans that share one split, [stages, plans].

        Raises
        ------
        ValueError
            If the layers cannot be split so.
        """
        classes = self._classes(plans, every=True)
        if classes is None:
            raise ValueError("the layers cannot be split so")
        return self._stages(self._table(plans, fmt), classes, plans)

    def hop_s(self, plans: PlanArrays) -> FloatArray:
        """Return the time of one send between neighbouring stages, exposed or not, [plans]."""
        stride = plans.tp * plans.cp * plans.dp
        width = plans.micro_batch * self.workload.seq_len / plans.cp * self.model.hidden_size
        num_bytes = np.asarray(width * 2.0 / plans.tp, dtype=np.float64)
        hop = np.zeros(len(plans))
        for value in np.unique(stride):
            mask = (stride == value) & (plans.pp > 1)
            span = Span(ranks_per_level=(2,), links=(hop_link(self.group, stride=int(value)),))
            hop[mask] = self._costs.price(Collective(op="p2p", num_bytes=num_bytes[mask], span=span)).time_s
        return hop

    def _table(self, plans: PlanArrays, fmt: str) -> PlanTable:
        keys = np.stack([plans.tp, plans.cp, plans.ep, plans.etp, plans.sequence_parallel])
        unique, inverse = np.unique(keys, axis=1, return_inverse=True)
        shapes = [
            Shape(
                seq_len=self.workload.seq_len,
                tp=int(tp),
                cp=int(cp),
                ep=int(ep),
                etp=int(etp),
                sequence_parallel=bool(parallel),
                flash_attention=self.software.flash_attention,
                fmt=fmt,
            )
            for tp, cp, ep, etp, parallel in unique.T
        ]
        column = np.searchsorted(self._batches, plans.micro_batch).astype(np.int64)
        return self.tables.view(shapes, inverse.ravel().astype(np.int64), column)

    def _classes(self, plans: PlanArrays, *, every: bool) -> StageClasses | None:
        """Return the classes of stages of plans that share one split."""
        drops = int(plans.first_drop[0]), int(plans.last_drop[0])
        pp, chunks = int(plans.pp[0]), int(plans.num_chunks[0])
        return stage_classes(self.tables.folded.order, pp, chunks, drops, every=every)

    def _memory(self, plans: PlanArrays, load: StageLoad, classes: StageClasses) -> StageMemory:
        num_micro = self._num_micro(plans)
        held = in_flight(plans, num_micro, classes.first, classes.num_stages)
        rules = MemoryRules(
            grad_bytes=self.software.gradient_bytes,
            reserved_bytes=self.software.context_memory_bytes,
            slack=self.software.allocator_slack,
        )
        return stage_memory(plans, load, held, self._shards(plans), rules)

    def _num_micro(self, plans: PlanArrays) -> FloatArray:
        return np.asarray(self.workload.global_batch / (plans.dp * plans.micro_batch), dtype=np.float64)

    def _stages(self, table: PlanTable, classes: StageClasses, plans: PlanArrays) -> StageTimes:
        def summed(field: str) -> FloatArray:
            return np.asarray(classes.counts @ table.layer(field), dtype=np.float64)

        scale = self.software.compute_scale
        recompute = plans.recompute[None, :]
        extra = np.where(recompute == 2, summed("recompute_full_s"), 0.0)
        extra = np.where(recompute == 1, summed("recompute_selective_s"), extra)
        forward = summed("forward_s")
        backward = summed("backward_s") + extra
        weight_grad = summed("weight_grad_s")
        forward[0] += table.end("embed_forward_s")
        backward[0] += table.end("embed_backward_s")
        forward[-1] += table.end("head_forward_s")
        backward[-1] += table.end("head_backward_s")
        comm = (summed("forward_comm_s") + summed("backward_comm_s")) * (1.0 - self.software.tp_overlap)
        return StageTimes(
            forward=forward * scale, backward=backward * scale, weight_grad=weight_grad * scale, comm=comm
        )

    def _load(self, table: PlanTable, classes: StageClasses, plans: PlanArrays) -> StageLoad:
        counts = classes.counts
        names = ("kept_none_bytes", "kept_selective_bytes", "kept_full_bytes")
        kept = np.choose(plans.recompute, [table.layer(name) for name in names])
        dense = counts @ table.layer("dense_params")
        expert = counts @ table.layer("expert_params")
        dense[0] += table.end("embed_params")
        if classes.num_stages > 1 or not self.model.tied_embeddings:
            dense[-1] += table.end("head_params")
        present = (counts > 0)[:, :, None]
        full = table.layer("kept_none_bytes")
        working = np.where(present, full[None], 0.0).max(axis=1) * (plans.recompute == 2)[None, :]
        working[-1] = np.maximum(working[-1], table.end("logits_bytes"))
        sizes = table.layer("dense_params") + table.layer("expert_params")
        return StageLoad(
            dense_params=dense,
            expert_params=expert,
            kept_bytes=counts @ kept,
            working_bytes=working,
            layer_params=np.where(present, sizes[None], 0.0).max(axis=1),
        )

    def _shards(self, plans: PlanArrays) -> tuple[FloatArray, FloatArray]:
        dense = (plans.dp_shard * plans.cp).astype(np.float64)
        expert = np.maximum(dense * plans.tp / (plans.ep * plans.etp), 1.0)
        return dense, expert

    def _parts(
        self, plans: PlanArrays, stages: StageTimes, load: StageLoad, classes: StageClasses
    ) -> list[FloatArray]:
        """Return what the step needs of the stages, in the order of the fields of `_Parts`."""
        compute = stages.forward + stages.backward + stages.weight_grad
        slowest = stages.total.argmax(axis=0)
        rows = np.arange(len(plans))
        dense_shard, expert_shard = (np.where(plans.zero >= 1, s, 1.0) for s in self._shards(plans))
        return [
            compute[slowest, rows],
            stages.comm[slowest, rows],
            self._ramp(plans, stages, classes),
            (stages.backward + stages.weight_grad).min(axis=0),
            stages.forward.min(axis=0),
            load.dense_params.max(axis=0),
            load.expert_params.max(axis=0),
            (load.dense_params / dense_shard + load.expert_params / expert_shard).max(axis=0),
        ]

    def _step(self, plans: PlanArrays, parts: _Parts) -> StepTime:
        num_micro = self._num_micro(plans)
        dp_s, per_micro_s = self._data_parallel(plans, parts)
        impossible = np.where(np.isfinite(parts.compute_s), 0.0, np.inf)
        return StepTime(
            compute_s=parts.compute_s * num_micro,
            layer_comm_s=parts.comm_s * num_micro,
            bubble_s=parts.ramp_s,
            pipeline_comm_s=self._hops(plans, num_micro),
            data_parallel_s=dp_s + per_micro_s * num_micro,
            optimizer_s=self._optimizer(plans, parts.updated_params),
            overhead_s=self.software.per_step_s + impossible,
        )

    def _ramp(self, plans: PlanArrays, stages: StageTimes, classes: StageClasses) -> FloatArray:
        """Ramp-up and drain: one micro-batch through every other stage, less what a schedule hides.

        1F1B (p-1)(F+B+W), interleaved 1/v of it, ZB-H1 (p-1)(F+B-W); for unequal stages the sum over the
        stages other than the slowest replaces p-1 times the mean.
        """
        total, weight = stages.total, stages.weight_grad
        others: FloatArray = np.asarray(classes.size @ total - total.max(axis=0))
        hidden: FloatArray = np.asarray(2.0 * (classes.size @ weight - weight.max(axis=0)))
        name = plans.schedule
        ramp = np.where(name == SCHEDULES.index("interleaved"), others / plans.num_chunks, others)
        return np.where(name == SCHEDULES.index("zb-h1"), np.maximum(others - hidden, 0.0), ramp)

    def _hops(self, plans: PlanArrays, num_micro: FloatArray) -> FloatArray:
        """Exposed pipeline sends: Tc [2 m (p-1)/p + 2 (p-2)] per chunk round of 1F1B."""
        pp = plans.pp
        rounds = 2.0 * num_micro * plans.num_chunks * (pp - 1) / pp + 2.0 * np.maximum(pp - 2, 0)
        return self.hop_s(plans) * rounds * (1.0 - self.software.p2p_overlap)

    def _collective(self, op: str, num_bytes: FloatArray, strides: IntArray, sizes: IntArray) -> FloatArray:
        """Price one collective per plan, grouping plans that share a span."""
        result = np.zeros(len(num_bytes))
        for stride, size in set(zip(strides.tolist(), sizes.tolist(), strict=True)):
            if size <= 1:
                continue
            mask = (strides == stride) & (sizes == size)
            span = span_of(self.group, int(size), int(stride))
            work = Collective(op=op, num_bytes=num_bytes[mask], span=span)  # pyright: ignore[reportArgumentType]
            result[mask] = self._costs.price(work).time_s
        return result

    def _data_parallel(self, plans: PlanArrays, parts: _Parts) -> tuple[FloatArray, FloatArray]:
        """Exposed gradient and parameter traffic: (once per step, once per micro-batch)."""
        grad_bytes = self.software.gradient_bytes
        dense, expert = parts.dense_params, parts.expert_params
        shard = plans.dp_shard * plans.cp
        expert_group = np.maximum(plans.dp * plans.cp * plans.tp // (plans.ep * plans.etp), 1)
        stride = plans.tp
        window_b, window_f = parts.window_backward_s, parts.window_forward_s
        overlap = self.software.dp_overlap

        def exposed(comm: FloatArray, window: FloatArray) -> FloatArray:
            return np.maximum(comm - overlap * window, comm * (1.0 - overlap))

        replicate = self._collective(
            "all_reduce", dense * grad_bytes / shard, stride * shard, plans.dp // plans.dp_shard
        )
        reduce = self._collective("reduce_scatter", dense * grad_bytes, stride, shard)
        gather = self._collective("all_gather", dense * 2.0, stride, shard)
        experts = self._collective("all_reduce", expert * grad_bytes, stride * plans.ep, expert_group)
        no_shard = self._collective("all_reduce", dense * grad_bytes, stride, plans.dp * plans.cp)
        sharded = exposed(reduce + replicate + experts, window_b) + exposed(gather, window_f)
        once = np.where(plans.zero == 0, exposed(no_shard + experts, window_b), sharded)
        per_micro = exposed(gather, window_f) + exposed(gather + reduce, window_b)
        fsdp = plans.zero >= 3
        return np.where(fsdp, exposed(replicate + experts, window_b), once), np.where(fsdp, per_micro, 0.0)

    def _optimizer(self, plans: PlanArrays, params: FloatArray) -> FloatArray:
        """Adam over the parameters that this rank updates; offloaded states cross the host link."""
        on_device = self._costs.price(
            Stream(num_bytes=params * _ADAM_BYTES_PER_PARAM, num_kernels=8.0)
        ).time_s
        if not plans.offload.any():
            return on_device
        moved = self._costs.price(HostTransfer(num_bytes=params * 6.0)).time_s
        return np.where(plans.offload >= 1, moved, on_device)


def _groups(plans: PlanArrays) -> list[IntArray]:
    """Return positions of plans that share a layer split."""
    keys = np.stack([plans.pp, plans.num_chunks, plans.first_drop, plans.last_drop])
    _, inverse = np.unique(keys, axis=1, return_inverse=True)
    inverse = inverse.ravel()
    order = np.argsort(inverse, kind="stable")
    cuts = np.flatnonzero(np.diff(inverse[order])) + 1
    return [part.astype(np.int64) for part in np.split(order, cuts)]


def _column(memory: StageMemory, column: int) -> StageMemory:
    return StageMemory(
        weights=memory.weights[:, column],
        gradients=memory.gradients[:, column],
        optimizer=memory.optimizer[:, column],
        gathered=memory.gathered[:, column],
        activations=memory.activations[:, column],
        workspace=memory.workspace[:, column],
        reserved=memory.reserved[:, column],
    )
