"""Recomputing some layers: what a run did whose recompute is not stated and that fits neither way best.

Stacks recompute any number of the layers of a stage (Megatron-LM: --recompute-num-layers). Time and memory
of such a plan lie between those of recomputing none and all, in proportion to the layers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import ceil

import numpy as np

from planner.space.training.evaluate import Evaluation, StepTime
from planner.space.training.memory import StageMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Plan `light` with the share `share` of its layers as in plan `full`: its step time, seconds."""

    light: int
    full: int
    share: float
    step_s: float


def best_mix(
    result: Evaluation, pairs: list[tuple[int, int]], num_layers: list[int], capacity: float
) -> Mix | None:
    """Return the fastest mix that fits, None if none does.

    Parameters
    ----------
    result
        Plans of which `pairs` (light, full) differ only in recompute.
    num_layers
        Layers of a stage, for each pair.
    capacity
        Memory of a device, bytes.
    """
    found: Mix | None = None
    peak, time = result.peak_bytes, result.time.total_s
    for (light, full), layers in zip(pairs, num_layers, strict=True):
        if not (peak[full] <= capacity < peak[light] < np.inf):
            continue
        needed = (peak[light] - capacity) / (peak[light] - peak[full])
        share = ceil(needed * layers) / layers
        step_s = float((1.0 - share) * time[light] + share * time[full])
        if found is None or step_s < found.step_s:
            found = Mix(light=light, full=full, share=share, step_s=step_s)
    return found


def blended(light: Evaluation, full: Evaluation, share: float) -> Evaluation:
    """Return one plan's evaluation with the share `share` of `full` and the rest of `light`."""

    def mixed(first: object, second: object, kind: type) -> dict[str, object]:
        return {
            f.name: (1.0 - share) * getattr(first, f.name) + share * getattr(second, f.name)
            for f in fields(kind)
        }

    first, second = light.memory[0], full.memory[0]
    both = first is not None and second is not None
    memory = StageMemory(**mixed(first, second, StageMemory)) if both else None  # pyright: ignore[reportArgumentType] - arrays of the same names
    return replace(
        light,
        time=StepTime(**mixed(light.time, full.time, StepTime)),  # pyright: ignore[reportArgumentType] - arrays of the same names
        memory=[memory],
        peak_bytes=(1.0 - share) * light.peak_bytes + share * full.peak_bytes,
        allocated_bytes=(1.0 - share) * light.allocated_bytes + share * full.allocated_bytes,
    )
