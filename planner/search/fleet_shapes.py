"""Shapes that a fleet plan keeps, so that it can be re-planned without pricing everything again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from planner.errors import InputError
from planner.ir.fleet import FleetProblem
from planner.ir.problem import Problem
from planner.ir.strategy import ServingStrategy
from planner.search.fleet_columns import (
    Column,
    ModelSupply,
    catalogue_supply,
    serving_problem,
    stated_columns,
)
from planner.search.serving_catalogue import Offer, empty_catalogue
from planner.space.compose import ReplicaShape
from planner.space.engine import CostSource

ShapeFacts = dict[str, object]


def shapes_of(supply: ModelSupply) -> list[ShapeFacts]:
    """Return the shapes behind the columns of a model as plain values, in a fixed order."""
    if supply.tables is None:
        return []
    offers = supply.tables.catalogue.offers
    return [shape_facts(offers[index]) for index in _used(supply)]


def _used(supply: ModelSupply) -> list[int]:
    return sorted({column.offer for column in supply.columns})


def shape_number(supply: ModelSupply, column: Column) -> int:
    """Return the place of a column's shape among the stored ones; stated stages count their own shapes."""
    return column.offer if supply.tables is None else _used(supply).index(column.offer)


def shape_facts(offer: Offer) -> ShapeFacts:
    """Return one shape as plain values."""
    facts = cast("ShapeFacts", asdict(offer.replica.shape))
    return {**facts, "layers_per_stage": list(offer.replica.layers_per_stage)}


def supply_from(
    problem: Problem[FleetProblem], index: int, facts: Sequence[Mapping[str, Any]], costs: CostSource
) -> ModelSupply:
    """Return the columns of a model over stored shapes alone.

    Raises
    ------
    InputError
        If a stored shape cannot be read or priced.
    """
    model = problem.payload.models[index]
    if model.serving is None:
        return ModelSupply(columns=list(stated_columns(problem, index)))
    case = serving_problem(problem, model)
    groups = {group.name: at for at, group in enumerate(case.cluster.groups)}
    read = [_read(stored, list(groups)) for stored in facts]
    found: dict[int, Offer] = {}
    catalogue = empty_catalogue(case, costs, {(groups[shape.group], shape.engine): None for shape, _ in read})
    for key, builder in catalogue.builders.items():
        own = [at for at, (shape, _) in enumerate(read) if (groups[shape.group], shape.engine) == key]
        replicas = builder.build_exactly([read[at] for at in own])
        for at, replica in zip(own, replicas, strict=True):
            if replica is None:
                raise InputError("a stored shape no longer fits", key="details.shapes", value=dict(facts[at]))
            found[at] = Offer(replica=replica, group=key[0])
    catalogue.offers.extend(found[at] for at in range(len(read)))
    return catalogue_supply(problem, index, case, catalogue)


def _read(stored: Mapping[str, Any], groups: Sequence[str]) -> tuple[ReplicaShape, tuple[int, ...]]:
    try:
        fields = dict(stored)
        layers = tuple(int(n) for n in fields.pop("layers_per_stage"))
        strategy = ServingStrategy(**fields.pop("strategy"))
        shape = ReplicaShape(strategy=strategy, **fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"the plan holds a shape that cannot be read: {error}", key="details.shapes", value=dict(stored)
        ) from None
    if shape.group not in groups:
        raise InputError(
            "the plan holds a shape of an unknown group", key="details.shapes", value=shape.group
        )
    return shape, layers
