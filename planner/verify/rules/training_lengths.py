"""Batches of different lengths: every sequence stands in one group that holds it, and takes its time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from planner.verify.report import Violation
from planner.verify.rule import TRAINING, Case, Rule
from planner.verify.training.arithmetic import sequence_flops
from planner.verify.training.view import JobView, jobs, peak_flops_per_s

_ARITHMETIC = 1e-3


def _check(case: Case) -> Iterator[Violation]:
    for job in jobs(case):
        workload = job.problem.payload.workload
        if bool(workload.batches) != bool(job.settings.rank_tokens):
            yield Violation(message="sequences of one length are packed, or different ones are not")
            continue
        if workload.batches:
            for message in _messages(case, job):
                yield Violation(message=message)


def _messages(case: Case, job: JobView) -> Iterator[str]:
    details = cast("dict[str, Any]", case.plan.details.get("lengths", {}))
    listed = cast("list[dict[str, Any]]", details.get("batches", []))
    batches = job.problem.payload.workload.batches
    if len(listed) != len(batches):
        yield f"{len(listed)} batches are packed of {len(batches)}"
        return
    for number, (batch, found) in enumerate(zip(batches, listed, strict=True)):
        for message in _batch(job, batch, found):
            yield f"batch {number}: {message}"
    terms = cast("dict[str, float]", case.plan.details.get("step_time_terms_s", {}))
    stated = sum(terms.get(name, 0.0) for name in ("compute_s", "layer_comm_s", "imbalance_s"))
    mean = sum(float(found["time_s"]) for found in listed) / len(listed)
    if abs(stated - mean) > _ARITHMETIC * mean:
        yield f"the packings take {mean:.6g} s in the mean, the terms of the step say {stated:.6g}"


def _batch(job: JobView, batch: tuple[int, ...], found: dict[str, Any]) -> Iterator[str]:
    groups = cast("list[dict[str, Any]]", found["groups"])
    seen = sorted(i for group in groups for micro in group["microbatches"] for i in micro)
    if seen != list(range(len(batch))):
        yield "a sequence is missing, or stands in two micro-batches"
        return
    ranks, room = job.strategy.dp, job.settings.rank_tokens
    flops = sequence_flops(job.problem.payload.model, batch)
    per_rank = peak_flops_per_s(job) * job.strategy.tp
    busy = [0.0] * ranks
    for group in groups:
        first, degree = int(group["first_rank"]), int(group["degree"])
        if degree < 1 or degree & (degree - 1) or first % degree or not 0 <= first <= ranks - degree:
            yield f"a group of {degree} ranks from rank {first} is misplaced"
            return
        for micro in group["microbatches"]:
            tokens = sum(batch[i] for i in cast("list[int]", micro))
            if tokens > room * degree:
                yield f"{tokens} tokens do not fit {degree} ranks with room for {room} each"
        work = sum(flops[batch[i]] for micro in group["microbatches"] for i in micro)
        start = max(busy[first : first + degree])
        busy[first : first + degree] = [start + work / degree / per_rank] * degree
    stated = float(found["time_s"])
    if stated < max(busy) * (1 - _ARITHMETIC):
        yield f"the arithmetic takes {max(busy):.4g} s at the peak, the plan says {stated:.4g}"


RULE = Rule(
    says="sequences of different lengths stand in groups that hold them",
    check=_check,
    kinds=TRAINING,
    requires=("training-layers", "training-step"),
)
