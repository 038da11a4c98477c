"""Every model of a fleet is served as asked, by pools that can carry it together."""

from __future__ import annotations

from collections.abc import Iterator

from planner.ir.fleet import FleetModel
from planner.plan.schema import Pool
from planner.verify.fleet import busiest, payload_of, served_rps
from planner.verify.report import Violation
from planner.verify.rule import FLEET, Case, Rule

_ARITHMETIC = 1e-4


def _check(case: Case) -> Iterator[Violation]:
    payload = payload_of(case)
    if case.plan.status == "infeasible":
        return
    known = {model.name for model in payload.models}
    for pool in case.plan.pools:
        if pool.model not in known:
            yield Violation(message=f"pool {pool.name!r} serves {pool.model!r}, which nobody asked for")
    factor = busiest(payload).factor
    for model in payload.models:
        yield from _served(case, model, model.rate_rps * factor)
        yield from _carried(case, model)


def _served(case: Case, model: FleetModel, asked_rps: float) -> Iterator[Violation]:
    served = served_rps(case, model.name)
    goal = case.problem.objective.name
    needed = asked_rps if goal.startswith("min_") else 0.0
    if goal == "max_goodput":
        needed = model.min_share * asked_rps
    numbers = (("served", served), ("asked", asked_rps))
    if served < needed * (1 - _ARITHMETIC):
        yield Violation(
            message=f"{model.name}: {served:.5g} of {needed:.5g} requests/s are served", numbers=numbers
        )
    if goal == "max_goodput" and served > asked_rps * (1 + _ARITHMETIC):
        yield Violation(message=f"{model.name}: more is served than asked for", numbers=numbers)
    roles = {role: _replicas(case, model, role) for role in ("aggregated", "prefill", "decode", "stage")}
    least = max(roles["aggregated"], roles["stage"], min(roles["prefill"], roles["decode"]))
    if least < model.min_replicas:
        yield Violation(
            message=f"{model.name}: {least} replicas, at least {model.min_replicas} are to be kept"
        )


def _replicas(case: Case, model: FleetModel, role: str) -> int:
    return sum(pool.replicas for pool in case.plan.pools if pool.model == model.name and pool.role == role)


def _carried(case: Case, model: FleetModel) -> Iterator[Violation]:
    """Check that what pools say they can carry covers the model, and stated pools say what was stated."""
    served = served_rps(case, model.name)
    pools = [pool for pool in case.plan.pools if pool.model == model.name]
    for roles in (("aggregated", "stage", "prefill"), ("aggregated", "stage", "decode")):
        capacity = sum(_capacity(pool) for pool in pools if pool.role in roles)
        if capacity < served * (1 - _ARITHMETIC):
            yield Violation(
                message=f"{model.name}: pools carry {capacity:.5g} requests/s, {served:.5g} are served",
                numbers=(("capacity", capacity), ("served", served)),
            )
    for pool in pools:
        if pool.role == "stage":
            most = max(
                (
                    s.capacity_rps
                    for s in model.stated
                    if (s.device, s.num_devices) == (pool.device, pool.strategy.tp)
                ),
                default=0.0,
            )
            if _capacity(pool) > most * pool.replicas * (1 + _ARITHMETIC):
                yield Violation(message=f"pool {pool.name!r} claims more than was stated for {pool.device}")


def _capacity(pool: Pool) -> float:
    found = pool.predicted.get("capacity_rps")
    return 0.0 if found is None else found.value


RULE = Rule(
    says="every model is served as asked",
    check=_check,
    kinds=FLEET,
    with_pools=False,
    requires=("well-formed",),
)
