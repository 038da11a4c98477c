"""A longer step from a shorter one: the steady middle is repeated, warm-up and drain stay as they are."""

from __future__ import annotations

from statistics import median

from planner.ir.pipeline_schedule import DeviceOps, PipelineOp, PipelineSchedule, PipelineWork


def extend(short: PipelineSchedule, work: PipelineWork, *, block: int) -> DeviceOps:
    """Return orders for `work`, which is that of `short` with more micro-batches.

    Micro-batches before the middle keep their times and those after it come later by what is put in; in
    between, the `block` micro-batches from the middle on are repeated, each round one steady period
    later. The orders are those of these times; whoever uses them checks deadlock and memory.
    """
    count = short.work.num_microbatches
    added = work.num_microbatches - count
    middle = (count - block) // 2
    starts = {
        (op.kind, op.stage, op.microbatch): start
        for ops, row in zip(short.device_ops, short.start_s, strict=True)
        for op, start in zip(ops, row, strict=True)
    }
    # One period for all: then times rise along every dependency, and the orders cannot deadlock.
    period = median(
        (starts[op.kind, op.stage, middle + block] - start) / block
        for ops, row in zip(short.device_ops, short.start_s, strict=True)
        for op, start in zip(ops, row, strict=True)
        if op.microbatch == middle and (op.kind, op.stage, middle + block) in starts
    )
    rows: list[tuple[PipelineOp, ...]] = []
    for ops in short.device_ops:
        entries: list[tuple[float, int, PipelineOp]] = []
        for place, op in enumerate(ops):
            for microbatch, late in _copies(op.microbatch, middle, block, added):
                at = starts[op.kind, op.stage, op.microbatch] + late * period
                copy = PipelineOp(kind=op.kind, stage=op.stage, microbatch=microbatch)
                entries.append((at, place, copy))
        rows.append(tuple(entry[2] for entry in sorted(entries, key=lambda e: (e[0], e[1]))))
    return tuple(rows)


def _copies(microbatch: int, middle: int, block: int, added: int) -> list[tuple[int, int]]:
    """Return (number in the longer step, micro-batches later) of what one micro-batch becomes."""
    if microbatch < middle:
        return [(microbatch, 0)]
    if microbatch >= middle + block:
        return [(microbatch + added, added)]
    return [
        (microbatch + later, later)
        for later in range(0, added + block, block)
        if microbatch + later < middle + added + block
    ]
