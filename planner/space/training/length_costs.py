"""The costs of sequences of different lengths on a rank, out of the same prices as other training plans.

A rank is a tensor-parallel group. Time is taken to be linear in the tokens and in the query-key pairs of a
sequence: both slopes follow from two micro-batches of 8,192 tokens (less where they do not fit), one sequence
and sixteen short ones, so that they know how fast this device is at these sizes. What fits a rank follows
from the memory of the fullest device as micro-batches grow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cost_models.sequences.times import SequenceCosts, attention_pairs, pair_flops
from cost_models.work import Collective
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import AttentionCore, ModelGraph
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.space.spans import span_of
from planner.space.training.evaluate import Evaluation, TrainingEvaluator
from planner.space.training.grid import plan_columns
from planner.space.training.plans import RECOMPUTES, IntArray, PlanArrays
from planner.space.training.source import evaluator_of

UNIT = 256
"""Tokens in multiples of which memory is looked at."""
_MOST_TOKENS = 1 << 20
_SHORT = 16
_PRICED_TOKENS = 8192
_MANY = 1 << 40
_ELEMENT_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCosts:
    """A rank of one plan: costs of sequences, what a step does once, and its memory; times in seconds."""

    costs: SequenceCosts
    software: str
    reduction_s: float
    optimizer_s: float
    sigma_log: float
    memory: Evaluation


class LengthPricer:
    """Prices ranks of one model on one node group in one precision."""

    def __init__(self, problem: Problem[TrainingProblem], group: NodeGroup, fmt: str) -> None:
        self._problem, self._group, self._fmt = problem, group, fmt
        counts = np.unique(np.geomspace(1, _MOST_TOKENS // UNIT, 400).round()).astype(np.int64)
        self._counts = counts
        self._sized = self._evaluator(UNIT, counts)
        self._priced: dict[int, tuple[TrainingEvaluator, TrainingEvaluator]] = {}
        self._pairs = pair_costs(problem.payload.model)

    def rank_tokens(self, plan: PlanArrays, capacity_bytes: float) -> int:
        """Return the tokens whose activations fit beside the states of a plan, 0 where nothing fits."""
        num = len(self._counts)
        every = plan.take(np.zeros(num, dtype=np.int64))
        found = self._sized.evaluate(replace(every, micro_batch=self._counts), self._fmt)
        fits = np.flatnonzero(found.peak_bytes <= capacity_bytes)
        return int(self._counts[fits[-1]]) * UNIT if len(fits) else 0

    def price(self, plan: PlanArrays, rank_tokens: int) -> RankCosts:
        """Return the costs of a rank that holds so many tokens."""
        size = priced_tokens(rank_tokens)
        long, short = self._at(size)
        whole, parts = (
            self._passes_s(e, replace(plan, micro_batch=np.array([n])))
            for e, n in ((long, 1), (short, _SHORT))
        )
        flops = sum(each * attention_pairs(size, window) for each, window in self._pairs)
        less = sum(each * _SHORT * attention_pairs(size // _SHORT, window) for each, window in self._pairs)
        per_flop = max(whole - parts, 0.0) / max(flops - less, 1.0)
        found = long.evaluate(replace(plan, micro_batch=np.array([1])), self._fmt)
        held = replace(plan, micro_batch=np.array([rank_tokens // UNIT]))
        tp = int(plan.tp[0])
        near, far = self._bandwidths(size, tp)
        model = self._problem.payload.model
        costs = SequenceCosts(
            token_s=max(parts - per_flop * less, 0.0) / size,
            attention=tuple((each * per_flop, window) for each, window in self._pairs),
            exchange_bytes_per_token=_ELEMENT_BYTES * model.hidden_size / tp * model.num_layers,
            near_bytes_per_s=near,
            far_bytes_per_s=far,
            ranks_per_node=max(1, self._group.devices_per_node // tp),
            microbatch_s=long.software.per_micro_batch_s,
            rank_tokens=rank_tokens,
            kv_share=1.0,
        )
        return RankCosts(
            costs=costs,
            software=long.software.name,
            reduction_s=float(found.time.data_parallel_s[0]),
            optimizer_s=float(found.time.optimizer_s[0]),
            sigma_log=float(found.sigma_log[0]),
            memory=self._sized.evaluate(held, self._fmt),
        )

    def _at(self, size: int) -> tuple[TrainingEvaluator, TrainingEvaluator]:
        """Return what prices one sequence of so many tokens, and sixteen that have them together."""
        if size not in self._priced:
            sizes = np.array([1, _SHORT], dtype=np.int64)
            self._priced[size] = self._evaluator(size, sizes), self._evaluator(size // _SHORT, sizes)
        return self._priced[size]

    def _evaluator(self, seq_len: int, sizes: IntArray) -> TrainingEvaluator:
        """Return what prices micro-batches of sequences of one length; a step has many of them."""
        workload = replace(self._problem.payload.workload, seq_len=seq_len, batches=(), global_batch=_MANY)
        payload = replace(self._problem.payload, workload=workload)
        return evaluator_of(payload, self._group, plan_columns(len(sizes), micro_batch=sizes))

    def _passes_s(self, evaluator: TrainingEvaluator, plan: PlanArrays) -> float:
        """Return the passes of one micro-batch through all layers, with what is recomputed, seconds."""
        found = evaluator.work_of_all_layers(plan, self._fmt)
        way = RECOMPUTES[int(plan.recompute[0])]
        again = {"none": 0.0 * found.full, "selective": found.selective, "full": found.full}[way]
        total = found.forward + found.backward + found.weight_grad + found.comm + again
        return float(total[0])

    def _bandwidths(self, tokens: int, tp: int) -> tuple[float, float]:
        """Return what a device gets in all-to-alls inside a node and between nodes, bytes per second."""
        inside = max(1, self._group.devices_per_node // tp)
        buffer = tokens * self._problem.payload.model.hidden_size / tp * _ELEMENT_BYTES
        found: list[float] = []
        for ranks in (max(inside, 2), 2 * inside):
            span = span_of(self._group, ranks, tp)
            work = Collective(op="all_to_all", num_bytes=np.array([buffer]), span=span)
            sent = buffer * (ranks - 1) / ranks
            found.append(sent / max(float(self._sized.price_s(work)[0]), 1e-12))
        return found[0], found[1]


def priced_tokens(rank_tokens: int) -> int:
    """Return the tokens at which ranks that hold so many are priced."""
    return min(rank_tokens, _PRICED_TOKENS) // _SHORT * _SHORT


def pair_costs(model: ModelGraph) -> tuple[tuple[float, int], ...]:
    """Return (FLOPs per query-key pair, window) of each kind of attention layer together."""
    found: dict[int, float] = {}
    for layer in model.layers:
        for core in layer.ops:
            if isinstance(core, AttentionCore) and not core.cross:
                width = (core.head_dim + core.v_head_dim) // 2
                each = pair_flops(core.num_heads, width, recompute=False)
                found[core.window] = found.get(core.window, 0.0) + each
    return tuple((flops, window) for window, flops in sorted(found.items()))
