"""The plan space of training as columns: coarse points, and every plan that is made of one.

A point is (tp, cp, ep, etp, sequence parallelism, pp, dp, micro-batch): where ranks sit and what a
micro-batch costs. A row adds how the pipeline runs (schedule, chunks, split of the layers) and what is
recomputed; a plan adds what is sharded and offloaded, over how many ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import product

import numpy as np

from planner.ir.model_graph import AttentionCore, Experts, Linear, ModelGraph, StateCore
from planner.ir.training import TrainingChoices, TrainingWorkload
from planner.space.training.partition import chunk_sizes
from planner.space.training.plans import (
    FITTED,
    GRADIENTS,
    OFFLOADS,
    RECOMPUTES,
    SCHEDULES,
    IntArray,
    PlanArrays,
    away,
    concatenate,
)

MOST_DROPPED = 4
"""Layers by which the first and the last chunk may be shorter, to make room for embedding and head."""
MOST_CHUNKS = 32
SMALLEST_SHARD_TOKENS = 1024
"""Context parallelism is not tried below this many tokens per rank, unless it is fixed."""
_MOST_CP = 256


def divisors(value: int) -> list[int]:
    """Return the divisors of a positive integer, ascending."""
    small = [d for d in range(1, int(value**0.5) + 1) if value % d == 0]
    return small + [value // d for d in reversed(small) if d * d != value]


def tensor_degrees(model: ModelGraph, most: int) -> list[int]:
    """Return the TP degrees up to `most` that split heads and widths evenly and pair KV heads with ranks."""
    ops = {op for layer in model.layers for op in layer.ops}
    cores = [op for op in ops if isinstance(op, AttentionCore | StateCore)]
    widths = [model.hidden_size, *(core.num_heads for core in cores)]
    for op in ops:
        if isinstance(op, Linear) and not op.num_units and op.shard in ("column", "row"):
            widths.append(op.out_features if op.shard == "column" else op.in_features)
    keys = {core.num_kv_heads for core in cores if isinstance(core, AttentionCore) and core.kind == "gqa"}
    found = divisors(int(np.gcd.reduce(widths)))
    return [tp for tp in found if tp <= most and all(kv % tp == 0 or tp % kv == 0 for kv in keys)]


def expert_degrees(model: ModelGraph, tp: int) -> list[tuple[int, int]]:
    """Return (ep, etp): experts evenly over ep ranks, each split etp ways, etp a divisor of tp."""
    found = {op for layer in model.layers for op in layer.ops if isinstance(op, Experts)}
    if not found:
        return [(1, 1)]
    spread = divisors(int(np.gcd.reduce([op.num_experts for op in found])))
    width = int(np.gcd.reduce([op.inter for op in found]))
    return [(ep, etp) for etp in divisors(tp) if width % etp == 0 for ep in spread]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What may be chosen on one node group."""

    model: ModelGraph
    workload: TrainingWorkload
    choices: TrainingChoices
    num_devices: int

    def fixed(self, name: str, values: list[int]) -> list[int]:
        """Return `values`, or of them the one that is fixed."""
        pinned = dict(self.choices.fixed).get(name)
        return values if pinned is None else [v for v in values if v == int(pinned)]

    def word(self, name: str, values: tuple[str, ...]) -> list[str]:
        """Return `values`, or of them the one that is fixed."""
        pinned = dict(self.choices.fixed).get(name)
        return [v for v in values if pinned is None or v == pinned]

    def context_degrees(self) -> list[int]:
        """Return the CP degrees: two balanced pieces of a sequence per rank."""
        seq = self.workload.seq_len
        pinned = "cp" in dict(self.choices.fixed)
        found = [c for c in divisors(seq) if c == 1 or seq % (2 * c) == 0]
        large = [c for c in found if c <= _MOST_CP and (c == 1 or seq // c >= SMALLEST_SHARD_TOKENS)]
        return self.fixed("cp", found if pinned else large)


def exchange_degrees(model: ModelGraph, tp: int, cp: int) -> list[int]:
    """Return how many of `cp` context ranks may exchange heads: they share out the heads of a tensor rank."""
    ops = {op for layer in model.layers for op in layer.ops}
    if cp == 1 or any(isinstance(op, StateCore) for op in ops):
        return [1]
    heads = int(np.gcd.reduce([op.num_heads for op in ops if isinstance(op, AttentionCore)] or [1])) // tp
    return [u for u in divisors(cp) if heads % u == 0]


def plan_columns(count: int, **values: IntArray | int) -> PlanArrays:
    """Return plans whose columns are `values`, and zero (one for degrees) where there is none.

    Columns of one value take no room, and cannot be written to.
    """
    ones = {"ep", "etp", "num_chunks", "dp_shard", "cp_ulysses"}
    found = {
        f.name: np.broadcast_to(np.int64(values.get(f.name, int(f.name in ones))), count)
        if not isinstance(values.get(f.name), np.ndarray)
        else values[f.name]
        for f in fields(PlanArrays)
    }
    return PlanArrays(**found)  # pyright: ignore[reportArgumentType] - every value is an array by now


def points(space: Space) -> Iterator[PlanArrays]:
    """Yield the points of every shape (tp, cp, ulysses, ep, etp, sequence parallelism), one by one.

    The global batch is honoured exactly: dp times the micro-batch divides it.
    """
    model, most = space.model, space.num_devices
    pinned = dict(space.choices.fixed).get("sequence_parallel")
    for tp in space.fixed("tp", tensor_degrees(model, most)):
        parallel = tp > 1 if pinned is None else bool(pinned) and tp > 1
        for cp in space.context_degrees():
            base = _pipelines(space, tp * cp)
            if not len(base[0]):
                continue
            exchanges = space.fixed("cp_ulysses", exchange_degrees(model, tp, cp))
            for (ep, etp), ulysses in product(expert_degrees(model, tp), exchanges):
                if space.fixed("ep", [ep]) and space.fixed("etp", [etp]):
                    yield from _shape(base, (tp, cp, ulysses, ep, etp, int(parallel)))


def _shape(
    base: tuple[IntArray, IntArray, IntArray], shape: tuple[int, int, int, int, int, int]
) -> Iterator[PlanArrays]:
    pp, dp, micro_batch = base
    tp, cp, ulysses, ep, etp, parallel = shape
    spread = (dp * cp * tp) % (ep * etp) == 0
    if spread.any():
        yield plan_columns(
            int(spread.sum()),
            tp=tp,
            cp=cp,
            cp_ulysses=ulysses,
            ep=ep,
            etp=etp,
            sequence_parallel=parallel,
            pp=pp[spread],
            dp=dp[spread],
            micro_batch=micro_batch[spread],
            dp_shard=dp[spread],
        )


def _pipelines(space: Space, ranks: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return every (pp, dp, micro-batch) with `ranks` ranks in a tensor and context group."""
    most = space.num_devices // ranks
    batch, largest = space.workload.global_batch, space.choices.max_micro_batch
    rows: list[tuple[int, int, int]] = []
    pinned = "micro_batch" in dict(space.choices.fixed)
    for pp in space.fixed("pp", list(range(1, min(len(space.model.layers), most) + 1))):
        for dp in space.fixed("dp", [d for d in divisors(batch) if d * pp <= most]):
            sizes = [b for b in divisors(batch // dp) if pinned or b <= largest]
            rows.extend((pp, dp, b) for b in space.fixed("micro_batch", sizes))
    table = np.array(rows, dtype=np.int64).reshape(len(rows), 3)
    return table[:, 0], table[:, 1], table[:, 2]


def rows(space: Space, coarse: PlanArrays) -> PlanArrays:
    """Return every row of the points `coarse`: schedule, chunks, split of the layers, recompute.

    Interleaving takes micro-batches in rounds of pp; zero-bubble schedules fill their gaps from two per
    stage on.
    """
    recomputes = recompute_options(space)
    parts: list[IntArray] = []
    options: list[IntArray] = []
    for pp in np.unique(coarse.pp):
        here = np.flatnonzero(coarse.pp == pp)
        found = [(*ways, *r) for ways in pipeline_options(space, int(pp)) for r in recomputes]
        table = np.array(found, dtype=np.int64).reshape(len(found), 6)
        parts.append(np.repeat(here, len(table)))
        options.append(np.tile(table, (len(here), 1)))
    index = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    table = np.concatenate(options) if options else np.zeros((0, 6), dtype=np.int64)
    found = replace(
        coarse.take(index),
        num_chunks=table[:, 0],
        schedule=table[:, 1],
        first_drop=table[:, 2],
        last_drop=table[:, 3],
        recompute=table[:, 4],
        recompute_layers=table[:, 5],
    )
    num_micro = space.workload.global_batch // (found.dp * found.micro_batch)
    rounds = (found.schedule != SCHEDULES.index("interleaved")) | (num_micro % found.pp == 0)
    zero_bubble = [SCHEDULES.index(name) for name in ("zb-h1", "zb-h2", "zb-v")]
    filled = ~np.isin(found.schedule, zero_bubble) | (num_micro >= 2 * found.pp)
    return found.take(np.flatnonzero(rounds & filled))


def recompute_options(space: Space) -> list[tuple[int, int]]:
    """Return (recompute, layers) that a row may have.

    Where nothing and everything may be recomputed, and the software can stop in between, one option stands
    for all of that: fewer layers are faster and hold more, so that the least that fits is best.
    """
    allowed = space.word("recompute", space.choices.recomputes)
    pinned = int(dict(space.choices.fixed).get("recompute_layers", 0))
    if pinned:
        return [(RECOMPUTES.index("full"), pinned)] if "full" in allowed else []
    if space.choices.partial_recompute and {"none", "full"} <= set(allowed):
        rest = [(RECOMPUTES.index(r), 0) for r in allowed if r == "selective"]
        return [(RECOMPUTES.index("none"), FITTED), *rest]
    return [(RECOMPUTES.index(r), 0) for r in allowed]


def pipeline_options(space: Space, pp: int) -> list[tuple[int, int, int, int]]:
    """Return (chunks, schedule, first drop, last drop) that a pipeline of `pp` stages can run."""
    schedules = tuple(s for s in space.choices.schedules if s in SCHEDULES)
    names = tuple(space.word("schedule", schedules)) or tuple(space.word("schedule", SCHEDULES))
    chunks = tuple(space.fixed("num_chunks", list(range(1, MOST_CHUNKS + 1))))
    return list(_options(len(space.model.layers), pp, names, chunks))


@lru_cache(maxsize=4096)
def _options(
    num_layers: int, pp: int, names: tuple[str, ...], chunks: tuple[int, ...]
) -> tuple[tuple[int, int, int, int], ...]:
    if pp == 1:
        return ((1, SCHEDULES.index("1f1b"), 0, 0),) if 1 in chunks else ()
    found: list[tuple[int, int, int, int]] = []
    seen: set[tuple[int, int, tuple[int, ...]]] = set()
    for name in names:
        laps = [c for c in chunks if _runs(name, c) and c * pp <= num_layers + 2]
        for count in laps:
            for first, last in product(range(MOST_DROPPED + 1), repeat=2):
                if count > 1 and (num_layers + first + last) % (pp * count):
                    continue
                sizes = chunk_sizes(num_layers, pp * count, first, last)
                key = (count, SCHEDULES.index(name), sizes or ())
                if sizes is None or (count == 1 and min(sizes) < 1):
                    continue  # every stage holds a layer
                if key not in seen:
                    seen.add(key)
                    found.append((count, SCHEDULES.index(name), first, last))
    return tuple(found)


def _runs(name: str, num_chunks: int) -> bool:
    """Return whether a schedule runs with so many chunks per device."""
    if name == "interleaved":
        return num_chunks > 1
    return num_chunks == (2 if name == "zb-v" else 1)


def sharded(space: Space, found: PlanArrays) -> PlanArrays:
    """Return every plan of the rows `found`: ZeRO level, ranks that share the states, offload, gradients.

    ZeRO-3 gathers parameters for every micro-batch of every chunk; it is tried wherever a rank has others
    to share with. Level 0 shares with nobody, so its ranks are all replicas.
    """
    zeros = space.fixed("zero", list(space.choices.zeros))
    offloads = [OFFLOADS.index(o) for o in space.word("offload", space.choices.offloads)]
    parts: list[IntArray] = []
    options: list[IntArray] = []
    keys = found.dp * 1000 + found.cp
    for key in np.unique(keys):
        here = np.flatnonzero(keys == key)
        dp, cp = int(found.dp[here[0]]), int(found.cp[here[0]])
        table = np.array(_sharings(space, dp, cp, zeros, offloads), dtype=np.int64).reshape(-1, 4)
        parts.append(np.repeat(here, len(table)))
        options.append(np.tile(table, (len(here), 1)))
    index = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    table = np.concatenate(options) if options else np.zeros((0, 4), dtype=np.int64)
    return _decided(
        replace(
            found.take(index),
            zero=table[:, 0],
            dp_shard=table[:, 1],
            offload=table[:, 2],
            gradients=table[:, 3],
        )
    )


def _decided(plans: PlanArrays) -> PlanArrays:
    """Return plans that recompute nothing or everything where activations are on the host.

    Memory asks for no layers in between then: two layers that are kept take no more than one that is kept and
    one that is rebuilt.
    """
    open_ = (plans.recompute_layers == FITTED) & away(plans, "activations")
    if not open_.any():
        return plans
    part = plans.take(open_)
    none = np.zeros_like(part.recompute)
    ways = [
        replace(part, recompute=none + RECOMPUTES.index(way), recompute_layers=none)
        for way in ("none", "full")
    ]
    return concatenate([plans.take(~open_), *ways])


def _sharings(
    space: Space, dp: int, cp: int, zeros: list[int], offloads: list[int]
) -> list[tuple[int, int, int, int]]:
    found: list[tuple[int, int, int, int]] = []
    for zero in zeros:
        shards = [dp] if zero == 0 else [d for d in divisors(dp) if d * cp > 1]
        for shard in space.fixed("dp_shard", shards):
            formats = gradient_formats(space, (dp, shard, cp), zero)
            found.extend((zero, shard, *rest) for rest in product(offloads, formats))
    return found


def _has_experts(model: ModelGraph) -> bool:
    return any(isinstance(op, Experts) for layer in model.layers for op in layer.ops)


def gradient_formats(space: Space, ranks: tuple[int, int, int], zero: int) -> list[int]:
    """Return the formats in which `ranks` (dp, shard, cp) may reduce gradients under a ZeRO level.

    ZeRO++ is part of ZeRO-3 over all ranks, 1-bit Adam keeps whole states; neither knows experts.
    """
    dp, shard, cp = ranks
    names = space.word("gradients", space.choices.gradients)
    allowed = {"full", "bf16"}
    if dp * cp > 1 and not allowed.issuperset(names) and not _has_experts(space.model):
        allowed |= {"int4"} if zero == 3 and shard == dp else set()
        allowed |= {"1bit"} if zero == 0 else set()
    return [GRADIENTS.index(name) for name in GRADIENTS if name in names and name in allowed]
