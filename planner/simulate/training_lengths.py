"""Batches of different lengths run group by group: how long every batch of a plan takes, and the mean."""

from __future__ import annotations

from typing import Any, cast

from cost_models.sequences.times import SequenceCosts
from planner.errors import InputError
from planner.ir.cluster import NodeGroup
from planner.ir.packing import Group, Microbatch, Packing, PackingProblem
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem, TrainingStrategy
from planner.plan.schema import Plan, Pool, TrainingSettings
from planner.simulate.packing_replay import replay_packing
from planner.space.training.length_costs import LengthPricer
from planner.space.training.plans import single


def replayed_batches_s(plan: Plan, problem: Problem[TrainingProblem]) -> list[float]:
    """Return what every batch of a plan takes on its groups, seconds, priced again and run event by event.

    Raises
    ------
    InputError
        If the plan does not say which groups its batches run on.
    VerificationError
        If a batch is not what the plan says of it.
    """
    pool = plan.pools[0]
    details = cast("dict[str, Any]", plan.details.get("lengths", {}))
    listed = cast("list[dict[str, Any]]", details.get("batches", []))
    batches = problem.payload.workload.batches
    group = next((g for g in problem.cluster.groups if g.name == pool.node_group), None)
    if pool.training is None or group is None or len(listed) != len(batches):
        raise InputError("the plan does not say how its batches are packed", key="details.lengths")
    costs = _priced(problem, group, pool, pool.training)
    found: list[float] = []
    for lengths, entry in zip(batches, listed, strict=True):
        case = PackingProblem(
            lengths=lengths,
            num_ranks=pool.strategy.dp,
            largest_degree=int(details["largest_degree"]),
            chunked=False,
            costs=costs,
        )
        found.append(replay_packing(case, _packing(entry)))
    return found


def _priced(
    problem: Problem[TrainingProblem], group: NodeGroup, pool: Pool, settings: TrainingSettings
) -> SequenceCosts:
    strategy = TrainingStrategy(
        tp=pool.strategy.tp,
        dp=pool.strategy.dp,
        zero=settings.zero,
        dp_shard=settings.dp_shard,
        sequence_parallel=settings.sequence_parallel,
        recompute=settings.recompute,
        offload=settings.offload,
    )
    pricer = LengthPricer(problem, group, pool.weight_dtype)
    return pricer.price(single(strategy), settings.rank_tokens).costs


def _packing(entry: dict[str, Any]) -> Packing:
    groups = cast("list[dict[str, Any]]", entry["groups"])
    return Packing(
        groups=tuple(
            Group(
                first_rank=int(group["first_rank"]),
                degree=int(group["degree"]),
                microbatches=tuple(Microbatch(sequences=tuple(micro)) for micro in group["microbatches"]),
            )
            for group in groups
        ),
        time_s=float(entry["time_s"]),
        bound_s=float(entry["bound_s"]),
        method="plan",
    )
