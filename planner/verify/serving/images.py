"""The checker's own work of a vision tower: what the images of one request cost on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil

from cost_models.work import Attention, Collective, Gemm, Span, Stream, Work
from planner.ir.model_graph import Linear, ModelGraph
from planner.ir.workload import Images
from planner.verify.serving.shards import linear_shape

_HALF = 2.0


def image_work(
    model: ModelGraph, images: Images, tp: int, tensor: Span, fmt: Callable[[Linear], str]
) -> Iterator[Work]:
    """Yield the products, attention and elementwise work of all images of a request."""
    tower = model.vision
    if tower is None:
        return
    for op in model.extra:
        if not isinstance(op, Linear):
            continue
        behind = "projector" in op.name or "merger" in op.name
        rows = images.count * (images.tokens if behind else images.patches)
        inputs, outputs = linear_shape(op, tp)
        yield Gemm(m=float(rows), n=float(outputs), k=float(inputs), fmt=fmt(op))
        if not op.name.endswith(".qkv"):
            continue
        heads, width = ceil(tower.num_heads / tp), op.out_features / (3.0 * tower.num_heads)
        # Each patch meets all: two causal triangles.
        yield Attention(
            phase="prefill",
            batch=2.0 * images.count,
            q_len=float(images.patches),
            kv_len=float(images.patches),
            num_heads=float(heads),
            num_kv_heads=float(heads),
            head_dim=width,
            v_head_dim=width,
        )
        row = rows * op.in_features * _HALF
        yield Stream(num_bytes=8.0 * row, num_kernels=2.0)
        for _ in range(2 if tp > 1 else 0):
            yield Collective(op="all_reduce", num_bytes=row, span=tensor)
