"""The best plan over drafts of models: each combination that nothing beats outright is planned.

How many tokens a draft writes ahead is settled beforehand, as seconds per token are all that depends on it;
drafts that cost slots or money are tried against none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planner.diagnostics import Diagnostics
from planner.ir.agent_graph import AgentProblem
from planner.ir.candidates import ObjectiveValue, SearchResult
from planner.ir.problem import Problem
from planner.space.agent_drafts import drafted_graphs

_PROOF = 2e-5
Search = Callable[[Problem[AgentProblem], Diagnostics], SearchResult]


def best_drafted(problem: Problem[AgentProblem], search: Search, diagnostics: Diagnostics) -> SearchResult:
    """Return the best answer over all combinations of drafts; its details name the drafts used."""
    tried = list(drafted_graphs(problem.payload.graph))
    options = replace(problem.options, time_limit_s=problem.options.time_limit_s / len(tried))
    answers: list[tuple[SearchResult, dict[str, object], Diagnostics]] = []
    for graph, chosen in tried:
        payload = replace(problem.payload, graph=graph)
        own = Diagnostics(on_progress=diagnostics.on_progress)
        answers.append((search(replace(problem, payload=payload, options=options), own), chosen, own))
    found = [a for a in answers if a[0].objective.value is not None]
    if not found:
        open_ones = [a for a in answers if a[0].status == "nothing_found"]
        result, _, told = (open_ones or answers)[0]
        _tell(told, diagnostics)
        return result
    sign = -1.0 if found[0][0].objective.sense == "max" else 1.0
    result, chosen, told = min(found, key=lambda a: sign * (a[0].objective.value or 0.0))
    _tell(told, diagnostics)
    objective = _with_bound(result.objective, [a[0] for a in answers], sign)
    closed = objective.gap is not None and objective.gap <= _PROOF
    return replace(
        result,
        objective=objective,
        status="optimal" if closed and all(a[0].status != "nothing_found" for a in answers) else "feasible",
        work=tuple(sorted((*result.work, ("drafts_tried", len(tried))))),
        space=result.space + "; drafts of models, each at the length that is quickest",
        details=(*result.details, ("drafts", chosen)),
    )


def _with_bound(best: ObjectiveValue, answers: list[SearchResult], sign: float) -> ObjectiveValue:
    """Return the objective with the weakest bound of all combinations that may have an answer."""
    open_ones = [a for a in answers if a.status != "infeasible"]
    bounds = [a.objective.bound for a in open_ones]
    if any(bound is None for bound in bounds) or best.value is None:
        return replace(best, bound=None, gap=None)
    bound = min(sign * b for b in bounds if b is not None) * sign
    gap = abs(best.value - bound) / abs(best.value) if best.value else 0.0
    return replace(best, bound=bound, gap=gap)


def _tell(own: Diagnostics, diagnostics: Diagnostics) -> None:
    for entry in own.entries:
        tell = diagnostics.warn if entry.severity == "warning" else diagnostics.note
        tell(entry.code, entry.message)
