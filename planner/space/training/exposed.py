"""Communication of a step outside the layers: pipeline sends, gradient reduction, parameter gathers."""

from __future__ import annotations

import numpy as np

from cost_models.base import CostModel
from cost_models.cost import FloatArray
from cost_models.work import Collective, CollectiveOp, HostTransfer, Span, Stream
from planner.ir.cluster import NodeGroup
from planner.space.spans import span_of
from planner.space.training.gradients import chosen, pass_bytes, wire_bytes
from planner.space.training.plans import IntArray, PlanArrays, away
from planner.space.training.software import TrainingSoftware

_RING_STEP_S = 3.4e-6
_RING_NETWORK_STEP_S = 14e-6
"""A step of a ring inside a node and between nodes, simple protocol (NCCL, src/graph/tuning.cc, hwLat)."""
_BUCKET_PARAMS = 40e6
_BUCKET_PARAMS_PER_RANK = 1e6
"""Gradients are reduced, and parameters gathered, in buckets of max(40e6, 1e6 ranks) parameters
(Megatron-LM, DistributedDataParallelConfig.bucket_size)."""


class ExposedCommunication:
    """Prices what a step sends outside its layers, for plans with one layer split."""

    def __init__(
        self, group: NodeGroup, costs: CostModel, software: TrainingSoftware, num_layers: int
    ) -> None:
        self._group = group
        self._num_layers = num_layers
        self._costs = costs
        self._software = software

    def sends_s(self, plans: PlanArrays, hop_s: FloatArray, num_micro: FloatArray) -> FloatArray:
        """Return exposed sends: all 2 (p-1) of the ramp, 2 m v (p-1)/p of the rest less the overlap."""
        steady = 2.0 * num_micro * plans.num_chunks * (plans.pp - 1) / plans.pp
        return hop_s * (steady * (1.0 - self._software.p2p_overlap) + 2.0 * (plans.pp - 1))

    def data_parallel_s(
        self,
        plans: PlanArrays,
        windows: tuple[FloatArray, FloatArray],
        params: tuple[FloatArray, FloatArray],
        num_layers: FloatArray | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Return exposed gradient and parameter traffic: (once per step, once per micro-batch).

        Parameters
        ----------
        windows
            Forward and backward time of one micro-batch on a stage, behind which traffic may hide.
        params
            Dense and expert parameters of the fullest stage.
        num_layers
            Layers of that stage; an even share where they are not given.
        """
        dense, expert = params
        layers = np.ceil(self._num_layers / plans.pp) if num_layers is None else num_layers
        shard = plans.dp_shard * plans.cp
        expert_ranks = np.maximum(plans.dp * plans.cp * plans.tp // (plans.ep * plans.etp), 1)
        inside = (self._group.devices_per_node / plans.tp).astype(np.float64)
        sent = wire_bytes(plans, self._software, inside)
        packing = self._packing_s(plans, dense, inside)
        forward, backward = windows
        stride = plans.tp
        replicas = self._collective(
            "all_reduce", dense * sent / shard, stride * shard, plans.dp // plans.dp_shard
        )
        scatter = self._collective("reduce_scatter", dense * sent, stride, shard)
        gather = self._collective("all_gather", dense * 2.0, stride, shard)
        rings = self._rings_s(plans, (dense, layers), shard)
        scatter, gather = scatter + rings + packing, gather + rings
        experts = self._collective("all_reduce", expert * sent, stride * plans.ep, expert_ranks)
        whole = self._collective("all_reduce", dense * sent, stride, plans.dp * plans.cp)
        sharded = self._exposed(scatter + replicas + experts, backward) + self._exposed(gather, forward)
        plain = np.where(
            chosen(plans, "1bit"), whole + packing, self._exposed(whole + experts + packing, backward)
        )
        once = np.where(plans.zero == 0, plain, sharded)
        each = self._exposed(gather, forward) + self._exposed(gather + scatter, backward)
        fully = plans.zero >= 3
        return (
            np.where(fully, self._exposed(replicas + experts, backward), once),
            np.where(fully, each, 0.0) + self._fetched_s(plans, windows, params),
        )

    def _fetched_s(
        self,
        plans: PlanArrays,
        windows: tuple[FloatArray, FloatArray],
        params: tuple[FloatArray, FloatArray],
    ) -> FloatArray:
        """Return what shows of fetching offloaded parameters, once forward and once backward a micro-batch.

        Every rank fetches its own share of the 16-bit weights, all of a stage below ZeRO-3 (ZeRO-Infinity,
        Rajbhandari 2021, sections 3 and 5).
        """
        absent = away(plans, "weights")
        if not absent.any():
            return np.zeros(len(plans))
        shared = np.where(plans.zero >= 3, plans.dp_shard * plans.cp, 1).astype(np.float64)
        experts = np.maximum(shared * plans.tp / (plans.ep * plans.etp), 1.0)
        num_bytes = 2.0 * (params[0] / shared + params[1] / np.where(plans.zero >= 3, experts, 1.0))
        fetch = self._costs.price(HostTransfer(num_bytes=num_bytes)).time_s
        return np.where(absent, sum(self._exposed(fetch, window) for window in windows), 0.0)

    def _packing_s(self, plans: PlanArrays, params: FloatArray, inside: FloatArray) -> FloatArray:
        """Return the time that packing and unpacking gradients takes; `inside` ranks share a node."""
        each = pass_bytes(plans, inside)
        if not each.any():
            return np.zeros(len(plans))
        packed = self._costs.price(Stream(num_bytes=params * each, num_kernels=4.0)).time_s
        return np.where(each > 0.0, packed, 0.0)

    def _rings_s(self, plans: PlanArrays, held: tuple[FloatArray, FloatArray], ranks: IntArray) -> FloatArray:
        """Return what a step's all-gathers (or reduce-scatters) pay for the length of their rings.

        A ring of r ranks on n nodes takes r - n steps inside and n - 1 between; what is gathered layer by
        layer (FSDP, ZeRO-3) pays once per layer, what goes in buckets once per bucket. One ring is in the
        collective's own price. `held` are the dense parameters and the layers of a stage.
        """
        dense, layers = held
        inside = np.clip(self._group.levels[0].num_devices // plans.tp, 1, ranks)
        nodes = -(-ranks // inside)
        ring = (ranks - nodes) * _RING_STEP_S + (nodes - 1) * _RING_NETWORK_STEP_S
        by_layer = (plans.zero >= 3) | self._software.casts_weights
        buckets = np.ceil(dense / np.maximum(_BUCKET_PARAMS, _BUCKET_PARAMS_PER_RANK * ranks))
        return np.asarray(ring * (np.where(by_layer, layers, buckets) - 1.0).clip(0.0), dtype=np.float64)

    def _exposed(self, traffic: FloatArray, window: FloatArray) -> FloatArray:
        """Return what of `traffic` does not hide; at best the share `dp_overlap` of either hides."""
        overlap = self._software.dp_overlap
        return np.maximum(traffic - overlap * window, traffic * (1.0 - overlap))

    def _collective(
        self, op: CollectiveOp, num_bytes: FloatArray, strides: IntArray, sizes: IntArray
    ) -> FloatArray:
        """Price one collective per plan, grouping plans that share a span.

        `dp_efficiency` is the share of the rate inside a node that is left to a collective beside compute: it
        copies with multiprocessors and memory that kernels use too. A slower network hides that. Checked on
        FSDP over 128 A100 with 50 GB/s per node (pytorch.org/blog/maximizing-training) and on runs of four
        H200 per node (KempnerInstitute/KempnerForge, benchmarks), where a share of the network would double
        the step.
        """
        result = np.zeros(len(num_bytes))
        for stride, size in sorted(set(zip(strides.tolist(), sizes.tolist(), strict=True))):
            if size <= 1:
                continue
            mask = (strides == stride) & (sizes == size)
            span = span_of(self._group, int(size), int(stride))
            whole = self._costs.price(Collective(op=op, num_bytes=num_bytes[mask], span=span)).time_s
            inner = Span(ranks_per_level=span.ranks_per_level[:1], links=span.links[:1])
            inside = self._costs.price(Collective(op=op, num_bytes=num_bytes[mask], span=inner)).time_s
            result[mask] = np.maximum(whole, inside / self._software.dp_efficiency)
        return result
