"""Times of the stages of training plans, and lower bounds on what plans cost."""

from __future__ import annotations

from dataclasses import dataclass

from cost_models.cost import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Per-stage times of one micro-batch, seconds, [stages, plans]; `comm` is what no overlap hides.

    `error` sums time by spread (log) of the kernels, for the interval.
    """

    forward: FloatArray
    backward: FloatArray
    weight_grad: FloatArray
    comm: FloatArray
    error: FloatArray

    @property
    def total(self) -> FloatArray:
        """All of one micro-batch."""
        return self.forward + self.backward + self.weight_grad + self.comm


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTotals:
    """Times of one micro-batch through all layers on one rank, ends included, seconds, [plans].

    `selective` and `full` are what recomputing adds.
    """

    forward: FloatArray
    backward: FloatArray
    weight_grad: FloatArray
    selective: FloatArray
    full: FloatArray
    comm: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """Lower bounds on what plans cost, each [plans]: step, compute of the slowest stage, fullest stage."""

    step_s: FloatArray
    compute_s: FloatArray
    least_bytes: FloatArray
