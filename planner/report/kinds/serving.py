"""Explains serving plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import cast

from planner.errors import InputError, UnknownNameError
from planner.ir.problem import Problem
from planner.ir.serving import ServingChoices, ServingProblem
from planner.ir.workload import Slo
from planner.plan.schema import Plan
from planner.report.explanation import Bottleneck, Variation
from planner.report.figures import figure, percent
from planner.report.hardware_changes import faster_links, lifted_budgets, more_devices
from planner.report.serving_steps import pool_bottlenecks

ServingCase = Problem[ServingProblem]

_DEGREES = ("tp", "pp", "ep", "attention_dp", "moe_tp", "cp", "decode_cp", "token_budget", "max_num_seqs")
_CHOICES = {"weights": "weight_fmts", "kv": "kv_fmts", "engine": "engines", "mode": "modes"}
_LATENCIES = (("ttft", "ttft_s"), ("tpot", "tpot_s"), ("e2e", "e2e_s"))


class ServingExplainer:
    """Knows which changes of a serving problem are worth asking about."""

    def facts(self, problem: ServingCase, plan: Plan) -> list[str]:
        """Return sentences on load, devices left over, formats and memory."""
        return [*_load_facts(problem, plan), *_device_facts(problem, plan), *_memory_facts(plan)]

    def bottlenecks(self, problem: ServingCase, plan: Plan) -> list[Bottleneck]:
        """Return the breakdown of a mean decode step and of the prefill of a mean prompt, per pool."""
        return [found for pool in plan.pools for found in pool_bottlenecks(problem, pool)]

    def variations(self, problem: ServingCase, plan: Plan) -> list[Variation]:
        """Return each limit lifted, one more device or node, and each kind of link twice as fast."""
        if plan.status == "infeasible":
            return []
        return [*_lifted_limits(problem), *more_devices(problem), *faster_links(problem)]

    def fixed(self, problem: ServingCase, choices: Mapping[str, object]) -> ServingCase:
        """Return the problem with degrees, formats, engine or mode fixed.

        Raises
        ------
        InputError
            If there is no such choice, or its value is not one.
        """
        allowed = (*_DEGREES, *_CHOICES)
        current = problem.payload.choices
        fixed = dict(current.fixed)
        names: dict[str, tuple[str, ...]] = {}
        for name, value in choices.items():
            if name in _DEGREES:
                fixed[name] = _degree(name, value)
            elif name in _CHOICES:
                names[_CHOICES[name]] = (str(value),)
            else:
                raise UnknownNameError("choice", name, allowed)
        kept = {field: names.get(field, getattr(current, field)) for field in _CHOICES.values()}
        pinned = ServingChoices(
            **cast("dict[str, object]", kept),  # pyright: ignore[reportArgumentType] - names and types as declared
            max_num_seqs=current.max_num_seqs,
            token_budgets=current.token_budgets,
            costs=current.costs,
            fixed=tuple(sorted(fixed.items())),
        )
        return replace(problem, payload=replace(problem.payload, choices=pinned))


def _degree(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError("must be a whole number, one or more", key=name, value=value)
    return value


def _load_facts(problem: ServingCase, plan: Plan) -> Iterator[str]:
    workload = problem.payload.workload
    capacity = plan.predicted.get("capacity_rps")
    if workload.rate_rps is not None and capacity is not None and capacity.value > 0:
        share = workload.rate_rps / capacity.value
        load, most = figure(workload.rate_rps), figure(capacity.value)
        yield f"The load, {load} requests/s, is {percent(round(share, 3))} of what it carries ({most})."
    for name, field in _LATENCIES:
        limit, found = getattr(workload.slo, field), _predicted(plan, name, workload.slo.percentile)
        if limit is not None and found is not None:
            yield f"{name.upper()}: {figure(found, 's')} predicted, {figure(limit, 's')} allowed."


def _predicted(plan: Plan, name: str, percentile: float) -> float | None:
    key = f"{name}_p{percentile:g}_s" if percentile else f"{name}_s"
    quantity = plan.predicted.get(key)
    return quantity.value if quantity is not None else None


def _device_facts(problem: ServingCase, plan: Plan) -> Iterator[str]:
    used = len({device for seat in plan.placement for device in seat.devices})
    total = problem.cluster.num_devices
    if used < total:
        yield f"It uses {used} of {total} devices and leaves the others free."
    else:
        yield f"It uses all {total} devices."
    choices = problem.payload.choices
    for pool in plan.pools:
        if len(choices.weight_fmts) > 1:
            others = ", ".join(fmt for fmt in choices.weight_fmts if fmt != pool.weight_dtype)
            yield f"{pool.name}: {pool.weight_dtype} weights were chosen over {others}."


def _memory_facts(plan: Plan) -> Iterator[str]:
    for pool in plan.pools:
        fullest = max(pool.memory, key=lambda m: m.used_bytes / max(m.capacity_bytes, 1.0), default=None)
        if fullest is None:
            continue
        largest = max(fullest.parts, key=lambda part: part.num_bytes, default=None)
        share = fullest.used_bytes / max(fullest.capacity_bytes, 1.0)
        tail = f", most of it {largest.name.replace('_', ' ')}" if largest is not None else ""
        yield f"{pool.name}: the fullest device holds {percent(round(share, 3))} of its memory{tail}."


def _lifted_limits(problem: ServingCase) -> Iterator[Variation]:
    payload, slo = problem.payload, problem.payload.workload.slo
    for name, field in _LATENCIES:
        limit = getattr(slo, field)
        if limit is not None:
            values = {f: getattr(slo, f) for f in ("ttft_s", "tpot_s", "e2e_s")}
            lifted = Slo(**{**values, field: None}, percentile=slo.percentile)
            workload = replace(payload.workload, slo=lifted)
            yield Variation(
                sort="limit",
                change=f"{name} at most {figure(limit, 's')}",
                problem=replace(problem, payload=replace(payload, workload=workload)),
            )
    yield from lifted_budgets(problem)


EXPLAINER = ServingExplainer()
