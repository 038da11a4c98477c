"""Prediction of one published training run: step time with its interval, and memory."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import ceil

import numpy as np

from cost_models.curves import NoCurveError
from cost_models.formats import FORMATS, UnsupportedFormatError, executed_format
from planner.accuracy.training.clusters import RunCluster, cluster_of
from planner.accuracy.training.metrics import (
    FEASIBLE_METRIC,
    MEMORY_METRICS,
    Job,
    iteration_s,
    model_flops_per_token,
)
from planner.accuracy.training.models import assumptions_of, model_of
from planner.accuracy.training.plans import Candidates, candidates_of
from planner.accuracy.training.recompute import best_mix, blended
from planner.accuracy.training.rows import RowError, TrainingRow
from planner.accuracy.training.software import software_of
from planner.ir.model_graph import ModelGraph
from planner.ir.training import TrainingStrategy, TrainingWorkload
from planner.space.training.evaluate import Evaluation, StepTime, TrainingEvaluator
from planner.space.training.memory import StageMemory
from planner.space.training.plans import PlanArrays, concatenate, single
from planner.space.training.software import TrainingSoftware, training_cost_model

_MOST_SEQUENCE = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """All that is known of a row before it is priced."""

    row: TrainingRow
    model: ModelGraph
    cluster: RunCluster
    software: TrainingSoftware
    candidates: Candidates
    seq_len: int
    fmt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What was predicted for a row, beside what was measured (None where it was not).

    `allocated_bytes` is the framework's own peak, `peak_bytes` what the device must have, `fits` whether it
    has it. `assumed` says what the row left open and how it was filled.
    """

    row: TrainingRow
    device: str
    software: str
    strategy: TrainingStrategy
    step_s: float
    low_s: float
    high_s: float
    mfu: float
    flops_s: float
    tokens_per_s: float
    measured_s: float | None
    allocated_bytes: float
    peak_bytes: float
    measured_bytes: float | None
    predicted_bytes: float
    fits: bool
    terms: tuple[tuple[str, float], ...]
    assumed: tuple[str, ...]


def question_of(row: TrainingRow, forced: TrainingSoftware | None = None) -> Question:
    """Return what a row asks; `forced` is the training stack where the caller knows it.

    Raises
    ------
    RowError
        If the row lacks or contradicts what a price needs.
    """
    model = model_of(row)
    software = forced or software_of(row)
    cluster = cluster_of(row)
    if cluster.slower != 1.0:
        software = replace(software, compute_scale=software.compute_scale * cluster.slower)
    seq_len = row.seq_len or 0
    if not 0 < seq_len <= _MOST_SEQUENCE:
        raise RowError("the sequence length is unknown or absurd")
    peaks = {key: fact.value for key, fact in cluster.group.device.peak_flops_per_s.items()}
    fmt = executed_format(peaks, row.fmt)
    if fmt is None or (FORMATS[row.fmt].quantises and not FORMATS[fmt].quantises):
        raise RowError(f"{cluster.group.device.name} cannot train in {row.fmt}")
    return Question(
        row=row,
        model=model,
        cluster=cluster,
        software=software,
        candidates=candidates_of(row, model, software),
        seq_len=seq_len,
        fmt=fmt,
    )


def predict(question: Question) -> Prediction:
    """Return the prediction of a row.

    What the row leaves open is filled as its authors would: with the fastest choice that fits in memory. A
    row that asks whether its plan fits is filled with the fastest choice and the usual ZeRO stage: a choice
    that makes it fit would beg the question.

    Raises
    ------
    RowError
        If a kernel cannot be priced or the layers cannot be split.
    """
    evaluator, plans = _evaluator(question)
    try:
        result = evaluator.evaluate(plans, question.fmt)
    except (UnsupportedFormatError, NoCurveError, ValueError) as error:
        raise RowError(str(error)) from error
    asked = question.row.metric.lower() == FEASIBLE_METRIC
    fits = np.asarray(result.peak_bytes <= _capacity(question)) | asked
    times = np.where(fits, result.time.total_s, np.inf)
    usual = np.where(plans.zero == question.candidates.usual_zero, times, np.inf)
    times = usual if np.isfinite(usual).any() else times
    best = int(times.argmin()) if np.isfinite(times).any() else int(result.peak_bytes.argmin())
    if not np.isfinite(result.time.total_s[best]):
        raise RowError("the layers cannot be split over so many stages and chunks")

    def alone(index: int) -> Evaluation:
        return result if len(plans) == 1 else evaluator.evaluate(plans.take(np.array([index])), question.fmt)

    strategy = question.candidates.plans[best].strategy
    mix = None if asked else best_mix(result, *_pairs(question, strategy.zero), _capacity(question))
    if mix is not None and mix.step_s < times[best]:
        strategy = question.candidates.plans[mix.full].strategy
        return _prediction(
            question, strategy, blended(alone(mix.light), alone(mix.full), mix.share), mix.share
        )
    return _prediction(question, strategy, alone(best))


