"""Plans with the simulator in the loop: limits are tightened until a simulation meets the stated ones.

The cost model is a closed form of means and queues. Where a simulation of the plan breaks a limit that the
plan claims to keep, the limit is tightened by as much as the simulation exceeds it, and the search runs
again. That doubts all shapes of replicas alike; so the shapes of the plan that broke the limit are rejected,
too, and the next best others are sought under the stated limits. Every plan so found also keeps the stated
limits by the cost model, so the bound of the first search holds for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, nan, sqrt
from typing import Any, cast

from planner.diagnostics import Diagnostics
from planner.errors import UnsupportedError
from planner.ir.candidates import SearchResult
from planner.ir.fleet import FleetProblem
from planner.ir.problem import Problem
from planner.ir.serving import RejectedShape, Role, ServingProblem
from planner.ir.strategy import ServingStrategy
from planner.ir.weight_offload import WeightOffload
from planner.ir.workload import Slo
from planner.plan.parts import ModelPart, model_parts
from planner.plan.schema import DiagnosticModel, Plan, Pool
from planner.simulate.serving import run_simulation
from planner.simulate.serving_options import SimulationOptions
from planner.simulate.serving_report import SimulationReport

AnyProblem = Problem[Any]
SearchAgain = Callable[[AnyProblem], Plan | None]

_MAX_ROUNDS = 6
_MAX_EASINGS = 3
_MAX_REJECTIONS = 4
_LEAST_STEP = 0.97
_LARGEST_STEP = 0.5
"""A limit becomes at most half and at least 3 % smaller from round to round."""
_OPTIMAL_GAP = 1e-9
_ROLES_OF = {
    "ttft": ("aggregated", "prefill"),
    "tpot": ("aggregated", "decode"),
    "e2e": ("aggregated", "prefill", "decode"),
}
"""Pools that may be to blame for a kind of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A plan, the limits that it was sought under and what simulations say of it, both by model."""

    plan: Plan
    limits: Mapping[str, Slo]
    reports: Mapping[str, SimulationReport]

    @property
    def value(self) -> float:
        """What the plan reaches of its objective."""
        value = self.plan.objective.value
        return nan if value is None else value

    @property
    def holds(self) -> bool:
        """Whether every stated limit holds in the simulation."""
        return not any(report.verdict.broken for report in self.reports.values())

    @property
    def excess(self) -> float:
        """The worst share by which a limit is broken."""
        return max(
            (b.simulated_s / b.limit_s for r in self.reports.values() for b in r.verdict.broken), default=0.0
        )


@dataclass(slots=True, kw_only=True)
class Refinement:
    """Refines the plan of a problem; `search` returns a checked plan under tighter limits, or None."""

    problem: AnyProblem
    search: SearchAgain
    diagnostics: Diagnostics
    trials: list[Trial] = field(default_factory=list[Trial])

    def refined(self, plan: Plan) -> Plan:
        """Return the best plan whose stated limits hold in a simulation, with a record of the search for it.

        If none does, the one that comes nearest, with a warning.
        """
        stated = stated_limits(self.problem)
        trial = self._try(plan, stated)
        for _ in range(_MAX_ROUNDS):
            if trial is None or trial.holds:
                break
            loose = trial
            trial = self._search(_tightened(trial, stated))
            if trial is not None and trial.holds:
                self._ease(loose, trial)
        self._reject(stated)
        return self._told(plan)

    def _reject(self, stated: Mapping[str, Slo]) -> None:
        """Look for a better plan that holds without the shapes whose simulations broke limits."""
        trial: Trial | None = self.trials[0] if self.trials else None
        rejected: dict[str, tuple[RejectedShape, ...]] = {}
        for _ in range(_MAX_REJECTIONS):
            if trial is None or trial.holds:
                return
            for model, shapes in at_fault(trial).items():
                rejected[model] = (*rejected.get(model, ()), *shapes)
            self.diagnostics.progress("searching without shapes that break limits")
            plan = self.search(without_shapes(self.problem, rejected))
            if plan is None or not self._better(plan):
                return
            trial = self._try(plan, stated)

    def _better(self, plan: Plan) -> bool:
        """Return whether a plan promises more than every one that holds."""
        sign = 1.0 if plan.objective.sense == "min" else -1.0
        best = min((sign * trial.value for trial in self.trials if trial.holds), default=inf)
        return plan.objective.value is not None and sign * plan.objective.value < best * (1.0 - sign * 1e-9)

    def _ease(self, loose: Trial, tight: Trial) -> None:
        """Look between limits that were too loose and limits that hold for a better plan that holds."""
        for _ in range(_MAX_EASINGS):
            if tight.value == loose.value:
                return
            between = self._search(_between(loose.limits, tight.limits))
            if between is None:
                return
            if between.holds:
                tight = between
            else:
                loose = between

    def _search(self, limits: Mapping[str, Slo]) -> Trial | None:
        self.diagnostics.progress("searching under tighter limits")
        plan = self.search(with_limits(self.problem, limits))
        return None if plan is None else self._try(plan, limits)

    def _try(self, plan: Plan, limits: Mapping[str, Slo]) -> Trial | None:
        """Simulate a plan, unless that was done; None if there is nothing to simulate."""
        if not plan.pools:
            return None
        known = next((trial for trial in self.trials if trial.plan.pools == plan.pools), None)
        if known is not None:
            return replace(known, limits=limits)
        self.diagnostics.progress(f"simulating plan {len(self.trials) + 1}")
        trial = Trial(plan=plan, limits=limits, reports=simulated(plan, self.problem))
        self.trials.append(trial)
        return trial

    def _told(self, first: Plan) -> Plan:
        """Return the chosen plan with the bound of the first search, and what was done."""
        if not self.trials:
            return first
        sign = 1.0 if first.objective.sense == "min" else -1.0
        held = [trial for trial in self.trials if trial.holds]
        best = min(held, key=lambda t: sign * t.value) if held else min(self.trials, key=lambda t: t.excess)
        entry = _remark(self.trials, best)
        return best.plan.model_copy(
            update={
                "diagnostics": [*best.plan.diagnostics, entry],
                "details": {**best.plan.details, "refinement": _record(self.trials, best)},
            }
        )


def check_refinable(problem: AnyProblem) -> None:
    """Refuse what has no requests to simulate.

    Raises
    ------
    UnsupportedError
        If plans of this kind serve no requests.
    """
    if problem.kind not in ("serving", "fleet"):
        raise UnsupportedError(
            "only served plans can be refined by simulation", key="search.refine", value=problem.kind
        )


def stated_limits(problem: AnyProblem) -> dict[str, Slo]:
    """Return the limits of every priced model, by name ("" for a problem of a single one)."""
    if problem.kind == "serving":
        return {"": cast("ServingProblem", problem.payload).workload.slo}
    models = cast("FleetProblem", problem.payload).models
    return {m.name: m.serving.workload.slo for m in models if m.serving is not None}


def with_limits(problem: AnyProblem, limits: Mapping[str, Slo]) -> AnyProblem:
    """Return a problem with other limits."""
    if problem.kind == "serving":
        return replace(problem, payload=_limited(cast("ServingProblem", problem.payload), limits[""]))
    payload = cast("FleetProblem", problem.payload)
    models = tuple(
        replace(m, serving=_limited(m.serving, limits[m.name])) if m.serving is not None else m
        for m in payload.models
    )
    return replace(problem, payload=replace(payload, models=models))


def without_shapes(problem: AnyProblem, rejected: Mapping[str, tuple[RejectedShape, ...]]) -> AnyProblem:
    """Return a problem whose models do without some shapes of replicas."""
    if problem.kind == "serving":
        return replace(
            problem, payload=_without(cast("ServingProblem", problem.payload), rejected.get("", ()))
        )
    payload = cast("FleetProblem", problem.payload)
    models = tuple(
        replace(m, serving=_without(m.serving, rejected.get(m.name, ()))) if m.serving is not None else m
        for m in payload.models
    )
    return replace(problem, payload=replace(payload, models=models))


def _without(payload: ServingProblem, rejected: tuple[RejectedShape, ...]) -> ServingProblem:
    return replace(payload, choices=replace(payload.choices, rejected=rejected))


def at_fault(trial: Trial) -> dict[str, list[RejectedShape]]:
    """Return the shapes behind broken limits, by model: of who prefills or of who decodes."""
    found: dict[str, list[RejectedShape]] = {}
    for model, report in trial.reports.items():
        roles = {role for broken in report.verdict.broken for role in _ROLES_OF[broken.name]}
        pools = [p for p in trial.plan.pools if p.role in roles and (not model or p.model == model)]
        if pools:
            found[model] = [_shape_of(pool) for pool in pools]
    return found


def _shape_of(pool: Pool) -> RejectedShape:
    s, limits = pool.strategy, pool.limits
    return RejectedShape(
        role=cast("Role", pool.role),
        group=pool.node_group,
        engine=pool.engine,
        weight_fmt=pool.weight_dtype,
        kv_fmt=pool.kv_dtype,
        strategy=ServingStrategy(
            tp=s.tp,
            pp=s.pp,
            attention_dp=s.attention_dp,
            ep=s.ep,
            moe_tp=s.moe_tp,
            prefill_cp=s.cp,
            decode_cp=s.decode_cp,
            redundant_experts=int(limits.get("redundant_experts", 0)),
        ),
        token_budget=int(limits["token_budget"]),
        max_num_seqs=int(limits["max_num_seqs"]),
        offload=WeightOffload.of_limits(limits).text,
    )


def _limited(payload: ServingProblem, slo: Slo) -> ServingProblem:
    return replace(payload, workload=replace(payload.workload, slo=slo))


def simulated(plan: Plan, problem: AnyProblem) -> dict[str, SimulationReport]:
    """Return what simulations say of a plan, by model."""
    if problem.kind == "serving":
        parts: Sequence[ModelPart] = (ModelPart(name="", plan=plan, problem=problem),)
    else:
        parts = model_parts(plan, problem)
    options = SimulationOptions(seed=problem.options.seed)
    return {part.name: run_simulation(part.plan, part.problem, options).report for part in parts}


def _tightened(trial: Trial, stated: Mapping[str, Slo]) -> dict[str, Slo]:
    """Return limits under which a plan of the same error would keep the stated ones."""
    limits = dict(trial.limits)
    for model, report in trial.reports.items():
        for broken in report.verdict.broken:
            name = f"{broken.name}_s"
            slo = limits[model]
            # Where the cost model sees room below the limit, tightening the limit alone would change nothing.
            claimed = _claimed(report, broken.name, slo.percentile)
            limit, wanted = getattr(slo, name), getattr(stated[model], name)
            step = min(max(wanted / broken.simulated_s, _LARGEST_STEP), _LEAST_STEP)
            limits[model] = replace(slo, **{name: min(limit, claimed) * step})
    return limits


def _between(loose: Mapping[str, Slo], tight: Mapping[str, Slo]) -> dict[str, Slo]:
    """Return the geometric means of limits."""

    def mean(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else sqrt(a * b)

    return {
        model: replace(
            slo,
            ttft_s=mean(slo.ttft_s, tight[model].ttft_s),
            tpot_s=mean(slo.tpot_s, tight[model].tpot_s),
            e2e_s=mean(slo.e2e_s, tight[model].e2e_s),
        )
        for model, slo in loose.items()
    }


def _claimed(report: SimulationReport, kind: str, percentile: float) -> float:
    """Return what the plan predicts of a kind of time at a percentile, infinity where it does not say."""
    name = f"{kind}_p{percentile:g}_s" if percentile > 0.0 else f"{kind}_s"
    return next((c for n, _, c in report.figures if n == name and c is not None), inf)


def with_bound(result: SearchResult, first: Plan) -> SearchResult:
    """Return the answer under tighter limits with what the first search has proved under the stated ones."""
    value, bound = result.objective.value, first.objective.bound
    gap = None if bound is None or value is None else abs(value - bound) / max(abs(value), 1e-300)
    proved = first.status == "optimal" and gap is not None and gap <= _OPTIMAL_GAP
    return replace(
        result,
        status="optimal" if proved else "feasible",
        objective=replace(result.objective, bound=bound, gap=gap),
    )


def _remark(trials: Sequence[Trial], best: Trial) -> DiagnosticModel:
    if not best.reports:
        return DiagnosticModel(
            severity="note",
            code="not-simulated",
            message="no model of the plan is priced, so none was simulated",
        )
    if best.holds and len(trials) == 1:
        return DiagnosticModel(
            severity="note", code="simulated", message="a simulation of the plan keeps every stated limit"
        )
    first = "; ".join(
        f"{f'{model}: ' if model else ''}{b.name} {b.simulated_s:.4g} s against {b.limit_s:.4g} s"
        for model, report in trials[0].reports.items()
        for b in report.verdict.broken
    )
    if best.holds:
        return DiagnosticModel(
            severity="note",
            code="refined",
            message=f"the best plan by the cost model breaks limits in a simulation ({first}), so limits "
            f"were tightened and shapes rejected; of {len(trials)} plans this is the best whose simulation "
            "keeps them all",
        )
    return DiagnosticModel(
        severity="warning",
        code="refined-in-vain",
        message=f"no plan of {len(trials)} that were simulated keeps every stated limit in its simulation "
        f"(the first: {first}); this one comes nearest, {best.excess - 1.0:.0%} above",
    )


def _record(trials: Sequence[Trial], best: Trial) -> dict[str, object]:
    """Return what was tried, as plain values for the plan's details."""
    return {
        "holds": best.holds,
        "chosen": trials.index(best),
        "trials": [
            {
                "objective": trial.plan.objective.value,
                "models": {
                    model or "plan": {
                        "limits_s": {
                            name: value
                            for name in ("ttft_s", "tpot_s", "e2e_s")
                            if (value := getattr(trial.limits[model], name)) is not None
                        },
                        "num_requests": report.num_requests,
                        "simulated_s": {name: seen for name, seen, _ in report.figures},
                        **report.verdict.as_dict(),
                    }
                    for model, report in trial.reports.items()
                },
            }
            for trial in trials
        ],
    }
