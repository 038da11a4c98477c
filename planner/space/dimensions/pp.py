"""Pipeline parallelism: stages of possibly unequal layer counts."""

from __future__ import annotations

from planner.space.dimension import Chosen, Dimension, SpaceFacts, Value, degree

MAX_EVERY = 8
BEYOND = (10, 12, 14, 16, 20, 24, 32)

WHOLE_DECODE_ENGINES = frozenset({"vllm", "sglang"})
"""Engines that deliver caches to decode servers without stages alone.

vLLM's NIXL connectors refuse others (wheel vllm 0.32, ``kv_connector/v1/nixl/base_worker.py``); SGLang wants
as many stages as prefill has, or one (sglang pull request 14265, 2025-12). A user who pins the degree gets it
priced under any engine.
"""


def values(facts: SpaceFacts, chosen: Chosen) -> tuple[Value, ...]:
    """Return every depth up to 8 and selected ones beyond, as far as layers and devices go."""
    stage = degree(chosen, "tp") * degree(chosen, "attention_dp") * degree(chosen, "prefill_cp")
    limit = min(facts.model.num_layers, facts.max_devices // stage)
    pinned = facts.pinned("pp")
    if pinned is not None:
        return (pinned,) if 1 <= pinned <= limit else ()
    if facts.role == "decode" and facts.engine.software.engine in WHOLE_DECODE_ENGINES:
        return (1,)
    if facts.role == "prefill" and facts.states and facts.engine.software.engine == "vllm":
        return (1,)  # its connector moves recurrent states of one stage alone (same file of vLLM)
    return (*range(1, min(MAX_EVERY, limit) + 1), *(depth for depth in BEYOND if depth <= limit))


dimension = Dimension(name="pp", order=8, values=values)
