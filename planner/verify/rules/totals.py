"""Rates of the pools add up to the demand, and totals follow from rate, lengths, devices and price."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from planner.ir.serving import ServingProblem
from planner.verify.report import Violation
from planner.verify.rule import SERVING, Case, Rule, differs

_ARITHMETIC = 1e-3


def _check(case: Case) -> Iterator[Violation]:
    workload = cast("ServingProblem", case.problem.payload).workload
    rate = case.plan.predicted.get("request_rate_rps")
    if rate is None:
        yield Violation(message="the plan does not say which rate it serves")
        return
    if workload.rate_rps is not None and rate.value < workload.rate_rps * (1 - _ARITHMETIC):
        yield Violation(
            message=f"{rate.value:.4g} requests per second are served, {workload.rate_rps:.4g} come",
            numbers=(("served", rate.value), ("demand", workload.rate_rps)),
        )
    for roles in (("aggregated", "prefill"), ("aggregated", "decode")):
        yield from _shares(case, roles, rate.value)
    yield from _derived(case, rate.value)


def _shares(case: Case, roles: tuple[str, ...], rate: float) -> Iterator[Violation]:
    pools = [p for p in case.plan.pools if p.role in roles]
    total = sum(p.predicted["request_rate_rps"].value for p in pools if "request_rate_rps" in p.predicted)
    if total < rate * (1 - _ARITHMETIC):
        yield Violation(
            message=f"pools of role {' or '.join(roles)} carry {total:.4g} of {rate:.4g} requests per second",
            numbers=(("pools", total), ("plan", rate)),
        )


def _derived(case: Case, rate: float) -> Iterator[Violation]:
    lengths = cast("ServingProblem", case.problem.payload).workload.lengths
    devices = sum(len(r.devices) for r in case.plan.placement)
    tokens = rate * lengths.mean_output
    expected = {
        "output_tokens_per_s": tokens,
        "output_tokens_per_s_per_device": tokens / devices if devices else 0.0,
    }
    price = case.plan.predicted.get("usd_per_hour")
    if price is not None and tokens > 0:
        expected["usd_per_million_output_tokens"] = price.value / (tokens * 3600.0) * 1e6
    for name, own in expected.items():
        claimed = case.plan.predicted.get(name)
        if claimed is not None and differs(claimed.value, own, _ARITHMETIC):
            yield Violation(
                message=f"{name} is {own:.6g}, the plan says {claimed.value:.6g}",
                numbers=(("own", own), ("claimed", claimed.value)),
            )


RULE = Rule(
    says="rates add up to the demand and totals follow from them",
    check=_check,
    kinds=SERVING,
    of_parts=True,
    requires=("ranks", "choices"),
)
