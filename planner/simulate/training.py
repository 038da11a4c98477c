"""Second opinion on a training plan: its pipeline is replayed operation by operation.

The stages' pass times are those of the cost model; which operation waits for which, and when every device
is busy, comes from executing the schedule's orders event by event. What runs outside the pipeline
(reductions, optimizer, host) is taken over from the plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from planner.errors import InputError
from planner.ir.pipeline_schedule import PipelineSchedule, PipelineStage, PipelineWork
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem, TrainingStrategy
from planner.plan.schema import Plan, Pool, TrainingSettings
from planner.simulate.pipeline_replay import replay
from planner.simulate.training_groups import spread_work
from planner.simulate.training_lengths import replayed_batches_s
from planner.space.schedule_family import FAMILIES
from planner.space.schedule_timing import timed
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.partition import chunk_sizes, stage_of_chunk
from planner.space.training.plans import PlanArrays, single
from planner.space.training.source import evaluator_of, with_batch
from planner.space.training.stage_times import StageTimes

TOLERANCE = 0.05
"""A predicted step that lies further from the replayed one than this is called wrong."""
_FAMILY = {"interleaved": "interleaved-1f1b"}
_OUTSIDE = ("data_parallel_s", "optimizer_s", "overhead_s", "straggler_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReplay:
    """A replayed step beside the predicted one, seconds; `bubble` is the share of the pipeline that idles."""

    step_s: float
    predicted_step_s: float
    pipeline_s: float
    bubble: float
    busy_s: tuple[float, ...]

    @property
    def apart(self) -> float:
        """Share by which the prediction differs from the replay."""
        return self.predicted_step_s / self.step_s - 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return the replay as plain values."""
        return {
            "step_time_s": self.step_s,
            "predicted_step_time_s": self.predicted_step_s,
            "apart": self.apart,
            "tolerance": TOLERANCE,
            "within_tolerance": abs(self.apart) <= TOLERANCE,
            "pipeline_s": self.pipeline_s,
            "bubble_share": self.bubble,
            "busy_s": list(self.busy_s),
        }


def replay_plan(plan: Plan, problem: Problem[TrainingProblem]) -> TrainingReplay:
    """Return what executing the schedule of a training plan yields.

    Raises
    ------
    InputError
        If the plan has no job, or its layers cannot be split as it says.
    """
    if not plan.pools or plan.pools[0].training is None:
        raise InputError("this plan has no training job to replay", key="pools")
    pool, settings = plan.pools[0], plan.pools[0].training
    if settings.num_stages:
        return _replayed(plan, _schedule(settings.schedule, spread_work(problem, plan.pools)))
    if settings.rank_tokens:
        return _packed(plan, problem)
    if settings.share:
        return _replicas(plan, problem)
    evaluator, arrays = _priced(problem, pool, settings)
    return _replayed(plan, _executed(evaluator, arrays, pool, settings))


def _priced(
    problem: Problem[TrainingProblem], pool: Pool, settings: TrainingSettings
) -> tuple[TrainingEvaluator, PlanArrays]:
    """Return a pool's plan with what prices its steps."""
    arrays = _arrays(problem, pool, settings)
    group = next((g for g in problem.cluster.groups if g.name == pool.node_group), None)
    if group is None:
        raise InputError("the job stands on no group of the cluster", key="node_group", value=pool.node_group)
    return with_batch(evaluator_of(problem.payload, group, arrays), settings.sequences), arrays


def _executed(
    evaluator: TrainingEvaluator, arrays: PlanArrays, pool: Pool, settings: TrainingSettings
) -> PipelineSchedule:
    """Return the schedule of a pool with the times of its passes."""
    times = evaluator.stage_times(arrays, pool.weight_dtype)
    num_micro = settings.sequences // (pool.strategy.dp * settings.micro_batch)
    return _schedule(settings.schedule, _work(times, evaluator, arrays, settings, num_micro))


def _packed(plan: Plan, problem: Problem[TrainingProblem]) -> TrainingReplay:
    """Replay the batches of a plan whose sequences differ; their mean and what runs once are the step."""
    terms = cast("dict[str, float]", plan.details.get("step_time_terms_s", {}))
    times = replayed_batches_s(plan, problem)
    mean_s = sum(times) / len(times)
    busy_s = terms.get("compute_s", 0.0) + terms.get("layer_comm_s", 0.0)
    return TrainingReplay(
        step_s=mean_s + sum(terms.get(name, 0.0) for name in _OUTSIDE),
        predicted_step_s=plan.predicted["step_time_s"].value,
        pipeline_s=mean_s,
        bubble=max(0.0, 1.0 - busy_s / mean_s),
        busy_s=(busy_s,),
    )


