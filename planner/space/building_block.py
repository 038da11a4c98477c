"""Schedules on a V of stages, from one building block per micro-batch repeated every six slots.

A slot is the time of one pass of one chunk. On its way through the V (forth over the devices as chunk 0,
back as chunk 1, then the same for the gradient) a micro-batch advances by a constant number of slots per
device on each of the four legs: the slopes. Slopes fix how long activations live, hence the memory; waits
at the three turns are chosen so that the operations of a device never fall on the same slot modulo six.
Weight gradients take the slots that are left.

Source: the way of thinking is that of Qi et al., Pipeline Parallelism with Controllable Memory, NeurIPS 2024
(arXiv 2405.15362), section 3; slopes and waits are found here by enumeration.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

from planner.errors import InputError
from planner.ir.pipeline_schedule import DeviceOps, PassKind, PipelineOp, PipelineWork, uniform_work
from planner.space.schedule_family import op, require_layout
from planner.space.schedule_squeeze import SqueezePolicy, squeeze

PERIOD = 6
Slopes = tuple[int, int, int, int]
# (kind, chunk, slot) of the six operations of one micro-batch on one device.
_Block = tuple[tuple[PassKind, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildingBlock:
    """Slots of one micro-batch on every device, and the largest memory of a device in half activations."""

    rows: tuple[_Block, ...]
    peak_halves: int
    latency: int


def _legs(num_devices: int, slopes: Slopes, waits: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    last = num_devices - 1
    first, second, third = waits
    turn_1 = slopes[0] * last + 1 + first
    turn_2 = turn_1 + slopes[1] * last + 1 + second
    turn_3 = turn_2 + slopes[2] * last + 1 + third
    return [
        (
            slopes[0] * d,
            turn_1 + slopes[1] * (last - d),
            turn_2 + slopes[2] * d,
            turn_3 + slopes[3] * (last - d),
        )
        for d in range(num_devices)
    ]


def _row(leg: tuple[int, int, int, int]) -> _Block | None:
    """Return the six operations of a device, or None where two of the four passes share a slot."""
    forward_0, forward_1, input_1, input_0 = leg
    taken = {slot % PERIOD for slot in leg}
    if len(taken) < 4:
        return None
    ops: list[tuple[PassKind, int, int]] = [
        ("F", 0, forward_0),
        ("F", 1, forward_1),
        ("I", 1, input_1),
        ("I", 0, input_0),
    ]
    for chunk, after in ((1, input_1), (0, input_0)):
        slot = next(s for s in range(after + 1, after + PERIOD) if s % PERIOD not in taken)
        taken.add(slot % PERIOD)
        ops.append(("W", chunk, slot))
    return tuple(sorted(ops, key=lambda entry: entry[2]))


def _peak_halves(row: _Block) -> int:
    """Return the most forward passes of chunks whose input gradient is not done, once the block repeats."""
    begin = {chunk: slot for kind, chunk, slot in row if kind == "F"}
    end = {chunk: slot + 1 for kind, chunk, slot in row if kind == "I"}
    return max(
        sum(-((t - end[c]) // PERIOD) - -((t - begin[c]) // PERIOD) for c in begin) for t in range(2 * PERIOD)
    )


def find_block(num_devices: int, slopes: Slopes) -> BuildingBlock | None:
    """Return the block of least memory, then of least latency, over all waits below one period."""
    found = blocks_of(num_devices, slopes)
    return min(found, key=lambda block: (block.peak_halves, block.latency)) if found else None


@cache
def blocks_of(num_devices: int, slopes: Slopes) -> tuple[BuildingBlock, ...]:
    """Return the blocks of all waits below one period."""
    blocks: list[BuildingBlock] = []
    for waits in product(range(PERIOD), repeat=3):
        rows: list[_Block] = []
        for leg in _legs(num_devices, slopes, waits):
            row = _row(leg)
            if row is None:
                break
            rows.append(row)
        if len(rows) < num_devices:
            continue
        blocks.append(
            BuildingBlock(
                rows=tuple(rows), peak_halves=max(map(_peak_halves, rows)), latency=rows[0][-1][2] + 1
            )
        )
    return tuple(blocks)


def unroll(work: PipelineWork, block: BuildingBlock) -> DeviceOps:
    """Return the orders in which micro-batch m runs `block` m periods later than micro-batch 0."""
    count = work.num_devices
    rows: list[tuple[PipelineOp, ...]] = []
    for device, row in enumerate(block.rows):
        stage_of = (device, 2 * count - 1 - device)
        entries: list[tuple[int, int, PassKind, int]] = [
            (slot + PERIOD * m, m, kind, chunk)
            for m in range(work.num_microbatches)
            for kind, chunk, slot in row
        ]
        slots = sorted(entries)
        rows.append(tuple(op(kind, stage_of[chunk], m) for _, m, kind, chunk in slots))
    return tuple(rows)


def build_v(work: PipelineWork, title: str, *, slopes: Slopes, weights_last: bool) -> DeviceOps:
    """Return the orders of the block with `slopes`, gaps filled within the memory it needs anyway.

    The orders are those for passes of equal length, whatever the lengths in `work`: that is how the
    named schedules are defined.

    Raises
    ------
    InputError
        If the layout is not a V of two chunks per device, or no block of these slopes exists.
    """
    require_layout(work, title, 2, v_shape=True)
    block = find_block(work.num_devices, slopes)
    if block is None:
        raise InputError(f"{title} has no building block for this many devices", value=work.num_devices)
    peak = block_memory(work.num_devices, slopes)
    unit = uniform_work(
        num_devices=work.num_devices,
        num_microbatches=work.num_microbatches,
        pass_times_s=(2.0, 2.0, 2.0),
        num_chunks=2,
        v_shape=True,
        memory_limit_bytes=peak,
    )
    policy = SqueezePolicy(weights_last=weights_last)
    return squeeze(unit, unroll(unit, block), policy)


def block_memory(num_devices: int, slopes: Slopes) -> float:
    """Return the memory, in activations of one micro-batch on one device, that the slopes are given.

    Slopes sum to s: activations of a micro-batch live for about s (p - 1) slots, of which a period has six.
    """
    total = sum(slopes)
    if total == 4:
        return float(-(-(num_devices + 2) // 3))
    return min(float(num_devices), num_devices * total / 12 + 1)
