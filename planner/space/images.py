"""The vision tower at work: patches of a request's images through its layers, then through the projector.

Every map of the tower sees the patches, those of mergers and projectors the tokens. Patches of an image
attend to one another in both directions, which is twice the work of causal attention.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cost_models.work import Attention, Collective, Gemm, Stream
from planner.ir.model_graph import Linear, VisionTower
from planner.ir.workload import Images
from planner.space.lower import HALF_BYTES, Lowering, Piece

_AFTER = ("projector", "merger", "adapter")
"""Words in the names of maps that see tokens."""


def lower_images(images: Images, tower: VisionTower, how: Lowering) -> Iterator[Piece]:
    """Yield what the images of one request cost on a device of the first stage."""
    tp = how.strategy.tp
    patches, tokens = np.array([float(images.patches)]), np.array([float(images.tokens)])
    for op in how.model.extra:
        if not isinstance(op, Linear) or op.slot != "vision":
            continue
        rows = (tokens if any(word in op.name for word in _AFTER) else patches) * images.count
        k, n = op.shape_per_rank(tp)
        yield Piece(family="prompts", work=Gemm(m=rows, n=float(n), k=float(k), fmt=how.fmt(op)))
        if op.name.endswith("attn.qkv"):
            yield _attention(op, tower, images, tp)
            moved = patches * images.count * op.in_features * HALF_BYTES
            yield Piece(family="prompts", work=Stream(num_bytes=moved * 8.0, num_kernels=2.0))
            if tp > 1:
                reduced = Collective(op="all_reduce", num_bytes=moved, span=how.tensor_span)
                yield Piece(family="prompts", work=reduced, count=2.0)


def _attention(op: Linear, tower: VisionTower, images: Images, tp: int) -> Piece:
    width = op.out_features / 3.0 / tower.num_heads
    heads = float(-(-tower.num_heads // tp))
    return Piece(
        family="prompts",
        work=Attention(
            phase="prefill",
            batch=np.array([2.0 * images.count]),
            q_len=float(images.patches),
            kv_len=float(images.patches),
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=width,
            v_head_dim=width,
        ),
    )