def _replicas(plan: Plan, problem: Problem[TrainingProblem]) -> TrainingReplay:
    """Replay every part of a replicated job; the slowest and the exchange between parts are the step."""
    terms = cast("dict[str, float]", plan.details.get("step_time_terms_s", {}))
    found: list[tuple[float, float, TrainingReplay]] = []
    for pool in plan.pools:
        if pool.training is None:
            raise InputError("a pool does not say how it trains", key="pools", value=pool.name)
        evaluator, arrays = _priced(problem, pool, pool.training)
        time = evaluator.evaluate(arrays, pool.weight_dtype).time
        outside = sum(float(getattr(time, name)[0]) for name in _OUTSIDE)
        own = _replayed(plan, _executed(evaluator, arrays, pool, pool.training))
        found.append((own.pipeline_s + outside, float(time.straggler_s[0]), own))
    step_s, straggler_s, slowest = max(found, key=lambda part: part[0])
    waiting_s = max(terms.get("straggler_s", 0.0) - straggler_s, 0.0)
    busy = tuple(busy for _, _, own in found for busy in own.busy_s)
    return replace(slowest, step_s=step_s + waiting_s + terms.get("exchange_s", 0.0), busy_s=busy)


def _replayed(plan: Plan, schedule: PipelineSchedule) -> TrainingReplay:
    terms = cast("dict[str, float]", plan.details.get("step_time_terms_s", {}))
    outside = sum(terms.get(name, 0.0) for name in _OUTSIDE)
    found = replay(schedule)
    return TrainingReplay(
        step_s=found.makespan_s + outside,
        predicted_step_s=plan.predicted["step_time_s"].value,
        pipeline_s=found.makespan_s,
        bubble=found.bubble_fraction,
        busy_s=found.busy_s,
    )


def _arrays(problem: Problem[TrainingProblem], pool: Pool, settings: TrainingSettings) -> PlanArrays:
    """Return the plan as the evaluator reads it; its split of the layers must be one of the space."""
    s = pool.strategy
    strategy = TrainingStrategy(
        tp=s.tp,
        pp=s.pp,
        dp=s.dp,
        cp=s.cp,
        ep=s.ep,
        etp=s.etp,
        num_chunks=s.num_chunks,
        micro_batch=settings.micro_batch,
        zero=settings.zero,
        dp_shard=settings.dp_shard,
        sequence_parallel=settings.sequence_parallel,
        cp_ulysses=settings.cp_ulysses,
        recompute=settings.recompute,
        recompute_layers=settings.recompute_layers,
        offload=settings.offload,
        gradients=settings.gradients,
        schedule="1f1b" if settings.schedule == "none" else settings.schedule,
    )
    num_layers = len(problem.payload.model.layers)
    wanted = tuple(settings.layers_per_chunk)
    for first in range(num_layers):
        for last in range(num_layers):
            if chunk_sizes(num_layers, s.pp * s.num_chunks, first, last) == wanted:
                return single(strategy, first_drop=first, last_drop=last)
    raise InputError("the layers cannot be split so", key="layers_per_chunk", value=wanted)


def _work(
    times: StageTimes,
    evaluator: TrainingEvaluator,
    arrays: PlanArrays,
    settings: TrainingSettings,
    num_micro: int,
) -> PipelineWork:
    """Return the passes of every chunk: a device's times are shared out by layers, ends by their place.

    Communication inside layers is part of the passes, two thirds of it backward. Chunks of a device that
    hold equally many layers take equally long.
    """
    pp, chunks = int(arrays.pp[0]), int(arrays.num_chunks[0])
    per_chunk = np.array(settings.layers_per_chunk, dtype=np.float64)
    folded = settings.schedule == "zb-v"
    devices = [stage_of_chunk(c, pp, folded=folded) for c in range(pp * chunks)]
    layers = np.zeros(pp)
    np.add.at(layers, devices, per_chunk)
    stages: list[PipelineStage] = []
    for chunk, device in enumerate(devices):
        share = per_chunk[chunk] / max(layers[device], 1.0) if chunks > 1 else 1.0
        comm = float(times.comm[device, 0])
        stages.append(
            PipelineStage(
                device=device,
                forward_s=share * (float(times.forward[device, 0]) + comm / 3.0),
                backward_input_s=share * (float(times.backward[device, 0]) + comm * 2.0 / 3.0),
                backward_weight_s=share * float(times.weight_grad[device, 0]),
                activation_bytes=share,
                weight_activation_bytes=share / 2.0,
            )
        )
    exposed = float(evaluator.hop_s(arrays)[0]) * (1.0 - evaluator.software.p2p_overlap)
    return PipelineWork(
        stages=tuple(stages),
        num_devices=pp,
        routes=(tuple(range(pp * chunks)),) * num_micro,
        send_s=exposed,
        memory_limit_bytes=(float("inf"),) * pp,
    )


def _schedule(name: str, work: PipelineWork) -> PipelineSchedule:
    if name == "none":
        name = "1f1b"
    family = FAMILIES.get(_FAMILY.get(name, name))
    return timed(work, family.build(work), family.title)
