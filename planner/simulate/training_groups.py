"""A pipeline over several node groups as work to replay: stages priced again, every link with its send."""

from __future__ import annotations

import numpy as np

from planner.errors import InputError
from planner.ir.pipeline_schedule import PipelineStage, PipelineWork
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem, TrainingStrategy
from planner.plan.schema import Pool, TrainingSettings
from planner.space.training.chain_pricing import BandPricer
from planner.space.training.chain_stages import ChainGroup, StageBand
from planner.space.training.joints import joint_hop_s
from planner.space.training.plans import RECOMPUTES, PlanArrays, single
from planner.space.training.source import evaluator_of


def spread_work(problem: Problem[TrainingProblem], pools: list[Pool]) -> PipelineWork:
    """Return the passes and sends of a pipeline whose stages stand on several groups.

    Raises
    ------
    InputError
        If a pool has no settings, stands on no group, or a stage cannot be as the plan says.
    """
    ordered = sorted(pools, key=lambda pool: _settings(pool).first_stage)
    groups = [_priced(problem, pool) for pool in ordered]
    num_stages = sum(pool.strategy.pp for pool in ordered)
    first = _settings(ordered[0])
    num_micro = first.global_batch // (ordered[0].strategy.dp * first.micro_batch)
    stages: list[PipelineStage] = []
    sends: list[float] = []
    for n, (pool, (group, plan)) in enumerate(zip(ordered, groups, strict=True)):
        evaluator = group.evaluator
        inside = float(evaluator.hop_s(plan)[0]) * (1.0 - evaluator.software.p2p_overlap)
        stages += _stages(pool, group, plan, (len(stages), num_stages, num_micro))
        sends += [inside] * (pool.strategy.pp - 1)
        if n + 1 < len(groups):
            following, other = groups[n + 1]
            sends.append(joint_hop_s(problem.cluster, (evaluator, following.evaluator), (plan, other)))
    return PipelineWork(
        stages=tuple(stages),
        num_devices=num_stages,
        routes=(tuple(range(num_stages)),) * num_micro,
        send_s=max(sends, default=0.0),
        memory_limit_bytes=(float("inf"),) * num_stages,
        link_send_s=tuple(sends),
    )


def _settings(pool: Pool) -> TrainingSettings:
    if pool.training is None:
        raise InputError("a pool does not say how it trains", key="pools", value=pool.name)
    return pool.training


def _priced(problem: Problem[TrainingProblem], pool: Pool) -> tuple[ChainGroup, PlanArrays]:
    group = next((g for g in problem.cluster.groups if g.name == pool.node_group), None)
    if group is None:
        raise InputError("the job stands on no group of the cluster", key="node_group", value=pool.node_group)
    s, settings = pool.strategy, _settings(pool)
    strategy = TrainingStrategy(
        tp=s.tp,
        pp=max(2, s.pp),
        dp=s.dp,
        cp=s.cp,
        ep=s.ep,
        etp=s.etp,
        micro_batch=settings.micro_batch,
        zero=settings.zero,
        dp_shard=settings.dp_shard,
        sequence_parallel=settings.sequence_parallel,
        cp_ulysses=settings.cp_ulysses,
        offload=settings.offload,
        gradients=settings.gradients,
    )
    plan = single(strategy)
    evaluator = evaluator_of(problem.payload, group, plan)
    return ChainGroup(evaluator=evaluator, capacity_bytes=float("inf")), plan


def _stages(
    pool: Pool, group: ChainGroup, plan: PlanArrays, place: tuple[int, int, int]
) -> list[PipelineStage]:
    """Return the stages of one pool; `place` is its first stage, all stages, and micro-batches."""
    settings = _settings(pool)
    band = BandPricer(group, pool.weight_dtype, RECOMPUTES).band(plan, max(settings.layers_per_chunk))
    found: list[PipelineStage] = []
    layer = settings.first_layer
    for n, count in enumerate(settings.layers_per_chunk):
        if count < 1 or layer + count > band.shape[0]:
            raise InputError("the layers cannot be split so", key="layers_per_chunk", value=count)
        at = (layer, count - 1)
        comm, forward = float(band.comm_s[at]), float(band.forward_s[at])
        weight = float(band.weight_s[at])
        again = _again_s(band, settings, n, at)
        whole = float(band.plain_s[at]) + again
        found.append(
            PipelineStage(
                device=place[0] + n,
                forward_s=forward + comm / 3.0,
                backward_input_s=max(whole - forward - weight - comm / 3.0, 0.0),
                backward_weight_s=weight,
                activation_bytes=1.0,
                weight_activation_bytes=0.5,
            )
        )
        layer += count
    return found


def _again_s(band: StageBand, settings: TrainingSettings, stage: int, at: tuple[int, int]) -> float:
    """Return what a stage recomputes, seconds."""
    if not settings.recompute_stages:
        return float(band.extra_s[settings.recompute][at])
    own = settings.recompute_stages[stage]
    if own.recompute != "full" or not own.layers:
        return float(band.extra_s[own.recompute][at])
    last = min(at[0] + own.layers, band.shape[0])
    return float(np.asarray(band.again_s)[last] - np.asarray(band.again_s)[at[0]])
