"""The plan space of training: which degrees are valid, and every switch that goes with them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import product

import numpy as np

from planner.ir.model_graph import AttentionCore, Experts, ModelGraph
from planner.ir.training import TrainingChoices, TrainingWorkload
from planner.space.training.partition import chunk_sizes
from planner.space.training.plans import OFFLOADS, RECOMPUTES, SCHEDULES, IntArray, PlanArrays

_MAX_DROP = 2
_MAX_CHUNKS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Degrees:
    """The degrees that decide where ranks sit and what a micro-batch costs: one point of the coarse grid."""

    tp: int
    cp: int
    ep: int
    etp: int
    sequence_parallel: bool
    pp: int
    dp: int
    micro_batch: int


def divisors(value: int) -> list[int]:
    """Return the divisors of a positive integer, ascending."""
    small = [d for d in range(1, int(value**0.5) + 1) if value % d == 0]
    return small + [value // d for d in reversed(small) if d * d != value]


def tensor_degrees(model: ModelGraph, limit: int) -> list[int]:
    """Return the TP degrees that split heads and feed-forward widths evenly, up to `limit` devices."""
    heads = [op.num_heads for layer in model.layers for op in layer.ops if isinstance(op, AttentionCore)]
    base = int(np.gcd.reduce(heads)) if heads else model.hidden_size
    return [d for d in divisors(base) if d <= limit and model.hidden_size % d == 0]


def expert_degrees(model: ModelGraph, ranks: int) -> list[int]:
    """Return the EP degrees that spread the experts evenly over at most `ranks` ranks."""
    if model.num_experts == 0:
        return [1]
    counts = [op.num_experts for layer in model.layers for op in layer.ops if isinstance(op, Experts)]
    return [d for d in divisors(int(np.gcd.reduce(counts))) if d <= ranks and ranks % d == 0]


def degrees(
    model: ModelGraph, workload: TrainingWorkload, choices: TrainingChoices, num_devices: int, max_tp: int
) -> list[Degrees]:
    """Return every valid point of the coarse grid on at most `num_devices` devices.

    The global batch is honoured exactly: dp * micro_batch divides it. Sequence parallelism goes with TP.
    """
    fixed = dict(choices.fixed)
    found: list[Degrees] = []

    def wanted(name: str, values: list[int]) -> list[int]:
        value = fixed.get(name)
        return values if value is None else [v for v in values if v == int(value)]

    for tp in wanted("tp", tensor_degrees(model, min(max_tp, num_devices))):
        cps = [c for c in divisors(workload.seq_len) if c <= 64 and workload.seq_len // c >= 1024] or [1]
        for cp in wanted("cp", cps):
            for pp in wanted("pp", list(range(1, min(len(model.layers), num_devices) + 1))):
                most = num_devices // (tp * cp * pp)
                for dp in wanted("dp", [d for d in divisors(workload.global_batch) if d <= most]):
                    found.extend(_inner(model, workload, choices, fixed, (tp, cp, pp, dp)))
    return found


def _inner(
    model: ModelGraph,
    workload: TrainingWorkload,
    choices: TrainingChoices,
    fixed: dict[str, int | str | bool],
    outer: tuple[int, int, int, int],
) -> list[Degrees]:
    tp, cp, pp, dp = outer
    per_rank = workload.global_batch // dp
    batches = [b for b in divisors(per_rank) if b <= choices.max_micro_batch]
    if "micro_batch" in fixed:
        batches = [b for b in batches if b == int(fixed["micro_batch"])]
    parallel = [tp > 1] if "sequence_parallel" not in fixed else [bool(fixed["sequence_parallel"]) and tp > 1]
    found: list[Degrees] = []
    for etp in sorted({1, tp}) if model.num_experts else [1]:
        for ep in expert_degrees(model, dp * cp * tp // etp):
            if ep != int(fixed.get("ep", ep)) or etp != int(fixed.get("etp", etp)):
                continue
            found.extend(
                Degrees(tp=tp, cp=cp, ep=ep, etp=etp, sequence_parallel=sp, pp=pp, dp=dp, micro_batch=b)
                for sp in parallel
                for b in batches
            )
    return found


def expand(points: list[Degrees], model: ModelGraph, choices: TrainingChoices) -> PlanArrays:
    """Return every plan of the points: chunks, layer split, ZeRO, recompute, offload, schedule."""
    fixed = dict(choices.fixed)
    rows: list[tuple[int, ...]] = []
    switches = _switches(choices, fixed)
    for point in points:
        for chunks, schedule, first, last in _pipelines(point.pp, len(model.layers), choices, fixed):
            head = (point.tp, point.pp, point.dp, point.cp, point.ep, point.etp, chunks, point.micro_batch)
            for zero, recompute, offload in switches:
                if zero and point.dp * point.cp == 1:
                    continue
                if zero == 3 and point.pp > 1 and "zero" not in fixed:
                    continue  # gathers would repeat for every micro-batch of every chunk
                rows.append(
                    (
                        *head,
                        zero,
                        point.dp,
                        int(point.sequence_parallel),
                        recompute,
                        offload,
                        schedule,
                        first,
                        last,
                    )
                )
    table: IntArray = np.array(rows, dtype=np.int64).reshape(len(rows), 16).T
    names = [f.name for f in fields(PlanArrays)]
    return PlanArrays(**dict(zip(names, table, strict=True)))


def _switches(choices: TrainingChoices, fixed: dict[str, int | str | bool]) -> list[tuple[int, int, int]]:
    zeros = [z for z in choices.zeros if z == int(fixed.get("zero", z))]
    recomputes = [RECOMPUTES.index(r) for r in choices.recomputes if r == fixed.get("recompute", r)]
    offloads = [OFFLOADS.index(o) for o in choices.offloads if o == fixed.get("offload", o)]
    return list(product(zeros, recomputes, offloads))


def _pipelines(
    pp: int, num_layers: int, choices: TrainingChoices, fixed: dict[str, int | str | bool]
) -> list[tuple[int, int, int, int]]:
    """Return (chunks, schedule index, first drop, last drop) that a pipeline of `pp` stages can run."""
    if pp == 1:
        return [(1, SCHEDULES.index("1f1b"), 0, 0)]
    found: list[tuple[int, int, int, int]] = []
    most = min(_MAX_CHUNKS, num_layers // pp)
    for name in choices.schedules:
        if name not in SCHEDULES or name != fixed.get("schedule", name):
            continue
        chunk_range = range(2, most + 1) if name == "interleaved" else range(1, 2)
        for chunks in chunk_range:
            if chunks != int(fixed.get("num_chunks", chunks)):
                continue
            drops = product(range(_MAX_DROP + 1), repeat=2)
            for first, last in drops:
                divides = (num_layers + first + last) % (pp * chunks) == 0
                if (divides or chunks == 1) and chunk_sizes(num_layers, pp * chunks, first, last) is not None:
                    found.append((chunks, SCHEDULES.index(name), first, last))
    return found
