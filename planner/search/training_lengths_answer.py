"""From a plan for batches of different lengths to its pool, placement, figures and packings."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import exp
from statistics import NormalDist
from typing import Any

from planner.ir.candidates import PoolChoice, ReplicaPlacement, StageMemory
from planner.ir.packing import Packing
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.search.training_answer import POOL, degrees_of, device_names
from planner.search.training_figures import JobFigures
from planner.search.training_lengths import LengthPlan

_LEVEL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthsAnswer:
    """A plan for batches of different lengths with everything that is said about it."""

    plan: LengthPlan

    @property
    def step_s(self) -> float:
        """Predicted step, seconds, the mean over the batches drawn."""
        return self.plan.step_s


def lengths_summary(answer: LengthsAnswer) -> str:
    """Return a plan's shape in one line."""
    plan, strategy = answer.plan, answer.plan.strategy
    degrees = sorted({group.degree for packing in plan.packings for group in packing.groups})
    shape = f"tp{strategy.tp} " if strategy.tp > 1 else ""
    return (
        f"{shape}{strategy.dp} ranks in groups of {', '.join(map(str, degrees))}, "
        f"{plan.rank.costs.rank_tokens} tokens per rank, zero{strategy.zero}, "
        f"recompute {strategy.recompute} {plan.fmt} on {plan.group.name}"
    )


def lengths_pool(problem: Problem[TrainingProblem], answer: LengthsAnswer) -> PoolChoice:
    """Return the pool of the job."""
    plan, strategy, workload = answer.plan, answer.plan.strategy, problem.payload.workload
    num_layers = len(problem.payload.model.layers)
    return PoolChoice(
        name=POOL,
        role=POOL,
        model=problem.payload.model.name,
        replicas=1,
        node_group=plan.group.name,
        device=plan.group.device.name,
        degrees=degrees_of(strategy),
        devices_per_replica=strategy.num_devices,
        weight_fmt=plan.fmt,
        kv_fmt="none",
        engine=plan.rank.software,
        limits=(),
        layers_per_stage=(num_layers,),
        predicted=(),
        memory=_memory(problem, plan),
        settings=(
            ("global_batch", workload.global_batch),
            ("seq_len", workload.seq_len),
            ("micro_batch", 1),
            ("zero", strategy.zero),
            ("dp_shard", strategy.dp_shard if strategy.zero else 1),
            ("sequence_parallel", strategy.sequence_parallel),
            ("recompute", strategy.recompute),
            ("offload", strategy.offload),
            ("schedule", "none"),
            ("layers_per_chunk", [num_layers]),
            ("rank_tokens", plan.rank.costs.rank_tokens),
        ),
    )


def _memory(problem: Problem[TrainingProblem], plan: LengthPlan) -> tuple[StageMemory, ...]:
    memory = plan.rank.memory.memory[0]
    if memory is None:
        raise ValueError("a plan that is priced alone states its memory")
    reserve = problem.payload.memory_reserve_bytes
    kept_free = (("kept_free", reserve),) if reserve else ()
    capacity = plan.group.device.memory_bytes.value
    return (StageMemory(stage=0, parts=memory.parts(0) + kept_free, capacity_bytes=capacity),)


def lengths_placement(answer: LengthsAnswer) -> ReplicaPlacement:
    """Return where the job sits."""
    plan = answer.plan
    return ReplicaPlacement(pool=POOL, replica=0, devices=device_names(plan.group, plan.strategy.num_devices))


def lengths_figures(answer: LengthsAnswer) -> JobFigures:
    """Return what the predictions follow from."""
    plan = answer.plan
    width = NormalDist().inv_cdf(0.5 + _LEVEL / 2.0) * plan.rank.sigma_log
    return JobFigures(
        step_s=plan.step_s,
        low_s=plan.step_s * exp(-width),
        high_s=plan.step_s * exp(width),
        compute_s=lengths_terms(answer)["compute_s"],
        devices=((plan.group, plan.strategy.num_devices),),
    )


def lengths_terms(answer: LengthsAnswer) -> dict[str, float]:
    """Return what a step is made of, seconds: work and exchanges spread evenly, and waiting for the last."""
    plan = answer.plan
    work = exchange = 0.0
    for problem, packing in zip(plan.problems, plan.packings, strict=True):
        costs, share = problem.costs, problem.num_ranks * len(plan.packings)
        for group in packing.groups:
            for micro in group.microbatches:
                work += (costs.microbatch_s * group.degree) / share
                for i in micro.sequences:
                    length = problem.lengths[i]
                    work += costs.work_s(length) / share
                    exchange += costs.exchange_s(length, group.degree) * group.degree / share
    packed = plan.packed_s
    return {
        "compute_s": work,
        "layer_comm_s": exchange,
        "imbalance_s": max(packed - work - exchange, 0.0),
        "data_parallel_s": plan.rank.reduction_s,
        "optimizer_s": plan.rank.optimizer_s,
        "overhead_s": plan.per_step_s,
        "straggler_s": plan.late * (packed + plan.rank.reduction_s),
    }


def lengths_details(answer: LengthsAnswer) -> dict[str, Any]:
    """Return the groups of every batch drawn, and what one degree for all would take."""
    plan = answer.plan
    return {
        "lengths": {
            "rank_tokens": plan.rank.costs.rank_tokens,
            "largest_degree": plan.problems[0].largest_degree,
            "uniform_step_s": plan.uniform_s,
            "uniform_degrees": list(plan.uniform_degrees),
            "padded_step_s": plan.padded_s,
            "batches": [
                _batch(problem.lengths, packing)
                for problem, packing in zip(plan.problems, plan.packings, strict=True)
            ],
        }
    }


def _batch(lengths: tuple[int, ...], packing: Packing) -> dict[str, object]:
    degrees = Counter(group.degree for group in packing.groups)
    return {
        "tokens": sum(lengths),
        "time_s": packing.time_s,
        "bound_s": packing.bound_s,
        "groups_by_degree": {str(degree): degrees[degree] for degree in sorted(degrees)},
        "groups": [
            {
                "first_rank": group.first_rank,
                "degree": group.degree,
                "microbatches": [list(micro.sequences) for micro in group.microbatches],
            }
            for group in packing.groups
        ],
    }


def lengths_simpler(answer: LengthsAnswer) -> list[tuple[str, float]]:
    """Return what the same plan takes with one degree for all sequences of a batch, and with padding."""
    plan, found = answer.plan, list[tuple[str, float]]()
    if plan.uniform_s is not None:
        degrees = ", ".join(map(str, sorted(set(plan.uniform_degrees))))
        found.append((f"the same with one degree for all sequences of a batch ({degrees})", plan.uniform_s))
    if plan.padded_s is not None:
        found.append(("the same with every sequence padded to the longest", plan.padded_s))
    return [(words, step_s) for words, step_s in found if step_s > plan.step_s]
