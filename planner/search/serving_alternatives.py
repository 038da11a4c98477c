"""Runners-up: the best plan of every other kind of choice, and what it would cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.ir.candidates import AlternativeChoice
from planner.search.serving_answer import pool_choices, summary_of
from planner.search.serving_catalogue import Catalogue, Offer
from planner.search.serving_load import load_plan
from planner.search.serving_optimum import Optimum, best_solution
from planner.search.serving_pools import PoolTables
from planner.search.serving_question import Accept, Question

_REASON = "no plan of this kind meets the limits"
_GAP = 1e-4
"""How near to its optimum a runner-up over several groups is sought."""


def alternatives(
    tables: PoolTables, question: Question, best: Optimum, tie_tolerance: float, limit: int
) -> tuple[AlternativeChoice, ...]:
    """Return runners-up, nearest first; kinds without a feasible plan come last, with the reason."""
    found: list[AlternativeChoice] = []
    seen = {best.solution.picks}
    for label, narrowed in _kinds(tables.catalogue, replace(question, relative_gap=_GAP), best):
        if tables.out_of_time():
            break
        solution = best_solution(tables, narrowed)
        if solution is None:
            found.append(
                AlternativeChoice(
                    label=label,
                    summary=f"{label}: none",
                    objective_value=None,
                    relative=None,
                    tie=False,
                    pools=(),
                    reason=_REASON,
                )
            )
            continue
        if solution.picks in seen:
            continue
        seen.add(solution.picks)
        worse = _worse_by(question, best.solution.value, solution.value)
        if worse < -_GAP:
            # better on paper than a plan that had to be packed into scale-up domains: it cannot be packed
            continue
        found.append(
            AlternativeChoice(
                label=label,
                summary=f"{label}: {summary_of(tables, solution)}",
                objective_value=solution.value,
                relative=worse,
                tie=worse <= tie_tolerance,
                pools=pool_choices(tables, load_plan(tables, solution.picks, narrowed)),
            )
        )
    found.sort(key=lambda choice: (choice.relative is None, choice.relative or 0.0, choice.label))
    return tuple(found[:limit])


def _worse_by(question: Question, plan: float, other: float) -> float:
    sign = 1.0 if question.sense == "max" else -1.0
    return sign * (plan - other) / max(abs(plan), 1e-300)


def _kinds(catalogue: Catalogue, question: Question, best: Optimum) -> Iterator[tuple[str, Question]]:
    """Yield every kind of choice as a narrower question."""
    for mode in question.modes:
        if len(question.modes) > 1:
            yield f"best {mode}", replace(question, modes=(mode,))
    yield from _narrower(catalogue, question, best)


def _narrower(catalogue: Catalogue, question: Question, best: Optimum) -> Iterator[tuple[str, Question]]:
    offers = catalogue.offers
    chosen = [offers[pick.offer] for pick in best.solution.picks]
    if any(offer.replica.shape.strategy.pp > 1 for offer in chosen):
        yield "best without pipeline stages", replace(question, accept=_both(question, _flat))
    elif any(offer.replica.shape.strategy.pp > 1 for offer in offers):
        yield "best with pipeline stages only", replace(question, accept=_both(question, _staged))
    for fmt in sorted({offer.replica.shape.weight_fmt for offer in offers}):
        if any(offer.replica.shape.weight_fmt != fmt for offer in offers):
            yield f"best in {fmt}", replace(question, accept=_both(question, _in_format(fmt)))
    for engine in sorted({offer.replica.shape.engine for offer in offers}):
        if any(offer.replica.shape.engine != engine for offer in offers):
            yield f"best under {engine}", replace(question, accept=_both(question, _under(engine)))
    if len(catalogue.groups) > 1:
        for index, group in enumerate(catalogue.groups):
            yield f"best on {group.name} alone", replace(question, accept=_both(question, _on(index)))
    if len(chosen) > 1:
        yield "best with one pool per role", replace(question, one_pool_per_role=True)


def _both(question: Question, accept: Accept) -> Accept:
    return lambda offer: question.accept(offer) and accept(offer)


def _flat(offer: Offer) -> bool:
    return offer.replica.shape.strategy.pp == 1


def _staged(offer: Offer) -> bool:
    return offer.replica.shape.strategy.pp > 1


def _in_format(fmt: str) -> Accept:
    return lambda offer: offer.replica.shape.weight_fmt == fmt


def _under(engine: str) -> Accept:
    return lambda offer: offer.replica.shape.engine == engine


def _on(group: int) -> Accept:
    return lambda offer: offer.group == group
