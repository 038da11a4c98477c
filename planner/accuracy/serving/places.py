"""How many sequences the decode workers of a measured run took at once, where the file does not say.

TensorRT-LLM allocates for a fixed number of sequences per rank, and published runs set it to a power of two
near the highest load of a sweep; clients beyond it wait in front of the decode pool, which decides the time
to first token. SGLang and vLLM take what their cache holds.

Source: recipes of the disaggregated runs of InferenceX, whose names hold the limit (``gen4_tep8_batch32``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import floor, log2

from planner.accuracy.serving.recipes import has_recipe_per_load, most_overload
from planner.accuracy.serving.setup import Setup

_BUILT_TO_SIZE = ("trtllm",)


def with_places(setups: Sequence[Setup]) -> list[Setup]:
    """Return the setups with the limit of their decode workers, read from the sweep that each belongs to."""
    top: dict[tuple[object, ...], float] = {}
    for setup in setups:
        if _unsaid(setup):
            top[_sweep(setup)] = max(top.get(_sweep(setup), 0.0), _per_rank(setup))
    return [_limited(setup, top[_sweep(setup)]) if _unsaid(setup) else setup for setup in setups]


def _unsaid(setup: Setup) -> bool:
    stated = setup.row.number("max_num_seqs")
    return setup.kind == "disaggregated" and setup.engine in _BUILT_TO_SIZE and not stated


def _per_rank(setup: Setup) -> float:
    decode = setup.halves[1]
    return setup.load / (decode.replicas * decode.strategy.attention_dp)


def _sweep(setup: Setup) -> tuple[object, ...]:
    """Return what runs of one sweep share: everything but the load."""
    row = setup.row
    said = (row.source, row.text("version"), setup.engine, setup.device, setup.model_name)
    halves = tuple((half.strategy, half.replicas, half.weight_fmt) for half in setup.halves)
    own_load = setup.load if has_recipe_per_load(row) else 0.0
    return (*said, setup.lengths, halves, own_load)


def _limited(setup: Setup, top: float) -> Setup:
    places = 2 ** floor(log2(max(top, 1.0)))
    if top > places * most_overload(setup.row, setup.halves[1].strategy.attention_dp):
        return setup
    prefill, decode = setup.halves
    return replace(setup, halves=(prefill, replace(decode, max_num_seqs=places)))
