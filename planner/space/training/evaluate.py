"""What a training plan costs: step time term by term and memory of every stage, for many plans at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cost_models.base import CostModel
from cost_models.cost import FloatArray
from cost_models.work import Collective, HostTransfer, Span, Stream
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import ModelGraph
from planner.ir.training import TrainingWorkload
from planner.space.spans import span_of
from planner.space.training.layer_work import LayerWork, Shape, Tuning
from planner.space.training.memory import MemoryRules, StageLoad, StageMemory, in_flight, stage_memory
from planner.space.training.network import hop_link
from planner.space.training.partition import stage_counts
from planner.space.training.plans import SCHEDULES, IntArray, PlanArrays
from planner.space.training.software import TrainingSoftware
from planner.space.training.tables import ShapeTable, TableBuilder

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
class _Stages:
    """Per-stage times of one micro-batch, [stages, plans]."""

    forward: FloatArray
    backward: FloatArray
    weight_grad: FloatArray
    comm: FloatArray

    @property
    def total(self) -> FloatArray:
        return self.forward + self.backward + self.weight_grad + self.comm


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
        """Return time and memory of every plan (all of one number format)."""
        num = len(plans)
        terms = np.full((7, num), np.inf)
        peak = np.full(num, np.inf)
        memory: list[StageMemory | None] = [None] * num
        for index in _groups(plans):
            part = plans.take(index)
            result = self._evaluate_group(part, fmt)
            if result is None:
                continue
            time, stage_mem = result
            terms[:, index] = np.stack(time)
            peak[index] = stage_mem.total.max(axis=0)
            if num <= 64:
                for column, i in enumerate(index):
                    memory[int(i)] = _column(stage_mem, column)
        return Evaluation(
            time=StepTime(
                compute_s=terms[0],
                layer_comm_s=terms[1],
                bubble_s=terms[2],
                pipeline_comm_s=terms[3],
                data_parallel_s=terms[4],
                optimizer_s=terms[5],
                overhead_s=terms[6],
            ),
            memory=memory,
            peak_bytes=peak,
        )

    def _shape(self, plans: PlanArrays, fmt: str) -> Shape:
        return Shape(
            seq_len=self.workload.seq_len,
            tp=int(plans.tp[0]),
            cp=int(plans.cp[0]),
            ep=int(plans.ep[0]),
            etp=int(plans.etp[0]),
            sequence_parallel=bool(plans.sequence_parallel[0]),
            flash_attention=self.software.flash_attention,
            fmt=fmt,
        )

    def _evaluate_group(self, plans: PlanArrays, fmt: str) -> tuple[list[FloatArray], StageMemory] | None:
        counts = stage_counts(
            self.tables.folded.order,
            int(plans.pp[0]),
            int(plans.num_chunks[0]),
            int(plans.first_drop[0]),
            int(plans.last_drop[0]),
        )
        if counts is None:
            return None
        table = self.tables.table(self._shape(plans, fmt))
        column = np.searchsorted(self._batches, plans.micro_batch)
        stages = self._stages(table, counts, plans, column)
        load = self._load(table, counts, plans, column)
        num_micro = (self.workload.global_batch / (plans.dp * plans.micro_batch)).astype(np.float64)
        held = in_flight(plans, num_micro, len(counts))
        shards = self._shards(plans)
        rules = MemoryRules(
            grad_bytes=self.software.gradient_bytes,
            reserved_bytes=self.software.context_memory_bytes,
            slack=self.software.allocator_slack,
        )
        mem = stage_memory(plans, load, held, shards, rules)
        return self._step(plans, stages, load, num_micro, shards), mem

    def _stages(self, table: ShapeTable, counts: IntArray, plans: PlanArrays, column: IntArray) -> _Stages:
        def summed(field: str) -> FloatArray:
            per_kind = np.stack([getattr(kind, field)[column] for kind in table.kinds])
            return np.asarray(counts @ per_kind, dtype=np.float64)

        scale = self.software.compute_scale
        recompute = plans.recompute[None, :]
        extra = np.where(recompute == 2, summed("recompute_full_s"), 0.0)
        extra = np.where(recompute == 1, summed("recompute_selective_s"), extra)
        forward = summed("forward_s")
        backward = summed("backward_s") + extra
        weight_grad = summed("weight_grad_s")
        ends = table.ends
        forward[0] += ends.embed_forward_s[column]
        backward[0] += ends.embed_backward_s[column]
        forward[-1] += ends.head_forward_s[column]
        backward[-1] += ends.head_backward_s[column]
        comm = (summed("forward_comm_s") + summed("backward_comm_s")) * (1.0 - self.software.tp_overlap)
        return _Stages(
            forward=forward * scale, backward=backward * scale, weight_grad=weight_grad * scale, comm=comm
        )

    def _load(self, table: ShapeTable, counts: IntArray, plans: PlanArrays, column: IntArray) -> StageLoad:
        def kept(kind: LayerWork) -> FloatArray:
            names = ("kept_none_bytes", "kept_selective_bytes", "kept_full_bytes")
            return np.choose(plans.recompute, [getattr(kind, name)[column] for name in names])

        present = (counts > 0)[:, :, None]
        one = np.ones(len(plans))
        dense = counts @ np.array([k.dense_params for k in table.kinds])[:, None] * one
        expert = counts @ np.array([k.expert_params for k in table.kinds])[:, None] * one
        dense[0] += table.ends.embed_params
        if len(counts) > 1 or not self.model.tied_embeddings:
            dense[-1] += table.ends.head_params
        full = np.stack([k.kept_none_bytes[column] for k in table.kinds])
        working = np.where(present, full[None], 0.0).max(axis=1) * (plans.recompute == 2)[None, :]
        working[-1] = np.maximum(working[-1], table.ends.logits_bytes[column])
        sizes = np.array([k.dense_params + k.expert_params for k in table.kinds])
        largest = np.where(counts > 0, sizes[None, :], 0.0).max(axis=1)
        return StageLoad(
            dense_params=dense,
            expert_params=expert,
            kept_bytes=counts @ np.stack([kept(k) for k in table.kinds]),
            working_bytes=working,
            layer_params=largest[:, None] * one,
        )

    def _shards(self, plans: PlanArrays) -> tuple[FloatArray, FloatArray]:
        dense = (plans.dp_shard * plans.cp).astype(np.float64)
        expert = np.maximum(dense * plans.tp / (plans.ep * plans.etp), 1.0)
        return dense, expert

    def _step(
        self,
        plans: PlanArrays,
        stages: _Stages,
        load: StageLoad,
        num_micro: FloatArray,
        shards: tuple[FloatArray, FloatArray],
    ) -> list[FloatArray]:
        compute = stages.forward + stages.backward + stages.weight_grad
        per_stage = stages.total
        slowest = per_stage.argmax(axis=0)
        rows = np.arange(len(plans))
        ramp = self._ramp(plans, stages)
        hop = self._hops(plans, num_micro)
        dp_s, per_micro_s = self._data_parallel(plans, stages, load)
        optimizer = self._optimizer(plans, load, shards)
        return [
            compute[slowest, rows] * num_micro,
            stages.comm[slowest, rows] * num_micro,
            ramp,
            hop,
            dp_s + per_micro_s * num_micro,
            optimizer,
            np.full(len(plans), self.software.per_step_s),
        ]

    def _ramp(self, plans: PlanArrays, stages: _Stages) -> FloatArray:
        """Ramp-up and drain: one micro-batch through every other stage, less what a schedule hides.

        1F1B (p-1)(F+B+W), interleaved 1/v of it, ZB-H1 (p-1)(F+B-W); for unequal stages the sum over the
        stages other than the slowest replaces p-1 times the mean.
        """
        total = stages.total
        others: FloatArray = np.asarray(total.sum(axis=0) - total.max(axis=0))
        weight = stages.weight_grad
        hidden: FloatArray = np.asarray(2.0 * (weight.sum(axis=0) - weight.max(axis=0)))
        name = plans.schedule
        ramp = np.where(name == SCHEDULES.index("interleaved"), others / plans.num_chunks, others)
        return np.where(name == SCHEDULES.index("zb-h1"), np.maximum(others - hidden, 0.0), ramp)

    def _hops(self, plans: PlanArrays, num_micro: FloatArray) -> FloatArray:
        """Exposed pipeline sends: Tc [2 m (p-1)/p + 2 (p-2)] per chunk round of 1F1B."""
        pp = int(plans.pp[0])
        if pp == 1:
            return np.zeros(len(plans))
        stride = plans.tp * plans.cp * plans.dp
        num_bytes = (
            plans.micro_batch * self.workload.seq_len / plans.cp * self.model.hidden_size * 2.0 / plans.tp
        )
        hop = np.empty(len(plans))
        for value in np.unique(stride):
            mask = stride == value
            link = hop_link(self.group, stride=int(value))
            span = Span(ranks_per_level=(2,), links=(link,))
            hop[mask] = self._costs.price(Collective(op="p2p", num_bytes=num_bytes[mask], span=span)).time_s
        rounds = 2.0 * num_micro * plans.num_chunks * (pp - 1) / pp + 2.0 * max(pp - 2, 0)
        return hop * rounds * (1.0 - self.software.p2p_overlap)

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

    def _data_parallel(
        self, plans: PlanArrays, stages: _Stages, load: StageLoad
    ) -> tuple[FloatArray, FloatArray]:
        """Exposed gradient and parameter traffic: (once per step, once per micro-batch)."""
        grad_bytes = self.software.gradient_bytes
        dense = load.dense_params.max(axis=0)
        expert = load.expert_params.max(axis=0)
        shard = plans.dp_shard * plans.cp
        expert_group = np.maximum(plans.dp * plans.cp * plans.tp // (plans.ep * plans.etp), 1)
        stride = plans.tp
        window_b = (stages.backward + stages.weight_grad).min(axis=0)
        window_f = stages.forward.min(axis=0)
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

    def _optimizer(
        self, plans: PlanArrays, load: StageLoad, shards: tuple[FloatArray, FloatArray]
    ) -> FloatArray:
        """Adam over the parameters that this rank updates; offloaded states cross the host link."""
        dense_shard, expert_shard = (np.where(plans.zero >= 1, s, 1.0) for s in shards)
        params = (load.dense_params / dense_shard + load.expert_params / expert_shard).max(axis=0)
        on_device = self._costs.price(
            Stream(num_bytes=params * _ADAM_BYTES_PER_PARAM, num_kernels=8.0)
        ).time_s
        if not plans.offload.any():
            return on_device
        moved = self._costs.price(HostTransfer(num_bytes=params * 6.0)).time_s
        return np.where(plans.offload >= 1, moved, on_device)


def _groups(plans: PlanArrays) -> list[IntArray]:
    """Return positions of plans that share a shape table and a layer split."""
    keys = np.stack(
        [
            plans.tp,
            plans.cp,
            plans.ep,
            plans.etp,
            plans.sequence_parallel,
            plans.pp,
            plans.num_chunks,
            plans.first_drop,
            plans.last_drop,
        ]
    )
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
