"""Prices every stage that a node group could hold under one plan: work of its layers, ends and memory."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from cost_models.cost import FloatArray
from planner.ir.training import Recompute
from planner.space.training.chain_stages import ChainGroup, StageBand
from planner.space.training.memory import StageLoad, passed_bytes, stage_memory
from planner.space.training.plans import RECOMPUTES, IntArray, PlanArrays
from planner.space.training.tables import PlanTable

_KEPT: dict[Recompute, str] = {
    "none": "kept_none_bytes",
    "selective": "kept_selective_bytes",
    "full": "kept_full_bytes",
}


class BandPricer:
    """Prices the stages of one group in one precision. `ways` are the allowed ways of recomputing."""

    def __init__(self, group: ChainGroup, fmt: str, ways: tuple[Recompute, ...]) -> None:
        self._group = group
        self._fmt = fmt
        self._ways = ways

    def band(self, plan: PlanArrays, width: int) -> StageBand:
        """Return the stages of at most `width` layers under one plan; its pipeline does not matter."""
        evaluator = self._group.evaluator
        sums = _Sums(evaluator.plan_table(plan, self._fmt), evaluator.tables.folded.order, width)
        half = evaluator.software.per_micro_batch_s / 2.0
        forward = sums.of("forward_s") + half + sums.ends("embed_forward_s", "head_forward_s")
        backward = sums.of("backward_s") + half + sums.ends("embed_backward_s", "head_backward_s")
        weight = sums.of("weight_grad_s")
        backward = backward + weight
        comm = sums.of("forward_comm_s") + sums.of("backward_comm_s")
        loads: dict[Recompute, StageLoad] = {way: self._load(plan, sums, way) for way in RECOMPUTES}
        shards = evaluator.shards(plan)
        nothing = np.zeros((sums.last.size, 1))
        once, optimizer = self._once(plan, sums, loads["none"], (forward, backward))
        base: dict[Recompute, FloatArray] = {}
        for way, load in loads.items():
            alone = stage_memory(plan, load, nothing, shards, evaluator.software).total
            base[way] = np.asarray(alone.reshape(sums.last.shape), dtype=np.float64)
        return StageBand(
            plan=plan,
            group=self._group,
            plain_s=np.where(sums.beyond, np.inf, forward + backward + comm),
            comm_s=comm,
            forward_s=forward,
            weight_s=weight,
            error_s=sums.of("error_s"),
            extra_s={
                "none": np.zeros(sums.last.shape),
                "selective": sums.of("recompute_selective_s"),
                "full": sums.of("recompute_full_s"),
            },
            base_bytes=base,
            loads=loads,
            saved_bytes=sums.before(_KEPT["none"]) - sums.before(_KEPT["full"]),
            again_s=sums.before("recompute_full_s"),
            once_s=once,
            optimizer_s=optimizer,
            ways=self._ways,
        )

    def _load(self, plan: PlanArrays, sums: _Sums, way: Recompute) -> StageLoad:
        """Return what every stage holds, arrays [stages, 1]."""
        table, evaluator = sums.table, self._group.evaluator
        tied = evaluator.model.tied_embeddings
        dense = sums.of("dense_params") + sums.ends("embed_params", "head_params", once=tied)
        rebuilt = table.layer(_KEPT["none"]) - table.layer(_KEPT[way])
        params = table.layer("dense_params") + table.layer("expert_params")
        piped = replace(plan, pp=plan.pp + 1)  # a chain has stages beside those of this group
        passed = passed_bytes(table, piped, evaluator.num_micro_of(plan), evaluator.software)
        found = StageLoad(
            dense_params=dense,
            expert_params=sums.of("expert_params"),
            kept_bytes=sums.of(_KEPT[way]),
            rebuilt_bytes=sums.largest(rebuilt),
            working_bytes=sums.largest(table.layer("working_bytes")),
            logits_bytes=sums.ends("", "logits_bytes"),
            layer_params=sums.largest(params),
            passed_bytes=passed[0] + 0.0 * dense,
            layer_kept_bytes=sums.largest(table.layer(_KEPT[way])),
        )
        return StageLoad(
            **{name: getattr(found, name).reshape(-1, 1) for name in StageLoad.__dataclass_fields__}
        )

    def _once(
        self, plan: PlanArrays, sums: _Sums, load: StageLoad, windows: tuple[FloatArray, FloatArray]
    ) -> tuple[FloatArray, FloatArray]:
        """Return the seconds per step that gradients, and the optimizer, of every stage take."""
        evaluator = self._group.evaluator
        at, back = _alike(evaluator.tables.folded.order, sums.last.shape[1])
        dense, expert = load.dense_params[at, 0], load.expert_params[at, 0]
        forward, backward = (window.ravel()[at] for window in windows)
        each_stage = plan.take(np.zeros(len(at), dtype=np.int64))
        layers = np.broadcast_to(np.arange(1.0, sums.last.shape[1] + 1.0), sums.last.shape).ravel()[at]
        once, each = evaluator.exposed.data_parallel_s(
            each_stage, (forward, backward), (dense, expert), layers
        )
        num_micro = evaluator.workload.global_batch / (plan.dp[0] * plan.micro_batch[0])
        shards = (np.where(plan.zero >= 1, s, 1.0)[0] for s in evaluator.shards(plan))
        dense_ranks, expert_ranks = shards
        updated = dense / dense_ranks + expert / expert_ranks
        optimizer = np.asarray(evaluator.optimizer_s(each_stage, updated), dtype=np.float64)
        shape = sums.last.shape
        return (once + each * num_micro)[back].reshape(shape), optimizer[back].reshape(shape)


class _Sums:
    """Sums over the layers of every stage, arrays [first layer, number of layers - 1]."""

    def __init__(self, table: PlanTable, order: tuple[int, ...], width: int) -> None:
        self.table = table
        self._order = np.array(order)
        num_layers = len(order)
        self._first: IntArray = np.arange(num_layers, dtype=np.int64)[:, None]
        end = self._first + np.arange(1, width + 1)[None, :]
        self.beyond = end > num_layers
        self.last: IntArray = np.minimum(end, num_layers)

    def before(self, name: str) -> FloatArray:
        """Return the sum of a column over the layers before each, [layers + 1]."""
        return np.concatenate([[0.0], np.cumsum(self.table.layer(name)[:, 0][self._order])])

    def of(self, name: str) -> FloatArray:
        """Return the sum of a column over the layers of every stage."""
        total = self.before(name)
        return np.asarray(total[self.last] - total[self._first], dtype=np.float64)

    def largest(self, of_kind: FloatArray) -> FloatArray:
        """Return the largest of a stage's layers, given the figure of every kind [kinds, 1]."""
        found = np.zeros(self.last.shape)
        for kind, value in enumerate(of_kind[:, 0]):
            counted = np.concatenate([[0], np.cumsum(self._order == kind)])
            present = counted[self.last] > counted[self._first]
            found = np.where(present, np.maximum(found, value), found)
        return found

    def ends(self, first: str, last: str, *, once: bool = False) -> FloatArray:
        """Return what the first and the last stage have besides; with `once`, a single stage has one."""
        found = np.zeros(self.last.shape)
        at_end = self.last == len(self._order)
        if once:
            at_end = at_end & (self._first > 0)
        found[at_end] += self.table.end(last)[0]
        if first:
            found[0] += self.table.end(first)[0]
        return found


@lru_cache(maxsize=64)
def _alike(order: tuple[int, ...], width: int) -> tuple[IntArray, IntArray]:
    """Return one stage of each sort (same layers, same ends), and the sort of every stage."""
    num_layers = len(order)
    first = np.arange(num_layers)[:, None]
    last = np.minimum(first + np.arange(1, width + 1)[None, :], num_layers)
    key = 2 * (first == 0) + (last == num_layers)
    for kind in range(max(order) + 1):
        counted = np.concatenate([[0], np.cumsum(np.array(order) == kind)])
        key = key * (width + 1) + counted[last] - counted[first]
    _, at, back = np.unique(key.ravel(), return_index=True, return_inverse=True)
    return at.astype(np.int64), back.astype(np.int64)
