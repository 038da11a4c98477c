"""From a pipeline over several groups to pools, placement and figures: a pool for the stages of each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from math import exp, hypot
from statistics import NormalDist

import numpy as np

from planner.ir.candidates import PoolChoice, ReplicaPlacement, StageMemory
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem, TrainingStrategy
from planner.search.training_answer import degrees_of, device_names
from planner.search.training_chain import PlacedStage, late_factor, pace_s, ramp_s
from planner.search.training_figures import JobFigures
from planner.search.training_mixed import MixedPlan
from planner.space.training.chain_stages import ChainGroup
from planner.space.training.evaluate import KERNEL_CORRELATION
from planner.space.training.plans import RECOMPUTES

_LEVEL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedAnswer:
    """A pipeline over several groups with everything that is said about it."""

    plan: MixedPlan
    groups: tuple[ChainGroup, ...]
    fmt: str

    @property
    def step_s(self) -> float:
        """Predicted step, seconds."""
        return self.plan.step_s

    @property
    def runs(self) -> list[tuple[int, list[PlacedStage]]]:
        """Groups in the order of the pipeline with their stages."""
        return [(i, list(run)) for i, run in groupby(self.plan.chain.stages, key=lambda s: s.segment)]

    def strategy(self, segment: int) -> TrainingStrategy:
        """Return the degrees on one group."""
        return self.plan.plans[segment].strategy(0)


def mixed_summary(answer: MixedAnswer) -> str:
    """Return a plan's shape in one line."""
    parts: list[str] = []
    for i, stages in answer.runs:
        strategy, name = answer.strategy(i), answer.groups[i].evaluator.group.name
        parts.append(f"tp{strategy.tp} pp{len(stages)} on {name}")
    one = answer.strategy(answer.plan.chain.stages[0].segment)
    shared = [f"dp{one.dp}", f"cp{one.cp}"] if one.cp > 1 else [f"dp{one.dp}"]
    return f"{' + '.join(parts)}, {' '.join(shared)} mbs{one.micro_batch} zero{one.zero} {answer.fmt}"


def mixed_pools(problem: Problem[TrainingProblem], answer: MixedAnswer) -> tuple[PoolChoice, ...]:
    """Return a pool for the stages of every group, in the order of the pipeline."""
    found: list[PoolChoice] = []
    first_stage = first_layer = 0
    num_stages = len(answer.plan.chain.stages)
    for i, stages in answer.runs:
        group, strategy = answer.groups[i].evaluator.group, answer.strategy(i)
        layers = tuple(stage.choice.num_layers for stage in stages)
        degrees = tuple((n, len(stages) if n == "pp" else v) for n, v in degrees_of(strategy))
        ways = [stage.choice.recompute for stage in stages]
        found.append(
            PoolChoice(
                name=f"trainer-{group.name}",
                role="trainer",
                model=problem.payload.model.name,
                replicas=1,
                node_group=group.name,
                device=group.device.name,
                degrees=degrees,
                devices_per_replica=_devices(strategy) * len(stages),
                weight_fmt=answer.fmt,
                kv_fmt="none",
                engine=answer.groups[i].evaluator.software.name,
                limits=(),
                layers_per_stage=layers,
                predicted=(),
                memory=_memory(problem, answer.groups[i], stages),
                settings=(
                    ("global_batch", problem.payload.workload.global_batch),
                    ("seq_len", problem.payload.workload.seq_len),
                    ("micro_batch", strategy.micro_batch),
                    ("cp_ulysses", strategy.cp_ulysses),
                    ("zero", strategy.zero),
                    ("dp_shard", strategy.dp_shard if strategy.zero else 1),
                    ("sequence_parallel", strategy.sequence_parallel),
                    ("recompute", max(ways, key=RECOMPUTES.index)),
                    ("offload", strategy.offload),
                    ("schedule", strategy.schedule),
                    ("gradients", strategy.gradients),
                    ("layers_per_chunk", list(layers)),
                    ("first_stage", first_stage),
                    ("num_stages", num_stages),
                    ("first_layer", first_layer),
                    ("recompute_stages", [_recompute(stage) for stage in stages]),
                ),
            )
        )
        first_stage, first_layer = first_stage + len(stages), first_layer + sum(layers)
    return tuple(found)


