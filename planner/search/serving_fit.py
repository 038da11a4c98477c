"""Why not even one replica can be had: fixed degrees, formats, devices or memory, and what would change it.

Every relaxation that is named was found by trying it against the memory model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.ir.candidates import BindingLimit, InfeasibilityReport
from planner.ir.serving import ServingChoices, ServingProblem
from planner.ir.workload import Lengths
from planner.search.serving_catalogue import Catalogue, roles_of
from planner.space.compose import ReplicaShape, shapes
from planner.space.dimension import SpaceFacts
from planner.space.engine import executed_on
from planner.space.memory import device_capacity_bytes
from planner.space.replica import ReplicaBuilder, requests_of

_MOST_TIMES = 16
"""How many times the devices of a group are tried."""
_NARROWER = ("fp8", "int8", "fp4", "nvfp4", "mxfp4", "int4")
_BISECTIONS = 12
Relaxed = tuple[tuple[str, float | str], ...]


def explain_no_replica(catalogue: Catalogue) -> InfeasibilityReport:
    """Return why there is no replica at all, and the nearest change with which there is one."""
    payload = catalogue.problem.payload
    if not any(True for _ in _fitting(catalogue, payload, memory=False)):
        return _no_shape(catalogue)
    capacity = max(device_capacity_bytes(group) * group.num_devices for group in catalogue.groups)
    binding = BindingLimit(
        name="memory_bytes",
        limit=capacity,
        best_reachable=None,
        unit="bytes",
        message=f"no replica of {payload.model.name} fits: weights, buffers and one request of the longest "
        f"length exceed the memory of every allowed shape ({catalogue.num_shapes} tried)",
    )
    changes = list(_changes(catalogue))
    if not changes:
        words = "take devices with more memory: no number of these, narrower format or shorter request helps"
        return InfeasibilityReport(
            binding=(binding,), nearest_relaxation=words, relaxed=(("device", "larger"),)
        )
    words = "; or ".join(text for text, _ in changes)
    return InfeasibilityReport(binding=(binding,), nearest_relaxation=words, relaxed=changes[0][1])


def _changes(catalogue: Catalogue) -> Iterator[tuple[str, Relaxed]]:
    """Yield single changes that make a replica fit, in words and as values."""
    payload, budget = catalogue.problem.payload, catalogue.problem.budget.num_devices
    if payload.choices.fixed:
        free = replace(payload, choices=replace(payload.choices, fixed=()))
        if any(True for _ in _fitting(catalogue, free)):
            names = ", ".join(f"{name}={value}" for name, value in payload.choices.fixed)
            yield f"do not fix {names}", tuple((f"fix.{name}", "none") for name, _ in payload.choices.fixed)
    least = _least_devices(catalogue, payload)
    if least is not None:
        count, name, owned = least
        if budget is not None and count <= owned:
            yield f"set budget.num_devices to {count}", (("budget.num_devices", float(count)),)
        elif count > owned or budget is not None:
            yield f"use {count} {name} instead of {owned}", (("cluster.num_devices", float(count)),)
    for fmt in _NARROWER:
        narrower = replace(payload, choices=replace(payload.choices, weight_fmts=(fmt,)))
        if fmt not in payload.choices.weight_fmts and any(True for _ in _fitting(catalogue, narrower)):
            yield f"allow {fmt} weights", (("formats.weights", fmt),)
            break
    loose = replace(payload, choices=replace(payload.choices, weight_offload=True))
    if not payload.choices.weight_offload and any(True for _ in _fitting(catalogue, loose)):
        words = "allow weights in host memory, streamed in every step (allow_weight_offload: true)"
        yield words, (("allow_weight_offload", "true"),)
    longest = _longest_request(catalogue, payload)
    if longest is not None:
        yield f"keep requests below {longest} tokens in all", (("workload.max_tokens", float(longest)),)


def _no_shape(catalogue: Catalogue) -> InfeasibilityReport:
    """Report that formats or fixed degrees leave no shape, whatever the memory."""
    payload = catalogue.problem.payload
    choices = payload.choices
    if not any(executed_on(g, fmt) is not None for g in catalogue.groups for fmt in choices.weight_fmts):
        names = ", ".join(choices.weight_fmts)
        binding = BindingLimit(
            name="formats.weights",
            limit=None,
            best_reachable=None,
            unit="",
            message=f"none of the devices computes with weights in {names}",
        )
        return InfeasibilityReport(
            binding=(binding,),
            nearest_relaxation="allow bf16 weights",
            relaxed=(("formats.weights", "bf16"),),
        )
    bindings: list[BindingLimit] = []
    relaxed: list[tuple[str, float | str]] = []
    for name, value in choices.fixed:
        others = _values_of(
            catalogue, replace(choices, fixed=tuple(f for f in choices.fixed if f[0] != name)), name
        )
        nearest = min(others, key=lambda other: (abs(other - value), other), default=None)
        bindings.append(
            BindingLimit(
                name=f"fix.{name}",
                limit=float(value),
                best_reachable=None if nearest is None else float(nearest),
                unit="",
                message=f"no valid shape has {name}={value}"
                + (f"; with all else as asked {name} may be {', '.join(map(str, others))}" if others else ""),
            )
        )
        if nearest is not None and not relaxed:
            relaxed.append((f"fix.{name}", float(nearest)))
    free = tuple((f"fix.{name}", "none") for name, _ in choices.fixed)
    words = f"set {relaxed[0][0]} to {relaxed[0][1]:g}" if relaxed else "do not fix these degrees together"
    return InfeasibilityReport(
        binding=tuple(bindings), nearest_relaxation=words, relaxed=tuple(relaxed) or free
    )


def _values_of(catalogue: Catalogue, choices: ServingChoices, name: str) -> list[int]:
    """Return the values of a degree that occur in valid shapes under other choices."""
    payload = replace(catalogue.problem.payload, choices=choices)
    attribute = {"cp": "prefill_cp"}.get(name, name)
    found = {
        int(getattr(shape.strategy, attribute, getattr(shape, attribute, 0)))
        for shape, _ in _fitting(catalogue, payload, memory=False)
    }
    return sorted(found - {0})


def _least_devices(catalogue: Catalogue, payload: ServingProblem) -> tuple[int, str, int] | None:
    """Return the fewest devices on which a replica fits, their name, and how many there are."""
    best: tuple[int, str, int] | None = None
    for index, group in enumerate(catalogue.groups):
        for shape, builder in _fitting(catalogue, payload, times=_MOST_TIMES, memory=False, group=index):
            size = shape.strategy.num_devices
            if (best is None or size < best[0]) and builder.fits_roughly(shape) and builder.fits(shape):
                best = (size, group.device.name, group.num_devices)
    return best


def _longest_request(catalogue: Catalogue, payload: ServingProblem) -> int | None:
    """Return the longest request that fits, in tokens of prompt and output together; None if none does."""
    most = payload.workload.lengths.max_total

    def fits(total: int) -> bool:
        short = Lengths(samples=((max(1, total - 1), 1, 1.0),))
        asked = replace(payload, workload=replace(payload.workload, lengths=short))
        return any(True for _ in _fitting(catalogue, asked))

    low, high = 2, most
    if most <= 2 or not fits(low):
        return None
    for _ in range(_BISECTIONS):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fitting(
    catalogue: Catalogue,
    payload: ServingProblem,
    *,
    times: int = 1,
    memory: bool = True,
    group: int | None = None,
) -> Iterator[tuple[ReplicaShape, ReplicaBuilder]]:
    """Yield valid shapes under a changed problem; with `memory`, those that fit and within the budget."""
    budget = catalogue.problem.budget.num_devices if times == 1 else None
    for (index, _), priced in catalogue.builders.items():
        where = catalogue.groups[index]
        if group not in (None, index):
            continue
        builder = ReplicaBuilder(problem=payload, group=where, costs=priced.costs)
        for role in roles_of(catalogue):
            facts = SpaceFacts(
                model=payload.model,
                group=where,
                engine=priced.costs,
                choices=payload.choices,
                requests=requests_of(payload.workload.lengths, payload.workload.prefix_hit_share),
                role=role,
                max_devices=min(where.num_devices * times, budget or where.num_devices * times),
            )
            for shape in shapes(facts):
                if not memory or (builder.fits_roughly(shape) and builder.fits(shape)):
                    yield shape, builder
