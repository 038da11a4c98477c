"""Explains fleet plans: what each model gets, what is left over, what more hardware or less rule is worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

from planner.errors import InputError, UnknownNameError
from planner.ir.cluster import NodeGroup
from planner.ir.fleet import FleetModel, FleetProblem
from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem
from planner.plan.parts import model_parts
from planner.plan.schema import Plan
from planner.report.explanation import EXPLAINERS, Bottleneck, Variation
from planner.report.figures import figure, percent
from planner.report.serving_steps import pool_bottlenecks

FleetCase = Problem[FleetProblem]
_MODES = ("aggregated", "disaggregated")


class FleetExplainer:
    """Knows which changes of a fleet are worth asking about."""

    def facts(self, problem: FleetCase, plan: Plan) -> list[str]:
        """Return sentences on each model and on what the inventory has left."""
        return [*_model_facts(problem, plan), *_left_over(problem, plan), *_level_facts(plan)]

    def bottlenecks(self, problem: FleetCase, plan: Plan) -> list[Bottleneck]:
        """Return the breakdown of steps per pool of every priced model."""
        return [
            found
            for part in model_parts(plan, problem)
            for pool in part.plan.pools
            for found in pool_bottlenecks(part.problem, pool)
        ]

    def variations(self, problem: FleetCase, plan: Plan) -> list[Variation]:
        """Return one more node of each group, and each budget, cap and availability rule lifted."""
        if plan.status == "infeasible":
            return []
        return [*_more_nodes(problem), *_lifted(problem)]

    def fixed(self, problem: FleetCase, choices: Mapping[str, object]) -> FleetCase:
        """Return the problem with a choice made: a group (``chat=h200``), a mode or a degree (``chat.tp=4``).

        Raises
        ------
        InputError
            If there is no such model, group or choice.
        """
        models = {model.name: model for model in problem.payload.models}
        for key, value in choices.items():
            name, choice = _split(key, models)
            if choice or value in _MODES:
                models[name] = _chosen(problem, models[name], {choice or "mode": value})
            else:
                own = _groups(problem, key, value)
                places = tuple((role, own) for role in ("aggregated", "prefill", "decode", "stage"))
                models[name] = replace(models[name], places=places)
        return _with_models(problem, tuple(models.values()))


def _split(key: str, models: Mapping[str, FleetModel]) -> tuple[str, str]:
    """Return the model and the choice of a key; names of models may hold dots themselves."""
    if key in models:
        return key, ""
    name, _, choice = key.rpartition(".")
    if name not in models:
        raise UnknownNameError("model of the fleet", name or key, list(models))
    return name, choice


def _groups(problem: FleetCase, key: str, value: object) -> tuple[str, ...]:
    groups = problem.cluster.groups
    own = tuple(g.name for g in groups if value in (g.name, g.device.name))
    if not own:
        known = sorted({n for g in groups for n in (g.name, g.device.name)})
        raise InputError(
            "no such group or device kind", key=key, value=value, allowed=", ".join((*known, *_MODES))
        )
    return own


def _chosen(problem: FleetCase, model: FleetModel, choices: Mapping[str, object]) -> FleetModel:
    """Return a model with a choice made as a serving plan would make it."""
    if model.serving is None:
        raise InputError("a stated stage has nothing to choose", key=model.name, value=dict(choices))
    alone = Problem(
        kind="serving",
        name=model.name,
        cluster=problem.cluster,
        objective=problem.objective,
        budget=problem.budget,
        options=problem.options,
        payload=model.serving,
    )
    fixed = EXPLAINERS.get("serving").fixed(alone, choices)
    return replace(model, serving=cast("ServingProblem", fixed.payload))


def _with_models(problem: FleetCase, models: tuple[FleetModel, ...]) -> FleetCase:
    return replace(problem, payload=replace(problem.payload, models=models))


def _model_facts(problem: FleetCase, plan: Plan) -> Iterator[str]:
    stated = cast("Mapping[str, Mapping[str, Any]]", plan.details.get("models", {}))
    for model in problem.payload.models:
        pools = [pool for pool in plan.pools if pool.model == model.name]
        served = float(stated.get(model.name, {}).get("served_rps", 0.0))
        if not pools:
            yield f"{model.name}: no replicas ({figure(model.rate_rps, 'requests/s')} asked)."
            continue
        words = ", ".join(f"{p.replicas} x {p.role} on {p.node_group}" for p in pools)
        capacity = stated.get(model.name, {}).get("predicted", {}).get("capacity_rps", {}).get("value")
        load = f", {percent(round(served / capacity, 3))} of what they carry" if capacity else ""
        yield f"{model.name}: {words}; {figure(served, 'requests/s')} served{load}."


def _left_over(problem: FleetCase, plan: Plan) -> Iterator[str]:
    groups = {pool.name: pool.node_group for pool in plan.pools}
    used: Counter[str] = Counter()
    for seat in plan.placement:
        used[groups[seat.pool]] += len(seat.devices)
    for group in problem.cluster.groups:
        yield f"{group.name}: {used[group.name]} of {group.num_devices} devices are used."


def _level_facts(plan: Plan) -> Iterator[str]:
    levels = plan.details.get("levels")
    for level in cast("list[Mapping[str, Any]]", levels) if isinstance(levels, list) else []:
        starts = ", ".join(f"{n} x {name}" for name, n in level["start"].items()) or "nothing"
        devices = figure(float(level["predicted"]["num_devices"]), "devices")
        yield f"Level {level['name']}: {devices} for {level['hours']:g} h; starts {starts}."


def _more_nodes(problem: FleetCase) -> Iterator[Variation]:
    groups = problem.cluster.groups
    for index, group in enumerate(groups):
        cluster = replace(problem.cluster, groups=(*groups[:index], _grown(group), *groups[index + 1 :]))
        yield Variation(
            sort="resource",
            change=f"one more node of {group.devices_per_node} {group.device.name}",
            problem=replace(problem, cluster=cluster),
        )


def _grown(group: NodeGroup) -> NodeGroup:
    """Return the group with one more cell of its innermost level: a node, or a rack-scale domain."""
    nodes = max(1, group.domain_size // group.devices_per_node)
    names = group.node_names
    if names:
        names = (*names, *(f"{group.name}-more-{i}" for i in range(nodes)))
    grown = replace(group, num_nodes=group.num_nodes + nodes, node_names=names)
    last = group.levels[-1]
    outer = replace(last, num_devices=max(last.num_devices, grown.num_devices))
    return replace(grown, levels=(*group.levels[:-1], outer) if len(group.levels) > 1 else group.levels)


def _lifted(problem: FleetCase) -> Iterator[Variation]:
    for field, unit in (("num_devices", "devices"), ("usd_per_hour", "USD/h"), ("power_w", "W")):
        limit = getattr(problem.budget, field)
        if limit is not None:
            budget = replace(problem.budget, **{field: None})
            words = f"at most {figure(float(limit), unit)}"
            yield Variation(sort="limit", change=words, problem=replace(problem, budget=budget))
    payload = problem.payload
    if payload.rack_cap_w is not None:
        lifted = replace(payload, rack_cap_w=None)
        words = f"at most {figure(payload.rack_cap_w, 'W')} in a rack"
        yield Variation(sort="limit", change=words, problem=replace(problem, payload=lifted))
    for index, model in enumerate(payload.models):
        if model.tolerance is not None:
            models = (*payload.models[:index], replace(model, tolerance=None), *payload.models[index + 1 :])
            words = (
                f"{model.name} survives the loss of {model.tolerance.num_lost} {model.tolerance.domain}(s)"
            )
            yield Variation(sort="limit", change=words, problem=_with_models(problem, models))


EXPLAINER = FleetExplainer()
