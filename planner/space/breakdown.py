"""Where the time of a step goes, by kind of work: the same pieces and prices as the search uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cost_models.serving.iteration import with_launches
from cost_models.work import Attention, Collective, ExpertGemm, Gemm, KvTransfer, StateScan, Work
from planner.ir.strategy import ServingStrategy
from planner.space.images import lower_images
from planner.space.lower import Piece, StepGrid, lower_embedding, lower_head, lower_layer
from planner.space.pricing import SCALED_WORK, Pricer

_KINDS: tuple[tuple[type, str], ...] = (
    (Gemm, "linear layers"),
    (ExpertGemm, "experts"),
    (Attention, "attention"),
    (StateScan, "state scans"),
    (Collective, "communication"),
    (KvTransfer, "communication"),
)
_OTHER = "memory-bound kernels"
_ENGINE = "engine overhead"
_TOWER = "vision tower"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step to break down: tokens in it, of which `num_sequences` are one each of decoding sequences.

    `num_prompts` whole prompts of the workload's mix are prefilled by it (may be a fraction).
    """

    num_tokens: float
    num_sequences: float
    num_prompts: float
    token_budget: float


def step_seconds(
    pricer: Pricer, strategy: ServingStrategy, weight_fmt: str, kv_fmt: str, step: Step
) -> dict[str, float]:
    """Return seconds by kind of work for one step through all stages, on the busiest device of each.

    Communication counts as far as the engine does not hide it. Sends between stages are left out.
    """
    how = pricer.lowering(strategy, weight_fmt, kv_fmt)
    grid = StepGrid(
        tokens=np.array([step.num_tokens / strategy.prefill_cp]),
        sequences=np.array([step.num_sequences]),
        requests=pricer.requests,
        token_budget=step.token_budget,
    )
    seconds: dict[str, float] = {}
    for kind, count in Counter(pricer.kind_of_layer).items():
        _add(seconds, lower_layer(pricer.layer_kinds[kind], how, grid), pricer, step, count)
    _add(seconds, lower_embedding(how, grid), pricer, step, 1)
    _add(seconds, lower_head(how, grid), pricer, step, 1)
    software = pricer.costs.software
    seconds[_ENGINE] = (
        software.per_step_s.value * strategy.pp
        + software.per_layer_s.value * pricer.model.num_layers
        + software.per_sequence_s.value * step.num_sequences
    )
    if step.num_prompts > 0.0 and pricer.images is not None and pricer.model.vision is not None:
        tower: dict[str, float] = {}
        _add(tower, lower_images(pricer.images, pricer.model.vision, how), pricer, step, 1)
        seconds[_TOWER] = sum(tower.values())
    if step.num_prompts > 0.0:
        whole = pricer.stage_shapes((pricer.model.num_layers,))[0]
        device_s = sum(seconds.values())
        launches_s = pricer.prompt_step_s(whole)
        step_s = float(with_launches(device_s, launches_s, software.launches_meet))
        seconds[_ENGINE] += step_s - device_s
    return seconds


def _add(seconds: dict[str, float], pieces: Iterable[Piece], pricer: Pricer, step: Step, count: int) -> None:
    """Add the time of `count` equal parts of the model to `seconds`, by kind of work."""
    weights = pricer.requests.weights
    exposed = 1.0 - pricer.costs.software.overlap.value
    often = {"tokens": 1.0, "sequences": float(step.num_sequences > 0.0), "prompts": step.num_prompts}
    for piece in pieces:
        if not often[piece.family]:
            continue
        times_s = pricer.costs.model.price(piece.work).time_s * piece.count
        if piece.family == "prompts":
            time_s = float(np.broadcast_to(times_s, weights.shape) @ weights)
        else:
            time_s = float(np.ravel(times_s)[0])
        share = exposed if piece.is_communication else 1.0
        if isinstance(piece.work, SCALED_WORK):
            share *= pricer.costs.software.kernel_scale
        name = _kind(piece.work)
        seconds[name] = seconds.get(name, 0.0) + time_s * often[piece.family] * count * share


def _kind(work: Work) -> str:
    return next((name for cls, name in _KINDS if isinstance(work, cls)), _OTHER)
