"""What no schedule of a pipeline can beat: the activations it must hold, and the time it must take."""

from __future__ import annotations

from collections.abc import Sequence

from cost_models.schedule.closed_forms import CLOSED_FORMS, PipelineShape
from planner.verify.training.view import JobView

_FORMS = {"interleaved": "interleaved-1f1b"}


def least_held(job: JobView) -> list[float]:
    """Return the micro-batches whose activations each stage holds at its peak, by the closed form.

    What a zero-bubble schedule holds beyond input gradients is not counted.
    """
    pp, first = job.num_stages, job.settings.first_stage
    if pp == 1:
        return [1.0]
    name = job.settings.schedule
    form = CLOSED_FORMS[_FORMS.get(name, name)]
    shape = PipelineShape(
        num_devices=pp,
        num_microbatches=job.num_micro,
        forward_s=1.0,
        backward_input_s=1.0,
        backward_weight_s=1.0,
        num_chunks=job.strategy.num_chunks,
        weight_part=0.0,
    )
    held = [min(held, float(job.num_micro)) for held in form.peak(shape)]
    return held[first : first + job.strategy.pp]


def least_step_s(job: JobView, forward_s: Sequence[float], recompute: bool) -> float:
    """Return a bound on the step: every stage has its work, after the first and before the last micro-batch.

    A stage starts when one forward pass of a chunk of each earlier stage is done, and after its last work the
    input gradient still runs through them. `forward_s` are forward passes at the device's peak.
    """
    chunks, best, before = job.strategy.num_chunks, 0.0, 0.0
    passes = 4.0 if recompute else 3.0
    for time_s in forward_s:
        best = max(best, before + job.num_micro * passes * time_s)
        before += 2.0 * time_s / chunks
    return best
