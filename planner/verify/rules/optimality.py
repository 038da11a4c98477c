"""A plan that is called optimal is not beaten by simple configurations that the checker prices itself.

One pool of equal servers, a few degrees, each group alone. The checker's times and memory are its own,
so only a configuration that wins by more than 15 % counts. They are medians: a plan that is made against
another quantile of the error is slower by as much, and is not compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem
from planner.verify.report import Violation
from planner.verify.rule import SERVING, Case, Rule
from planner.verify.serving.sampler import Bar, samples

MARGIN = 0.15
_MEDIAN = 0.5


def _check(case: Case) -> Iterator[Violation]:
    problem = cast("Problem[ServingProblem]", case.problem)
    objective = case.plan.objective
    if case.plan.status != "optimal" or objective.value is None:
        return
    if problem.objective.robust != _MEDIAN:
        return
    if "aggregated" not in problem.payload.choices.modes or problem.payload.workload.concurrency is not None:
        return
    better = 1.0 + MARGIN if objective.sense == "max" else 1.0 - MARGIN
    bar = Bar(objective=problem.objective.name, value=objective.value * better)
    for engine in problem.payload.choices.engines:
        for sample in samples(problem, engine, bar, thorough=case.thorough):
            yield Violation(
                message=f"{sample.summary} reaches {sample.value:.5g}, better than {objective.value:.5g}",
                numbers=(("sample", sample.value), ("claimed", objective.value)),
            )


RULE = Rule(
    says="no simple configuration beats the optimum",
    check=_check,
    kinds=SERVING,
    requires=("proof", "objective", "load"),
    of_steps=True,
)
