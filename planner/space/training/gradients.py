"""What a format of gradients on the wire changes: bytes sent, memory, and passes over memory.

- `full`: the format of the training software.
- `bf16`: gradients are summed and reduced in 16 bit (Megatron-LM: --grad-reduce-in-bf16; DeepSpeed:
  communication_data_type). Where they are reduced in place, as Megatron-LM does, their buffer halves, and the
  optimizer step casts its share back to 32 bit.
- `int4`: ZeRO++ (Wang 2023, arXiv 2306.10209, section 3.3): every gradient is quantised to 4 bit, exchanged
  inside nodes, summed, quantised again and exchanged between nodes; it is part of ZeRO-3, and DeepSpeed
  does it on several nodes alone.
- `1bit`: 1-bit Adam after its warm-up (Tang 2021, arXiv 2102.02888, algorithm 1): the sign of the momentum
  is exchanged, what that leaves out stays on the rank (worker error) and on the rank that sums (server
  error). Nothing of it hides behind the backward pass, and ZeRO cannot share out its states.
"""

from __future__ import annotations

import numpy as np

from cost_models.cost import FloatArray
from planner.ir.training import Gradients
from planner.space.training.plans import GRADIENTS, PlanArrays
from planner.space.training.software import TrainingSoftware

_HALF_BYTES = 2.0
_WIRE_BYTES: dict[Gradients, float] = {"int4": 0.5, "1bit": 0.125}
"""Bytes of a gradient on the wire; scales are one number per row or more and do not count."""
_PASS_BYTES: dict[Gradients, float] = {"int4": 3.5, "1bit": 20.0}
"""Bytes of memory that packing and unpacking move per parameter: int4 reads 2 and writes 0.5, reads and
writes 0.5 for the sum inside the node; 1bit reads momentum and error, writes the error, and reads and
writes the momentum as it unpacks, all in 32 bit."""
_ERROR_BYTES = 4.0


def chosen(plans: PlanArrays, name: Gradients) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which plans reduce gradients in a format, [plans]."""
    return plans.gradients == GRADIENTS.index(name)


def wire_bytes(plans: PlanArrays, software: TrainingSoftware, ranks_per_node: FloatArray) -> FloatArray:
    """Return the bytes of one reduced gradient, [plans]; `ranks_per_node` share a node.

    A format for several nodes stays the software's own inside one.
    """
    own = software.reduce_bytes
    found = np.where(chosen(plans, "bf16"), min(_HALF_BYTES, own), own)
    spread = plans.dp_shard * plans.cp > ranks_per_node
    found = np.where(chosen(plans, "int4") & spread, _WIRE_BYTES["int4"], found)
    return np.where(chosen(plans, "1bit"), _WIRE_BYTES["1bit"], found)


def pass_bytes(plans: PlanArrays, ranks_per_node: FloatArray) -> FloatArray:
    """Return the bytes of memory that packing one gradient moves, [plans]."""
    spread = plans.dp_shard * plans.cp > ranks_per_node
    found = np.where(chosen(plans, "int4") & spread, _PASS_BYTES["int4"], 0.0)
    return np.where(chosen(plans, "1bit"), _PASS_BYTES["1bit"], found)


def held_bytes(plans: PlanArrays, software: TrainingSoftware) -> FloatArray:
    """Return the bytes of one gradient in memory, [plans]."""
    own = software.gradient_bytes
    in_place = own == software.reduce_bytes
    return np.where(chosen(plans, "bf16") & in_place, min(_HALF_BYTES, own), own)


def error_bytes(plans: PlanArrays) -> FloatArray:
    """Return the bytes per parameter of what compression leaves out and keeps for the next step, [plans]."""
    ranks = (plans.dp * plans.cp).astype(np.float64)
    return np.where(chosen(plans, "1bit"), _ERROR_BYTES * (1.0 + 1.0 / ranks), 0.0)
