"""Every layer of the model stands on exactly one stage of every replica."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from planner.ir.serving import ServingProblem
from planner.verify.report import Violation
from planner.verify.rule import SERVING, Case, Rule


def _check(case: Case) -> Iterator[Violation]:
    layers = len(cast("ServingProblem", case.problem.payload).model.layers)
    for pool in case.plan.pools:
        counts = pool.layers_per_stage
        if len(counts) != pool.strategy.pp:
            yield Violation(
                message=f"pool {pool.name!r}: {len(counts)} stages are filled, pp={pool.strategy.pp}"
            )
        if sum(counts) != layers:
            yield Violation(message=f"pool {pool.name!r} holds {sum(counts)} layers of {layers}")
        if any(count < 1 for count in counts):
            yield Violation(message=f"pool {pool.name!r} has a stage without layers")


RULE = Rule(
    says="every layer stands on exactly one stage",
    check=_check,
    kinds=SERVING,
    of_parts=True,
    requires=("choices",),
)
