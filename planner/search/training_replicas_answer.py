"""From a job replicated over groups to pools, placement and figures: a pool for the part of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cost_models.operations.outer_loops import OUTER_STATE_BYTES
from planner.ir.candidates import PoolChoice, ReplicaPlacement, StageMemory
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.search.training_answer import (
    POOL,
    Answer,
    answer_of,
    figures_of,
    placement_of,
    pool_of,
    summary_of,
    terms_of,
)
from planner.search.training_figures import JobFigures
from planner.search.training_replicas import ReplicasPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicasAnswer:
    """A replicated job with everything that is said about it."""

    plan: ReplicasPlan
    answers: tuple[Answer, ...]

    @property
    def step_s(self) -> float:
        """Predicted step, seconds; in the mean over an outer loop."""
        return self.plan.step_s

    @property
    def slowest(self) -> Answer:
        """The part that the others wait for."""
        return max(self.answers, key=lambda answer: answer.step_s)


def replicas_answer(plan: ReplicasPlan) -> ReplicasAnswer:
    """Return what is said about a replicated job."""
    answers = tuple(
        answer_of(part.evaluator, plan.fmt, part.kept.plans, part.index, part.step_s) for part in plan.parts
    )
    return ReplicasAnswer(plan=plan, answers=answers)


def replicas_summary(answer: ReplicasAnswer) -> str:
    """Return a plan's shape in one line."""
    parts = [
        f"{part.sequences} sequences {summary_of(own)}"
        for part, own in zip(answer.plan.parts, answer.answers, strict=True)
    ]
    loop = answer.plan.loop
    how = ""
    if loop is not None:
        how = f", exchange of {loop.bits} bit every {loop.steps} steps"
        how += f" in {loop.fragments} parts" if loop.fragments > 1 else ""
        how += f" over {loop.overlap_steps} steps" if loop.overlap_steps else ""
    return " + ".join(parts) + how


def replicas_pools(problem: Problem[TrainingProblem], answer: ReplicasAnswer) -> tuple[PoolChoice, ...]:
    """Return a pool for the part of every group."""
    loop = answer.plan.loop
    more: tuple[tuple[str, object], ...] = ()
    if loop is not None:
        names = ("steps", "bits", "fragments", "overlap_steps")
        more = (("outer_loop", {name: getattr(loop, name) for name in names}),)
    found: list[PoolChoice] = []
    for part, own in zip(answer.plan.parts, answer.answers, strict=True):
        pool = pool_of(problem, own)
        found.append(
            replace(
                pool,
                name=_name(own),
                settings=(*pool.settings, ("share", part.sequences), *more),
                memory=tuple(
                    _with_outer(stage, part.evaluator.software.optimizer_bytes) for stage in pool.memory
                )
                if loop is not None
                else pool.memory,
            )
        )
    return tuple(found)


def _name(answer: Answer) -> str:
    return f"{POOL}-{answer.group.name}"


def _with_outer(stage: StageMemory, held_bytes: float) -> StageMemory:
    """Return the memory of a stage with the states of the outer optimizer named."""
    outer = OUTER_STATE_BYTES / held_bytes
    parts: list[tuple[str, float]] = []
    for name, num_bytes in stage.parts:
        if name == "optimizer":
            parts += [(name, num_bytes * (1.0 - outer)), ("outer_optimizer", num_bytes * outer)]
        else:
            parts.append((name, num_bytes))
    return replace(stage, parts=tuple(parts))


def replicas_placement(answer: ReplicasAnswer) -> tuple[ReplicaPlacement, ...]:
    """Return where the part of every group sits."""
    return tuple(replace(placement_of(own), pool=_name(own)) for own in answer.answers)


def replicas_figures(answer: ReplicasAnswer) -> JobFigures:
    """Return what the predictions follow from; the interval is that of the slowest part."""
    own = figures_of(answer.slowest)
    scale = answer.step_s / own.step_s
    return JobFigures(
        step_s=answer.step_s,
        low_s=own.low_s * scale,
        high_s=own.high_s * scale,
        compute_s=own.compute_s,
        devices=tuple((one.group, one.strategy.num_devices) for one in answer.answers),
    )


def replicas_terms(answer: ReplicasAnswer) -> dict[str, float]:
    """Return what a step is made of, seconds: the slowest part's, and the exchange between parts."""
    terms = terms_of(answer.slowest)
    terms["straggler_s"] += answer.plan.waiting_s
    return {**terms, "exchange_s": answer.plan.exchange_s}


def replicas_details(problem: Problem[TrainingProblem], answer: ReplicasAnswer) -> dict[str, object]:
    """Return how the batch is split, and what every setting of an outer loop would take."""
    plan = answer.plan
    found: dict[str, object] = {
        "shares": [
            {"group": own.group.name, "sequences": part.sequences, "own_step_s": part.step_s}
            for part, own in zip(plan.parts, answer.answers, strict=True)
        ]
    }
    if plan.loop is None:
        return found
    slowest_s = plan.slowest.step_s
    gradient_bytes = plan.slowest.evaluator.software.reduce_bytes
    found["outer_loop"] = {
        "local_step_s": slowest_s,
        "part_bytes": plan.loop.fragment_bytes(problem.payload.model.num_params),
        "part_exchange_s": plan.part_s,
        "utilisation": slowest_s / plan.step_s,
        "settings": [
            {
                "steps": time.loop.steps,
                "bits": time.loop.bits,
                "fragments": time.loop.fragments,
                "overlap_steps": time.loop.overlap_steps,
                "step_time_s": time.step_s,
                "less_traffic": time.loop.less_traffic(gradient_bytes),
            }
            for time in plan.loops
        ],
    }
    return found
