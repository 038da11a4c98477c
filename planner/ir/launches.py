"""How many kernels an engine launches for a layer in a step that no graph covers, counted from its parts.

A count for the usual engine, not a measurement: maps that share an input run as one, norms carry the
residual, and collectives are left out. It says how layers differ from each other; what a launch costs is a
fact of the engine, which states it for a dense layer (`DENSE_LAUNCHES`).
"""

from __future__ import annotations

from planner.ir.model_graph import AttentionCore, Experts, Layer, Linear, Small, StateCore

DENSE_LAUNCHES = 10
"""Of a dense layer: two norms, four products, an activation, and three of attention."""
_ATTENTION = 3
"""Rotation, the write to the cache, attention."""
_LATENT = 6
"""The same, keys expanded and joined with their rotated part, and partial results merged."""
_INDEX = 4
"""Of a sparse indexer: rotation, the write to its cache, scores, and the choice."""
_STATE = 6
"""Of a linear mixer: convolution, gates, and four of a scan in chunks."""
_EXPERTS = 8
"""Scores, choice, sorting, gathering, two grouped products, an activation, and the weighted sum."""
_GATED = ("dense_ffn", "shared_expert")


def num_launches(layer: Layer) -> int:
    """Return the kernels that are launched for a layer when each is launched by itself."""
    cores = sum(_core(op) for op in layer.ops if isinstance(op, AttentionCore) and not op.cross)
    states = _STATE * sum(isinstance(op, StateCore) for op in layer.ops)
    experts = _EXPERTS * sum(isinstance(op, Experts) for op in layer.ops)
    norms = sum("norm" in op.name for op in layer.ops if isinstance(op, Small))
    maps = [op for op in layer.ops if isinstance(op, Linear)]
    products = len({op.gemm or f"#{index}" for index, op in enumerate(maps)})
    activations = len({op.slot for op in maps if op.slot in _GATED})
    return cores + states + experts + norms + products + activations


def _core(op: AttentionCore) -> int:
    return (_LATENT if op.kind == "mla" else _ATTENTION) + (_INDEX if op.index_topk else 0)
