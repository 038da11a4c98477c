"""Prices the models of a fleet, each apart from the others and therefore in several processes at once.

What the columns do not use is left behind: it is most of what pricing makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.diagnostics import Diagnostic, Diagnostics
from planner.ir.fleet import FleetModel, FleetProblem
from planner.ir.problem import Problem
from planner.search.fleet_columns import Column, ModelSupply, serving_problem, supply_of
from planner.search.forks import each
from planner.search.serving_catalogue import Offer, Stop, empty_catalogue
from planner.search.serving_pools import PoolTables
from planner.search.serving_question import Question
from planner.space.engine import CostSource


def supplies_of(
    problem: Problem[FleetProblem], costs: CostSource, diagnostics: Diagnostics, stop: Stop
) -> list[ModelSupply]:
    """Return the columns of every model; models without traffic or replicas to keep are not priced."""
    models = problem.payload.models
    asked = [index for index, model in enumerate(models) if model.rate_rps > 0.0 or model.min_replicas]
    priced = [index for index in asked if models[index].serving is not None]
    diagnostics.progress(f"pricing {len(priced)} models")

    def task(number: int) -> _Priced:
        return _priced(problem, priced[number], costs, stop)

    found = dict(zip(priced, each(len(priced), task), strict=True))
    supplies: list[ModelSupply] = []
    for index in range(len(models)):
        if index in found and found[index].columns:
            supplies.append(_supply(problem, models[index], found[index], costs))
        else:
            supplies.append(
                supply_of(problem, index, costs, diagnostics, stop) if index in asked else ModelSupply()
            )
        for entry in found[index].remarks if index in found else ():
            diagnostics.take(entry)
    return supplies


@dataclass(frozen=True, slots=True, kw_only=True)
class _Priced:
    """What pricing one model gave: its columns, and the offers behind them in their order."""

    columns: tuple[Column, ...]
    offers: tuple[Offer, ...]
    question: Question | None
    counts: tuple[int, int]
    complete: bool
    remarks: tuple[Diagnostic, ...]


def _priced(problem: Problem[FleetProblem], index: int, costs: CostSource, stop: Stop) -> _Priced:
    diagnostics = Diagnostics()
    supply = supply_of(problem, index, costs, diagnostics, stop)
    used = sorted({column.offer for column in supply.columns})
    places = {offer: at for at, offer in enumerate(used)}
    offers: Sequence[Offer] = () if supply.tables is None else supply.tables.catalogue.offers
    return _Priced(
        columns=tuple(replace(column, offer=places[column.offer]) for column in supply.columns),
        offers=tuple(offers[offer] for offer in used),
        question=supply.question,
        counts=(supply.num_shapes, supply.num_fitting),
        complete=supply.complete,
        remarks=tuple(diagnostics.entries),
    )


def _supply(
    problem: Problem[FleetProblem], model: FleetModel, priced: _Priced, costs: CostSource
) -> ModelSupply:
    case = serving_problem(problem, model)
    keys = {(offer.group, offer.replica.shape.engine): None for offer in priced.offers}
    catalogue = empty_catalogue(case, costs, keys)
    catalogue.offers.extend(priced.offers)
    return ModelSupply(
        columns=list(priced.columns),
        tables=PoolTables(catalogue=catalogue),
        question=priced.question,
        num_shapes=priced.counts[0],
        num_fitting=priced.counts[1],
        complete=priced.complete,
    )