def _recompute(stage: PlacedStage) -> dict[str, object]:
    choice = stage.choice
    partly = choice.recompute == "full" and choice.recompute_layers < choice.num_layers
    return {"recompute": choice.recompute, "layers": choice.recompute_layers if partly else 0}


def _devices(strategy: TrainingStrategy) -> int:
    """Return the devices of one stage."""
    return strategy.tp * strategy.cp * strategy.dp


def _memory(
    problem: Problem[TrainingProblem], group: ChainGroup, stages: list[PlacedStage]
) -> tuple[StageMemory, ...]:
    reserve = problem.payload.memory_reserve_bytes
    kept_free = (("kept_free", reserve),) if reserve else ()
    capacity = group.evaluator.group.device.memory_bytes.value
    return tuple(
        StageMemory(stage=n, parts=stage.choice.memory.parts(0) + kept_free, capacity_bytes=capacity)
        for n, stage in enumerate(stages)
    )


def mixed_placement(answer: MixedAnswer) -> tuple[ReplicaPlacement, ...]:
    """Return where the stages of every group sit: its first devices, tensor ranks next to one another."""
    return tuple(
        ReplicaPlacement(
            pool=f"trainer-{answer.groups[i].evaluator.group.name}",
            replica=0,
            devices=device_names(
                answer.groups[i].evaluator.group, _devices(answer.strategy(i)) * len(stages)
            ),
        )
        for i, stages in answer.runs
    )


def mixed_figures(answer: MixedAnswer) -> JobFigures:
    """Return what the predictions follow from; the interval widens with the spread of the kernels."""
    stages = answer.plan.chain.stages
    kernels = float(np.mean([stage.choice.error for stage in stages]))
    spread = answer.groups[0].evaluator.software.sigma_log
    sigma = hypot(spread, KERNEL_CORRELATION * kernels) * NormalDist().inv_cdf(0.5 + _LEVEL / 2.0)
    devices = tuple(
        (answer.groups[i].evaluator.group, _devices(answer.strategy(i)) * len(run)) for i, run in answer.runs
    )
    return JobFigures(
        step_s=answer.step_s,
        low_s=answer.step_s * exp(-sigma),
        high_s=answer.step_s * exp(sigma),
        compute_s=mixed_terms(answer)["compute_s"],
        devices=devices,
    )


def mixed_terms(answer: MixedAnswer) -> dict[str, float]:
    """Return what a step is made of, seconds: the slowest stage, what the others add, and what runs once."""
    stages, evaluator = answer.plan.chain.stages, answer.groups[0].evaluator
    software = evaluator.software
    one = answer.strategy(stages[0].segment)
    num_micro = evaluator.workload.global_batch // (one.dp * one.micro_batch)
    slowest = max(stages, key=lambda stage: stage.time_s)
    others = sum(stage.time_s for stage in stages if stage is not slowest)
    pipe = (num_micro - 1) * pace_s(stages, num_micro, software.p2p_overlap) + ramp_s(stages)
    last = max(stages, key=lambda s: s.choice.once_s + s.choice.optimizer_s).choice
    compute, comm = num_micro * slowest.choice.compute_s, num_micro * slowest.choice.comm_s
    late = late_factor(
        software.straggler,
        sum(
            _devices(answer.strategy(i)) * len(run) / answer.groups[i].evaluator.group.devices_per_node
            for i, run in answer.runs
        ),
    )
    return {
        "compute_s": compute,
        "layer_comm_s": comm,
        "bubble_s": others,
        "pipeline_comm_s": max(pipe - compute - comm - others, 0.0),
        "data_parallel_s": last.once_s,
        "optimizer_s": last.optimizer_s,
        "overhead_s": software.per_step_s,
        "straggler_s": (late - 1.0) * (pipe + last.once_s + last.optimizer_s),
    }
