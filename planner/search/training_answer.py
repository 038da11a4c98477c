"""From a priced training plan to the pool, the placement and the figures that a plan's file is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.ir.candidates import (
    Degrees,
    PoolChoice,
    ReplicaPlacement,
    StageMemory,
)
from planner.ir.cluster import NodeGroup
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem, TrainingStrategy
from planner.search.training_figures import JobFigures
from planner.space.training.evaluate import Evaluation, TrainingEvaluator
from planner.space.training.partition import chunk_sizes, stage_of_chunk
from planner.space.training.plans import PlanArrays

POOL = "trainer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One plan with everything that is said about it."""

    group: NodeGroup
    fmt: str
    engine: str
    strategy: TrainingStrategy
    drops: tuple[int, int]
    evaluation: Evaluation
    value: float

    @property
    def step_s(self) -> float:
        """Predicted step time, seconds."""
        return float(self.evaluation.time.total_s[0])


def answer_of(evaluator: TrainingEvaluator, fmt: str, plans: PlanArrays, index: int, value: float) -> Answer:
    """Return plan `index` of `plans`, priced again alone with its memory by stage."""
    one = plans.take(np.array([index]))
    return Answer(
        group=evaluator.group,
        fmt=fmt,
        engine=evaluator.software.name,
        strategy=one.strategy(0),
        drops=(int(one.first_drop[0]), int(one.last_drop[0])),
        evaluation=evaluator.evaluate(one, fmt),
        value=value,
    )


def degrees_of(strategy: TrainingStrategy) -> Degrees:
    """Return the degrees under the names of the plan schema."""
    names = ("tp", "pp", "dp", "cp", "ep", "etp", "num_chunks")
    return tuple((name, getattr(strategy, name)) for name in names)


def summary_of(answer: Answer) -> str:
    """Return a plan's shape in one line."""
    strategy = answer.strategy
    parts = [f"{name}{value}" for name, value in degrees_of(strategy) if value > 1]
    if strategy.cp_ulysses > 1:
        parts.append(f"ulysses{strategy.cp_ulysses}")
    parts.append(f"mbs{strategy.micro_batch}")
    parts.append(f"zero{strategy.zero}")
    if strategy.zero and strategy.dp_shard != strategy.dp:
        parts.append(f"shard{strategy.dp_shard}")
    if strategy.pp > 1:
        parts.append(strategy.schedule)
    parts.append(f"recompute {strategy.recompute}")
    if strategy.recompute_layers:
        parts.append(f"of {strategy.recompute_layers}")
    if strategy.offload != "none":
        parts.append(f"offload {strategy.offload}")
    if strategy.gradients != "full":
        parts.append(f"gradients {strategy.gradients}")
    return " ".join([*parts, answer.fmt, "on", answer.group.name])


def pool_of(problem: Problem[TrainingProblem], answer: Answer) -> PoolChoice:
    """Return the pool of an answer: one job."""
    strategy, workload = answer.strategy, problem.payload.workload
    chunks = _chunks(answer, len(problem.payload.model.layers))
    return PoolChoice(
        name=POOL,
        role=POOL,
        model=problem.payload.model.name,
        replicas=1,
        node_group=answer.group.name,
        device=answer.group.device.name,
        degrees=degrees_of(strategy),
        devices_per_replica=strategy.num_devices,
        weight_fmt=answer.fmt,
        kv_fmt="none",
        engine=answer.engine,
        limits=(),
        layers_per_stage=_per_stage(chunks, strategy),
        predicted=(),
        memory=_memory(problem, answer),
        settings=(
            ("global_batch", workload.global_batch),
            ("seq_len", workload.seq_len),
            ("micro_batch", strategy.micro_batch),
            ("cp_ulysses", strategy.cp_ulysses),
            ("zero", strategy.zero),
            ("dp_shard", strategy.dp_shard if strategy.zero else 1),
            ("sequence_parallel", strategy.sequence_parallel),
            ("recompute", strategy.recompute),
            ("recompute_layers", strategy.recompute_layers),
            ("offload", strategy.offload),
            ("schedule", strategy.schedule if strategy.pp > 1 else "none"),
            ("gradients", strategy.gradients),
            ("layers_per_chunk", list(chunks)),
        ),
    )


def _per_stage(chunks: Sequence[int], strategy: TrainingStrategy) -> tuple[int, ...]:
    """Return the layers of every stage from those of the chunks; the V of ZB-V runs back."""
    held = [0] * strategy.pp
    for chunk, count in enumerate(chunks):
        held[stage_of_chunk(chunk, strategy.pp, folded=strategy.schedule == "zb-v")] += count
    return tuple(held)


def _chunks(answer: Answer, num_layers: int) -> tuple[int, ...]:
    strategy = answer.strategy
    sizes = chunk_sizes(num_layers, strategy.pp * strategy.num_chunks, *answer.drops)
    if sizes is None:
        raise ValueError("the layer split of a priced plan exists")
    return sizes


def _memory(problem: Problem[TrainingProblem], answer: Answer) -> tuple[StageMemory, ...]:
    memory = answer.evaluation.memory[0]
    if memory is None:
        raise ValueError("a plan that is priced alone states its memory")
    reserve = problem.payload.memory_reserve_bytes
    kept_free = (("kept_free", reserve),) if reserve else ()
    return tuple(
        StageMemory(
            stage=stage,
            parts=memory.parts(stage) + kept_free,
            capacity_bytes=answer.group.device.memory_bytes.value,
        )
        for stage in range(len(memory.weights))
    )


def device_names(group: NodeGroup, count: int) -> tuple[str, ...]:
    """Return the first devices of a group, node by node."""
    names = group.node_names or tuple(f"{group.name}-{i}" for i in range(group.num_nodes))
    per_node = group.devices_per_node
    return tuple(f"{names[i // per_node]}/{i % per_node}" for i in range(count))


def placement_of(answer: Answer) -> ReplicaPlacement:
    """Return where the job sits: the first devices of its group, tensor ranks next to one another."""
    devices = device_names(answer.group, answer.strategy.num_devices)
    return ReplicaPlacement(pool=POOL, replica=0, devices=devices)


def figures_of(answer: Answer) -> JobFigures:
    """Return what the predictions of an answer follow from."""
    low_s, high_s = (float(bound[0]) for bound in answer.evaluation.interval_s())
    return JobFigures(
        step_s=answer.step_s,
        low_s=low_s,
        high_s=high_s,
        compute_s=float(answer.evaluation.time.compute_s[0]),
        devices=((answer.group, answer.strategy.num_devices),),
    )


def terms_of(answer: Answer) -> dict[str, float]:
    """Return where the time of a step goes, seconds."""
    time = answer.evaluation.time
    return {
        name: float(getattr(time, name)[0]) for name in type(time).__dataclass_fields__ if name.endswith("_s")
    }


def details_of(terms: dict[str, float]) -> tuple[tuple[str, object], ...]:
    """Return the terms of a step as details of its plan."""
    return (("step_time_terms_s", dict(sorted(terms.items()))),)
