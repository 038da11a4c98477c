"""Kernels of a layer, counted by hand from public architectures."""

from __future__ import annotations

import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.models import bundled_model
from planner.ir.launches import DENSE_LAUNCHES, num_launches


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        # two norms, qkv, o, gate and up, down, activation; rotation, cache, attention
        ("llama-3.1-8b", {10}),
        # the same without the dense maps, with a router and eight kernels of experts
        ("openai/gpt-oss-120b", {16}),
        # two more norms, of queries and keys
        ("MiniMaxAI/MiniMax-M2.5", {18}),
        # four norms, four maps, six of attention; then dense maps, or router, experts and two shared maps
        ("deepseek-ai/DeepSeek-R1", {17, 26}),
    ],
)
def test_layers_launch_what_their_parts_say(name: str, counts: set[int]) -> None:
    model = bundled_model(name, Diagnostics())
    assert {num_launches(layer) for layer in model.layers} == counts


def test_the_reference_is_a_dense_layer() -> None:
    (layer,) = set(bundled_model("llama-3.1-8b", Diagnostics()).layers)
    assert num_launches(layer) == DENSE_LAUNCHES
