"""A training job as the checker sees it: its pool, its problem, and which layers stand on which stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import Layer
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.plan.schema import Pool, StrategyModel, TrainingSettings
from planner.verify.rule import Case

FOLDED = ("zb-v",)
"""Schedules whose second lap of chunks runs back over the stages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """One training job of a plan."""

    pool: Pool
    settings: TrainingSettings
    problem: Problem[TrainingProblem]
    group: NodeGroup

    @property
    def strategy(self) -> StrategyModel:
        """Degrees of the job."""
        return self.pool.strategy

    @property
    def num_micro(self) -> int:
        """Micro-batches of a step on one data-parallel rank."""
        return self.settings.sequences // (self.strategy.dp * self.settings.micro_batch)

    @property
    def tokens(self) -> float:
        """Tokens of a micro-batch on one context rank."""
        if self.settings.rank_tokens:
            return float(self.settings.rank_tokens)
        return self.settings.micro_batch * self.settings.seq_len / self.strategy.cp

    @property
    def num_stages(self) -> int:
        """Stages of the whole pipeline, those on other groups included."""
        return self.settings.num_stages or self.strategy.pp

    def recomputed(self, stage: int) -> tuple[str, int]:
        """Return how a stage of this pool recomputes, and of how many layers (0: all)."""
        if self.settings.recompute_stages:
            own = self.settings.recompute_stages[stage]
            return own.recompute, own.layers
        return self.settings.recompute, self.settings.recompute_layers

    def stage_of(self, chunk: int) -> int:
        """Return the stage that holds a chunk, counted within this pool."""
        lap, place = divmod(chunk, self.strategy.pp)
        back = self.settings.schedule in FOLDED and lap % 2 == 1
        return self.strategy.pp - 1 - place if back else place

    def stage_layers(self) -> list[list[Layer]]:
        """Return the layers of every stage of this pool."""
        layers = list(self.problem.payload.model.layers)
        found: list[list[Layer]] = [[] for _ in range(self.strategy.pp)]
        start = self.settings.first_layer
        for chunk, count in enumerate(self.settings.layers_per_chunk):
            found[self.stage_of(chunk)].extend(layers[start : start + count])
            start += count
        return found

    def first_layers(self, stage: int, count: int) -> set[int]:
        """Return which layers of a stage are among the first `count` of their chunk."""
        found, start = set[int](), 0
        for chunk, size in enumerate(self.settings.layers_per_chunk):
            if self.stage_of(chunk) == stage:
                found.update(range(start, start + min(count, size)))
                start += size
        return found

    @property
    def head_stage(self) -> int | None:
        """Stage of this pool that holds the head: that of the last chunk; None if another pool has it."""
        if self.settings.first_stage + self.strategy.pp < self.num_stages:
            return None
        return self.stage_of(max(len(self.settings.layers_per_chunk) - 1, 0))


def jobs(case: Case) -> Iterator[JobView]:
    """Yield the jobs of a plan that state their settings and stand on a known group."""
    problem = cast("Problem[TrainingProblem]", case.problem)
    groups = {group.name: group for group in problem.cluster.groups}
    for pool in case.plan.pools:
        if pool.training is not None and pool.node_group in groups:
            yield JobView(pool=pool, settings=pool.training, problem=problem, group=groups[pool.node_group])


def peak_flops_per_s(job: JobView) -> float:
    """Return the peak of a device in the job's precision, or in 16 bit if that is higher."""
    peaks = job.group.device.peak_flops_per_s
    known = [peaks[name].value for name in ("bf16", "fp16", job.pool.weight_dtype) if name in peaks]
    if job.pool.weight_dtype.startswith("fp8") and "fp8" in peaks:
        known.append(peaks["fp8"].value)
    return max(known)
