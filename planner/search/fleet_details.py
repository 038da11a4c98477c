"""What a fleet plan states beyond pools: what each model does, what runs at each level, how to get there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from planner.ir.candidates import Estimate
from planner.ir.fleet import FleetProblem, TrafficLevel
from planner.ir.problem import Problem
from planner.search.fleet_answer import ModelAnswer, totals_of
from planner.search.fleet_columns import ModelSupply
from planner.search.fleet_milp import ShapeKey, shape_key
from planner.search.fleet_shapes import shape_number, shapes_of

Level = tuple[TrafficLevel, list[ModelAnswer]]


def details_of(
    problem: Problem[FleetProblem],
    supplies: Sequence[ModelSupply],
    levels: Sequence[Level],
    main: int,
) -> tuple[tuple[str, object], ...]:
    """Return the details of a plan whose pools are those of the level `main`."""
    found: list[tuple[str, object]] = [
        ("models", _models(problem, levels[main][1])),
        ("queues", _queues(supplies, levels[main][1])),
        (
            "shapes",
            {m.name: shapes_of(s) for m, s in zip(problem.payload.models, supplies, strict=True)},
        ),
    ]
    if problem.payload.levels:
        found.append(("levels", [_level(problem, levels, at, main) for at in range(len(levels))]))
    return tuple(found)


def estimate_facts(estimate: Estimate) -> dict[str, object]:
    """Return an estimate as plain values."""
    return {
        "value": estimate.value,
        "unit": estimate.unit,
        "low": estimate.low,
        "high": estimate.high,
        "provenance": estimate.provenance.label,
    }


def _models(problem: Problem[FleetProblem], answers: Sequence[ModelAnswer]) -> dict[str, object]:
    return {
        model.name: {
            "asked_rps": model.rate_rps,
            "served_rps": answer.served_rps,
            "pools": [pool.name for pool in answer.pools],
            "predicted": {name: estimate_facts(value) for name, value in sorted(answer.predicted)},
        }
        for model, answer in zip(problem.payload.models, answers, strict=True)
    }


def _queues(
    supplies: Sequence[ModelSupply], answers: Sequence[ModelAnswer]
) -> dict[str, dict[str, int | float | bool]]:
    """Return, per pool, its equal queues, what one lost replica takes, and which stored shape it has."""
    return {
        pool.name: {
            "queues": queues,
            "replicas_per_queue": column.replicas,
            "loss_rps": column.loss_rps,
            "shape": shape_number(supplies[column.model], column),
            "split": column.split,
            "crosses": column.crosses,
        }
        for answer in answers
        for pool, queues, column in zip(answer.pools, answer.queues, answer.columns, strict=True)
    }


def _running(answers: Sequence[ModelAnswer]) -> Counter[ShapeKey]:
    counts: Counter[ShapeKey] = Counter()
    for answer in answers:
        for pool, column in zip(answer.pools, answer.columns, strict=True):
            counts[shape_key(column)] += pool.replicas
    return counts


def _names(levels: Sequence[Level], main: int) -> dict[ShapeKey, str]:
    """Return a name per shape: the pool of the main level that has it, else the first pool that does."""
    names: dict[ShapeKey, str] = {}
    for _, answers in (levels[main], *levels):
        for answer in answers:
            for pool, column in zip(answer.pools, answer.columns, strict=True):
                taken = shape_key(column) in names
                if not taken:
                    known = pool.name in names.values()
                    names[shape_key(column)] = f"{pool.name} on {pool.node_group}" if known else pool.name
    return names


def _level(problem: Problem[FleetProblem], levels: Sequence[Level], at: int, main: int) -> dict[str, object]:
    """Return what runs at a level, and what is started and stopped to get there from the one before."""
    level, answers = levels[at]
    names = _names(levels, main)
    now, before = _running(answers), _running(levels[at - 1][1])
    return {
        "name": level.name,
        "factor": level.factor,
        "hours": level.hours,
        "predicted": {name: value.value for name, value in totals_of(problem, answers)},
        "pools": {
            pool.name: {
                "role": column.role,
                "replicas": pool.replicas,
                "devices": pool.replicas * column.replica_devices,
                "node_group": pool.node_group,
            }
            for a in answers
            for pool, column in zip(a.pools, a.columns, strict=True)
        },
        "start": {names[key]: n - before[key] for key, n in now.items() if n > before[key]},
        "stop": {names[key]: n - now[key] for key, n in before.items() if n > now[key]},
        "started_devices": {
            problem.cluster.groups[group].name: count
            for group, count in sorted(_started_devices(answers, before).items())
        },
    }


def _started_devices(answers: Sequence[ModelAnswer], before: Counter[ShapeKey]) -> Counter[int]:
    now: Counter[ShapeKey] = Counter()
    size: dict[ShapeKey, tuple[int, int]] = {}
    for answer in answers:
        for pool, column in zip(answer.pools, answer.columns, strict=True):
            key = shape_key(column)
            now[key] += pool.replicas
            size[key] = (column.group, column.replica_devices)
    started: Counter[int] = Counter()
    for key, count in now.items():
        group, devices = size[key]
        started[group] += devices * max(0, count - before[key])
    return started