def _pairs(question: Question, zero: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Return pairs of plans that differ only in recomputing everything or not, and layers of their stages."""
    plans = question.candidates.plans
    position = {plan: index for index, plan in enumerate(plans)}
    pairs = [
        (index, full)
        for index, plan in enumerate(plans)
        if plan.strategy.recompute != "full" and plan.strategy.zero == zero
        if (full := position.get(replace(plan, strategy=replace(plan.strategy, recompute="full"))))
        is not None
    ]
    layers = len(question.model.layers)
    return pairs, [ceil(layers / plans[light].strategy.pp) for light, _ in pairs]


def _evaluator(question: Question) -> tuple[TrainingEvaluator, PlanArrays]:
    plans = concatenate(
        [
            single(c.strategy, first_drop=c.first_drop, last_drop=c.last_drop)
            for c in question.candidates.plans
        ]
    )
    group = question.cluster.group
    evaluator = TrainingEvaluator(
        question.model,
        group,
        training_cost_model(group, question.software),
        question.software,
        TrainingWorkload(global_batch=question.candidates.global_batch, seq_len=question.seq_len),
        np.unique(plans.micro_batch),
    )
    return evaluator, plans


def _prediction(
    question: Question, strategy: TrainingStrategy, alone: Evaluation, share: float = 1.0
) -> Prediction:
    """Return the prediction that one plan's evaluation gives; `share` of its layers do what it says."""
    row, job = question.row, _job(question)
    low, high = (float(bound[0]) for bound in alone.interval_s())
    step_s, tokens = float(alone.time.total_s[0]), job.global_batch * job.seq_len
    flops_s = job.flops_per_token * tokens / (row.gpus * job.peak_flops_per_s)
    peak, allocated = float(alone.peak_bytes[0]), float(alone.allocated_bytes[0])
    measured_bytes, predicted_bytes = _memory(row, alone.memory[0], allocated)
    return Prediction(
        row=row,
        device=question.cluster.group.device.name,
        software=question.software.name,
        strategy=strategy,
        step_s=step_s,
        low_s=low,
        high_s=high,
        mfu=flops_s / step_s,
        flops_s=flops_s,
        tokens_per_s=tokens / step_s,
        measured_s=iteration_s(row, job, strategy.recompute),
        allocated_bytes=allocated,
        peak_bytes=peak,
        measured_bytes=measured_bytes,
        predicted_bytes=predicted_bytes,
        fits=peak <= _capacity(question),
        terms=tuple((f.name, float(getattr(alone.time, f.name)[0])) for f in fields(StepTime)),
        assumed=(
            *row.told,
            *assumptions_of(row),
            *question.cluster.notes,
            *_filled(question.candidates, strategy, share),
        ),
    )


def _capacity(question: Question) -> float:
    device = question.cluster.group.device
    stated = device.driver_memory_bytes or device.memory_bytes
    return stated.value


def _job(question: Question) -> Job:
    peaks = {key: fact.value for key, fact in question.cluster.group.device.peak_flops_per_s.items()}
    half = peaks.get("bf16") or peaks.get("fp16") or max(peaks.values())
    return Job(
        global_batch=question.candidates.global_batch,
        seq_len=question.seq_len,
        flops_per_token=model_flops_per_token(
            question.model, question.seq_len, causal="causal" in question.row.text("flops_count").lower()
        ),
        peak_flops_per_s=half,
    )


def _memory(row: TrainingRow, memory: StageMemory | None, allocated: float) -> tuple[float | None, float]:
    """Return the measured memory and what it is compared with."""
    metric = row.metric.lower()
    if metric not in MEMORY_METRICS or memory is None:
        return row.memory_bytes, allocated
    measured = row.value * MEMORY_METRICS[metric]
    if "activations" in metric:
        return measured, float(memory.activations.max())
    if "params" in metric:
        return measured, float((memory.weights + memory.gradients + memory.optimizer).max())
    return measured, allocated


def _filled(candidates: Candidates, strategy: TrainingStrategy, share: float) -> tuple[str, ...]:
    values = {
        "micro_batch": strategy.micro_batch,
        "virtual_pp": strategy.num_chunks,
        "recompute": strategy.recompute + ("" if share >= 1.0 else f" of {share:.0%} of the layers"),
        "zero_stage": strategy.zero,
    }
    return tuple(f"{name} not stated: {values[name]} taken" for name in candidates.unknown)
