"""What is said about a training job: on one group, in a pipeline over groups, or replicated over them."""

from __future__ import annotations

from planner.diagnostics import Diagnostics
from planner.ir.candidates import PoolChoice, ReplicaPlacement
from planner.ir.cluster import NodeGroup
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.search.training_answer import (
    Answer,
    details_of,
    figures_of,
    placement_of,
    pool_of,
    summary_of,
    terms_of,
)
from planner.search.training_figures import JobFigures
from planner.search.training_lengths_answer import (
    LengthsAnswer,
    lengths_details,
    lengths_figures,
    lengths_placement,
    lengths_pool,
    lengths_summary,
    lengths_terms,
)
from planner.search.training_mixed_answer import (
    MixedAnswer,
    mixed_figures,
    mixed_placement,
    mixed_pools,
    mixed_summary,
    mixed_terms,
)
from planner.search.training_replicas_answer import (
    ReplicasAnswer,
    replicas_details,
    replicas_figures,
    replicas_placement,
    replicas_pools,
    replicas_summary,
    replicas_terms,
)

AnyAnswer = Answer | MixedAnswer | ReplicasAnswer | LengthsAnswer


def value_of(answer: AnyAnswer) -> float:
    """Return the goal of a job; of jobs over several groups that is their step."""
    return answer.value if isinstance(answer, Answer) else answer.step_s


def any_figures(answer: AnyAnswer) -> JobFigures:
    """Return what the predictions of a job follow from."""
    if isinstance(answer, Answer):
        return figures_of(answer)
    if isinstance(answer, LengthsAnswer):
        return lengths_figures(answer)
    return mixed_figures(answer) if isinstance(answer, MixedAnswer) else replicas_figures(answer)


def any_pools(problem: Problem[TrainingProblem], answer: AnyAnswer) -> tuple[PoolChoice, ...]:
    """Return the pools of a job."""
    if isinstance(answer, Answer):
        return (pool_of(problem, answer),)
    if isinstance(answer, LengthsAnswer):
        return (lengths_pool(problem, answer),)
    if isinstance(answer, MixedAnswer):
        return mixed_pools(problem, answer)
    return replicas_pools(problem, answer)


def any_placement(answer: AnyAnswer) -> tuple[ReplicaPlacement, ...]:
    """Return where a job sits."""
    if isinstance(answer, Answer):
        return (placement_of(answer),)
    if isinstance(answer, LengthsAnswer):
        return (lengths_placement(answer),)
    return mixed_placement(answer) if isinstance(answer, MixedAnswer) else replicas_placement(answer)


def any_details(problem: Problem[TrainingProblem], answer: AnyAnswer) -> tuple[tuple[str, object], ...]:
    """Return what a plan of a job states beside its pools."""
    if isinstance(answer, Answer):
        return details_of(terms_of(answer))
    if isinstance(answer, LengthsAnswer):
        return (*details_of(lengths_terms(answer)), *lengths_details(answer).items())
    if isinstance(answer, MixedAnswer):
        return details_of(mixed_terms(answer))
    return (*details_of(replicas_terms(answer)), *replicas_details(problem, answer).items())


def any_summary(answer: AnyAnswer) -> str:
    """Return a job's shape in one line."""
    if isinstance(answer, Answer):
        return summary_of(answer)
    if isinstance(answer, LengthsAnswer):
        return lengths_summary(answer)
    return mixed_summary(answer) if isinstance(answer, MixedAnswer) else replicas_summary(answer)


def say_offload(
    pools: tuple[PoolChoice, ...], groups: tuple[NodeGroup, ...], diagnostics: Diagnostics
) -> None:
    """Say how the update of offloaded states on the CPU is priced, or warn that it is not.

    Measured with DeepSpeed's CPU Adam: 8.2 s for 11.6e9 parameters (DeepSpeed pull request 735), 10 s for
    72e9 on four hosts, transfers included (DeepSpeed issue 6834); neither says what host it was.
    """
    away = {p.node_group for p in pools if dict(p.settings).get("offload", "none") != "none"}
    for group in groups:
        if group.name not in away:
            continue
        if group.host_memory_bytes_per_s is None:
            diagnostics.warn(
                "training-host-update",
                "the step has the transfer of offloaded optimizer states, not their update on the CPU, as "
                f"the memory bandwidth of the hosts of {group.name} is not known (host_memory_bandwidth): "
                "DeepSpeed took 0.3 to 0.7 s per 1e9 parameters that a host updates",
            )
        else:
            rate = group.host_memory_bytes_per_s / 1e9
            diagnostics.note(
                "training-host-update",
                f"offloaded states are updated on the CPU at 0.45 of the {rate:.0f} GB/s of a host's memory, "
                "as by DeepSpeed's CPU Adam on a DGX-2; other hosts were reported at half of that",
            )
