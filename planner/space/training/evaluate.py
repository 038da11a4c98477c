"""What a training plan costs: step time term by term and memory of every stage, for many plans at once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from cost_models.base import CostModel
from cost_models.cost import FloatArray
from cost_models.work import Collective, Span, Stream
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import ModelGraph
from planner.ir.training import TrainingWorkload
from planner.space.training.activations import fits_host, shown_s
from planner.space.training.exposed import ExposedCommunication
from planner.space.training.layer_work import Shape
from planner.space.training.memory import StageLoad, StageMemory, in_flight, passed_bytes, stage_memory
from planner.space.training.network import hop_link
from planner.space.training.optimizer import update_s
from planner.space.training.partition import StageClasses, stage_classes
from planner.space.training.plans import RECOMPUTES, SCHEDULES, IntArray, PlanArrays, away, distinct
from planner.space.training.software import TrainingSoftware
from planner.space.training.stage_times import LayerTotals, Outline, StageTimes
from planner.space.training.tables import PlanTable, TableBuilder

_MOST_DETAILED = 64
KERNEL_CORRELATION = 0.6
"""Share of the error of kernels that they have in common."""


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
    straggler_s: FloatArray

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
            + self.straggler_s
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Times and memory of plans; infinite where the layers cannot be split so.

    `sigma_log` is the spread of the log of measured over predicted step time. `allocated_bytes` is what the
    framework would report as allocated on the fullest stage, `peak_bytes` what the device must have.
    """

    time: StepTime
    sigma_log: FloatArray
    memory: list[StageMemory | None]
    peak_bytes: FloatArray
    allocated_bytes: FloatArray

    def interval_s(self, level: float = 0.9) -> tuple[FloatArray, FloatArray]:
        """Return the bounds of the central interval of the step time, seconds.

        Raises
        ------
        ValueError
            If `level` is not between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"an interval's level lies between 0 and 1, got {level}")
        width = NormalDist().inv_cdf(0.5 + level / 2.0) * self.sigma_log
        return self.time.total_s * np.exp(-width), self.time.total_s * np.exp(width)


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
    kernel_sigma: FloatArray

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
        self.software = software.on(group.device)
        self.workload = workload
        self._costs = costs
        self._batches = np.unique(micro_batches)
        self.exposed = ExposedCommunication(group, costs, self.software, len(model.layers))
        self.tables = TableBuilder(model, group, costs, self.software, self._batches.astype(np.float64))

    def price_s(self, work: Collective | Stream) -> FloatArray:
        """Return the seconds of a collective, or of a pass over memory."""
        return self._costs.price(work).time_s

    def evaluate(self, plans: PlanArrays, fmt: str = "bf16") -> Evaluation:
        """Return time and memory of every plan (all of one number format).

        Stages are priced per split of the layers; what runs once per step is then priced for all plans at
        once, so that a collective of one span is priced once. Memory by stage is kept for at most 64 plans.
        """
        num = len(plans)
        detailed = num <= _MOST_DETAILED
        table = self.plan_table(plans, fmt)
        parts = _Parts.empty(num)
        peak, allocated = np.full(num, np.inf), np.full(num, np.inf)
        memory: list[StageMemory | None] = [None] * num
        for index in same_split(plans):
            part = plans.take(index)
            classes = self.classes_of(part, every=detailed)
            if classes is None:
                continue
            stages = self._stages(table.take(index), classes, part)
            load = self.load_of(table.take(index), classes, part)
            stage_mem = self._memory(part, load, classes)
            parts.put(index, self._parts(part, stages, load, classes))
            room = self._fits_host(part, load, classes, stage_mem)
            peak[index] = np.where(room, stage_mem.total.max(axis=0), np.inf)
            allocated[index] = stage_mem.allocated.max(axis=0)
            if detailed:
                for column, i in enumerate(index):
                    memory[int(i)] = stage_mem.plan(column)
        return Evaluation(
            time=self._step(plans, parts),
            sigma_log=np.hypot(self.software.sigma_log, KERNEL_CORRELATION * parts.kernel_sigma),
            memory=memory,
            peak_bytes=peak,
            allocated_bytes=allocated,
        )

    def outline(self, plans: PlanArrays, fmt: str = "bf16") -> Outline:
        """Return what no choice of sharding or offload can improve on, for plans that state the leanest one.

        Time without what runs once per step, and memory without buffers that come with sharding.
        """
        num = len(plans)
        table = self.plan_table(plans, fmt)
        parts = _Parts.empty(num)
        least = np.full(num, np.inf)
        for index in same_split(plans):
            part = plans.take(index)
            classes = self.classes_of(part, every=False)
            if classes is None:
                continue
            bare = replace(part, offload=np.zeros_like(part.offload))
            stages = self._stages(table.take(index), classes, bare)
            load = self.load_of(table.take(index), classes, part)
            parts.put(index, self._parts(part, stages, load, classes))
            held = self._memory(part, load, classes)
            buffers = held.gathered * (1.0 + self.software.allocator_slack)
            least[index] = (held.total - buffers).max(axis=0)
        num_micro = self.num_micro_of(plans)
        sends = self.exposed.sends_s(plans, self.hop_s(plans), num_micro)
        step = (parts.compute_s + parts.comm_s) * num_micro + parts.ramp_s + sends
        return Outline(
            step_s=step + self.software.per_step_s,
            compute_s=parts.compute_s * num_micro,
            least_bytes=least,
        )

    def stage_times(self, plans: PlanArrays, fmt: str = "bf16") -> StageTimes:
        """Return the times of one micro-batch on every stage of plans that share one split, [stages, plans].

        Raises
        ------
        ValueError
            If the layers cannot be split so.
        """
        classes = self.classes_of(plans, every=True)
        if classes is None:
            raise ValueError("the layers cannot be split so")
        return self._stages(self.plan_table(plans, fmt), classes, plans)

    def work_of_all_layers(self, plans: PlanArrays, fmt: str = "bf16") -> LayerTotals:
        """Return the times of one micro-batch through the whole model on one rank, seconds, [plans]."""
        table = self.plan_table(plans, fmt)
        counts = np.bincount(np.array(self.tables.folded.order), minlength=len(self.tables.folded.kinds))

        def summed(*names: str) -> FloatArray:
            return table.whole(counts, *names)

        forward = summed("forward_s") + table.end("embed_forward_s") + table.end("head_forward_s")
        backward = summed("backward_s") + table.end("embed_backward_s") + table.end("head_backward_s")
        return LayerTotals(
            forward=forward,
            backward=backward,
            weight_grad=summed("weight_grad_s"),
            selective=summed("recompute_selective_s"),
            full=summed("recompute_full_s"),
            comm=summed("forward_comm_s", "backward_comm_s"),
        )

    def sent_bytes(self, plans: PlanArrays) -> FloatArray:
        """Return what one rank sends to the next stage per micro-batch, bytes, [plans]."""
        width = plans.micro_batch * self.workload.seq_len / plans.cp * self.model.hidden_size
        whole = (plans.sequence_parallel == 0) & (not self.software.scatter_gather)
        return np.asarray(width * 2.0 / np.where(whole, 1, plans.tp), dtype=np.float64)

    def hop_s(self, plans: PlanArrays) -> FloatArray:
        """Return the time of one send between neighbouring stages, exposed or not, [plans]."""
        stride, num_bytes = plans.tp * plans.cp * plans.dp, self.sent_bytes(plans)
        hop = np.zeros(len(plans))
        for value in np.unique(stride):
            mask = (stride == value) & (plans.pp > 1)
            span = Span(ranks_per_level=(2,), links=(hop_link(self.group, stride=int(value)),))
            hop[mask] = self._costs.price(Collective(op="p2p", num_bytes=num_bytes[mask], span=span)).time_s
        return hop

    def plan_table(self, plans: PlanArrays, fmt: str) -> PlanTable:
        """Return the priced layers of every plan's shape and micro-batch size."""
        names = ("tp", "cp", "cp_ulysses", "ep", "etp", "sequence_parallel")
        columns = [np.asarray(getattr(plans, name), dtype=np.int64) for name in names]
        first, inverse = distinct(columns)
        unique = np.stack([column[first] for column in columns])
        shapes = [
            Shape(
                seq_len=self.workload.seq_len,
                tp=int(tp),
                cp=int(cp),
                cp_ulysses=int(ulysses),
                ep=int(ep),
                etp=int(etp),
                sequence_parallel=bool(parallel),
                fmt=fmt,
            )
            for tp, cp, ulysses, ep, etp, parallel in unique.T
        ]
        column = np.searchsorted(self._batches, plans.micro_batch).astype(np.int64)
        return self.tables.view(shapes, inverse, column)

    def classes_of(self, plans: PlanArrays, *, every: bool) -> StageClasses | None:
        """Return the classes of stages of plans that share one split."""
        drops = int(plans.first_drop[0]), int(plans.last_drop[0])
        pp, chunks = int(plans.pp[0]), int(plans.num_chunks[0])
        folded = int(plans.schedule[0]) == SCHEDULES.index("zb-v")
        return stage_classes(self.tables.folded.order, pp, chunks, drops, every=every, folded=folded)

    def _memory(self, plans: PlanArrays, load: StageLoad, classes: StageClasses) -> StageMemory:
        num_micro = self.num_micro_of(plans)
        held = in_flight(plans, num_micro, classes.first, classes.num_stages)
        return stage_memory(plans, load, held, self.shards(plans), self.software)

    def _fits_host(
        self, plans: PlanArrays, load: StageLoad, classes: StageClasses, memory: StageMemory
    ) -> NDArray[np.bool_]:
        """Return whether hosts hold the activations that are put there beside the states, [plans]."""
        if not away(plans, "activations").any():
            return np.ones(len(plans), dtype=np.bool_)
        held = in_flight(plans, self.num_micro_of(plans), classes.first, classes.num_stages)
        none = replace(plans, offload=np.zeros_like(plans.offload))
        states = (self._memory(none, load, classes).optimizer - memory.optimizer).max(axis=0)
        return fits_host(self.group, plans, (load.kept_bytes * held).max(axis=0), states)

    def num_micro_of(self, plans: PlanArrays) -> FloatArray:
        """Return the micro-batches of a step on one data-parallel rank, [plans]."""
        return np.asarray(self.workload.global_batch / (plans.dp * plans.micro_batch), dtype=np.float64)

    def _stages(self, table: PlanTable, classes: StageClasses, plans: PlanArrays) -> StageTimes:
        def summed(field: str) -> FloatArray:
            return np.asarray(classes.counts @ table.layer(field), dtype=np.float64)

        recompute = plans.recompute[None, :]
        again = self._again(table, classes, plans, "recompute_full_s")
        extra = np.where(recompute == RECOMPUTES.index("full"), again, 0.0)
        extra = np.where(recompute == RECOMPUTES.index("selective"), summed("recompute_selective_s"), extra)
        half = self.software.per_micro_batch_s / 2.0
        forward, backward = summed("forward_s") + half, summed("backward_s") + extra + half
        forward[0] += table.end("embed_forward_s")
        backward[0] += table.end("embed_backward_s")
        forward[classes.last] += table.end("head_forward_s")
        backward[classes.last] += table.end("head_backward_s")
        weight = summed("weight_grad_s")
        comm = summed("forward_comm_s") + summed("backward_comm_s")
        if away(plans, "activations").any():
            kept = self.load_of(table, classes, plans).kept_bytes
            comm = comm + shown_s(self._costs, self.group, plans, kept, (forward, backward + weight))
        return StageTimes(
            forward=forward,
            backward=backward,
            weight_grad=weight,
            comm=comm,
            error=summed("error_s"),
        )

    def _again(self, table: PlanTable, classes: StageClasses, plans: PlanArrays, field: str) -> FloatArray:
        """Return the sum of a column over the layers that are recomputed in full, [stages, plans]."""
        layer = table.layer(field)
        if not plans.recompute_layers.any():
            return np.asarray(classes.counts @ layer, dtype=np.float64)
        chosen = classes.again[np.minimum(plans.recompute_layers, len(classes.again) - 1)]
        return np.asarray(np.einsum("psk,kp->sp", chosen, layer), dtype=np.float64)

    def load_of(self, table: PlanTable, classes: StageClasses, plans: PlanArrays) -> StageLoad:
        """Return what the stages of plans that share one split hold."""
        counts = classes.counts
        kept = np.choose(plans.recompute, [table.layer(f"kept_{way}_bytes") for way in RECOMPUTES])
        dense = counts @ table.layer("dense_params")
        dense[0] += table.end("embed_params")
        if classes.last != 0 or not self.model.tied_embeddings:
            dense[classes.last] += table.end("head_params")
        logits = np.zeros_like(dense)
        logits[classes.last] = table.end("logits_bytes")
        present = (counts > 0)[:, :, None]

        def largest(of_kind: FloatArray) -> FloatArray:
            return np.where(present, of_kind[None], 0.0).max(axis=1)

        return StageLoad(
            dense_params=dense,
            expert_params=counts @ table.layer("expert_params"),
            kept_bytes=self._kept(table, classes, plans, kept),
            rebuilt_bytes=largest(table.layer("kept_none_bytes") - kept),
            working_bytes=largest(table.layer("working_bytes")),
            logits_bytes=logits,
            layer_params=largest(table.layer("dense_params") + table.layer("expert_params")),
            passed_bytes=passed_bytes(table, plans, self.num_micro_of(plans), self.software) + 0.0 * dense,
            layer_kept_bytes=largest(
                np.where(plans.recompute_layers > 0, table.layer("kept_none_bytes"), kept)
            ),
        )

    def _kept(
        self, table: PlanTable, classes: StageClasses, plans: PlanArrays, kept: FloatArray
    ) -> FloatArray:
        """Return what a micro-batch keeps; `kept` is what a layer keeps unless some layers are recomputed."""
        found: FloatArray = np.asarray(classes.counts @ kept, dtype=np.float64)
        partly = (plans.recompute == RECOMPUTES.index("full")) & (plans.recompute_layers > 0)
        if not partly.any():
            return found
        whole = classes.counts @ table.layer("kept_none_bytes")
        saved = [self._again(table, classes, plans, f"kept_{way}_bytes") for way in ("none", "full")]
        return np.where(partly, whole - saved[0] + saved[1], found)

    def shards(self, plans: PlanArrays) -> tuple[FloatArray, FloatArray]:
        """Return the ranks over which dense and expert states may be sharded, each [plans]."""
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
        dense_shard, expert_shard = (np.where(plans.zero >= 1, s, 1.0) for s in self.shards(plans))
        return [
            compute[slowest, rows],
            stages.comm[slowest, rows],
            self._ramp(plans, stages, classes),
            (stages.backward + stages.weight_grad).min(axis=0),
            stages.forward.min(axis=0),
            load.dense_params.max(axis=0),
            load.expert_params.max(axis=0),
            (load.dense_params / dense_shard + load.expert_params / expert_shard).max(axis=0),
            stages.error.sum(axis=0) / np.maximum(stages.total.sum(axis=0), 1e-30),
        ]

    def _step(self, plans: PlanArrays, parts: _Parts) -> StepTime:
        num_micro = self.num_micro_of(plans)
        windows = (parts.window_forward_s, parts.window_backward_s)
        once, each = self.exposed.data_parallel_s(plans, windows, (parts.dense_params, parts.expert_params))
        busy, comm = parts.compute_s * num_micro, parts.comm_s * num_micro
        sends = self.exposed.sends_s(plans, self.hop_s(plans), num_micro)
        reduction = once + each * num_micro
        num_nodes = np.maximum(plans.tp * plans.pp * plans.dp * plans.cp / self.group.devices_per_node, 1.0)
        late = self.software.straggler * np.log2(num_nodes)
        return StepTime(
            compute_s=busy,
            layer_comm_s=comm,
            bubble_s=parts.ramp_s,
            pipeline_comm_s=sends,
            data_parallel_s=reduction,
            optimizer_s=self.optimizer_s(plans, parts.updated_params),
            overhead_s=np.full(len(plans), self.software.per_step_s),
            straggler_s=late * (busy + comm + parts.ramp_s + sends + reduction),
        )

    def _ramp(self, plans: PlanArrays, stages: StageTimes, classes: StageClasses) -> FloatArray:
        """Ramp-up and drain: one micro-batch through every other stage, less what a schedule hides.

        1F1B (p-1)(F+B+W), interleaved 1/v of it, ZB-H1 (p-1)(F+B-W), ZB-H2 and ZB-V (p-1)(F+B-2W), and none
        where the order was searched with twice the memory (ZB-2p), Qi 2024; for unequal stages the sum over
        the stages other than the slowest replaces p-1 times the mean. Where all stages end a step together
        the last one's start, (p-1) F and half of it in a V, stays visible whatever the order.
        """
        total, weight = stages.total, stages.weight_grad
        others: FloatArray = np.asarray(classes.size @ total - total.max(axis=0))
        weights: FloatArray = np.asarray(classes.size @ weight - weight.max(axis=0))
        name = plans.schedule
        ramp = np.where(name == SCHEDULES.index("interleaved"), others / plans.num_chunks, others)
        hidden = np.select(
            [name == SCHEDULES.index(word) for word in ("zb-h1", "zb-h2", "zb-v", "zb-2p")],
            [2.0 * weights, 3.0 * weights, 3.0 * weights, ramp],
            0.0,
        )
        left = np.maximum(ramp - hidden, 0.0)
        if not self.software.optimizer_sync:
            return left
        start: FloatArray = np.asarray(classes.size @ stages.forward - stages.forward.max(axis=0))
        share = np.select(
            [name == SCHEDULES.index(word) for word in ("zb-h2", "zb-2p", "zb-v")], [1.0, 1.0, 0.5], 0.0
        )
        return np.maximum(left, share * start)

    def optimizer_s(self, plans: PlanArrays, params: FloatArray) -> FloatArray:
        """Return the seconds of Adam over the parameters that this rank updates, wherever its states are."""
        return update_s(self._costs, self.group, self.software, plans, params)


def same_split(plans: PlanArrays) -> list[IntArray]:
    """Return positions of plans that share a layer split."""
    folded = plans.schedule == SCHEDULES.index("zb-v")
    keys = [plans.pp, plans.num_chunks, plans.first_drop, plans.last_drop, folded.astype(np.int64)]
    _, inverse = distinct(keys)
    order = np.argsort(inverse, kind="stable")
    cuts = np.flatnonzero(np.diff(inverse[order])) + 1
    return [part.astype(np.int64) for part in np.split(order, cuts)]
