"""Prices the models of a fleet, each apart from the others and therefore in several processes at once.

What the columns do not use is left behind: it is most of what pricing makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from planner.diagnostics import Diagnostic, Diagnostics
from planner.forks import each
from planner.ir.fleet import FleetModel, FleetProblem
from planner.ir.problem import Problem
from planner.search.fleet_columns import Column, ModelSupply, serving_problem, supply_of
from planner.search.fleet_shapes import supply_from
from planner.search.serving_catalogue import Offer, Stop, empty_catalogue
from planner.search.serving_pools import PoolTables
from planner.search.serving_question import Question
from planner.space.engine import CostSource


def supplies_of(
    problem: Problem[FleetProblem],
    costs: CostSource,
    diagnostics: Diagnostics,
    stop: Stop,
    meanwhile: Callable[[], None] | None = None,
) -> list[ModelSupply]:
    """Return the columns of every model; models without traffic or replicas to keep are not priced.

    `meanwhile` is what this process does first while others price already.
    """

    def price(index: int, remarks: Diagnostics) -> ModelSupply:
        return supply_of(problem, index, costs, remarks, stop)

    return _gathered(problem, price, costs, diagnostics, meanwhile)


def stored_supplies(
    problem: Problem[FleetProblem],
    stored: Mapping[str, Sequence[Mapping[str, Any]]],
    costs: CostSource,
    meanwhile: Callable[[], None] | None = None,
) -> list[ModelSupply]:
    """Return the columns of every model over the shapes that a plan keeps, by model; all shapes stay.

    Raises
    ------
    InputError
        If a stored shape cannot be read or priced.
    """

    def price(index: int, remarks: Diagnostics) -> ModelSupply:
        del remarks
        return supply_from(problem, index, stored.get(problem.payload.models[index].name, ()), costs)

    return _gathered(problem, price, costs, None, meanwhile)


Price = Callable[[int, Diagnostics], ModelSupply]


def _gathered(
    problem: Problem[FleetProblem],
    price: Price,
    costs: CostSource,
    diagnostics: Diagnostics | None,
    meanwhile: Callable[[], None] | None,
) -> list[ModelSupply]:
    """Return what pricing gives for every model; without diagnostics, with all offers."""
    models = problem.payload.models
    asked = [index for index, model in enumerate(models) if model.rate_rps > 0.0 or model.min_replicas]
    served = [index for index in asked if models[index].serving is not None]
    every = diagnostics is None
    told = diagnostics or Diagnostics()
    told.progress(f"pricing {len(served)} models")

    def task(at: int) -> _Priced:
        return _priced(price, served[at], every=every)

    found = dict(zip(served, each(len(served), task, meanwhile=meanwhile), strict=True))
    supplies: list[ModelSupply] = []
    for index, model in enumerate(models):
        own = found.get(index)
        if own is not None and own.columns:
            supplies.append(_supply(problem, model, own, costs))
        elif index in asked:
            # Without columns, what was priced says why.
            supplies.append(price(index, told))
        else:
            supplies.append(ModelSupply())
        for entry in own.remarks if own is not None else ():
            told.take(entry)
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


def _priced(price: Price, index: int, *, every: bool) -> _Priced:
    diagnostics = Diagnostics()
    supply = price(index, diagnostics)
    offers: Sequence[Offer] = () if supply.tables is None else supply.tables.catalogue.offers
    used = range(len(offers)) if every else sorted({column.offer for column in supply.columns})
    places = {offer: at for at, offer in enumerate(used)}
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
