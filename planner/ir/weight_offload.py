"""Which weights stay in host memory, as an engine is told; everything else is in device memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30
OFFLOADING_ENGINES = frozenset({"vllm", "sglang"})
"""Engines whose servers keep weights in host memory.

Source: vllm/config/offload.py (0.32.0) and sglang/srt/utils/offloader.py (0.5.23); trtllm-serve 1.2 has no
such option (weight streaming belongs to the TensorRT engines of earlier releases).
"""
Limits = tuple[tuple[str, int], ...]
_LAYERS = re.compile(r"(\d+)/(\d+) layers")
_BYTES = re.compile(r"(\d+) GiB( of experts)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightOffload:
    """What every device leaves in host memory; at most one of the three ways is used.

    The last `num_in_group` of every `group_size` layers of a stage, copied ahead of their use (vLLM's
    prefetching offload); the first `first_gib` GiB of its layers, copied when they are needed (SGLang); or
    the first `expert_gib` GiB of its routed experts, which kernels read over the link where tokens ask for
    them (vLLM's unified addressing).
    """

    group_size: int = 0
    num_in_group: int = 0
    first_gib: int = 0
    expert_gib: int = 0

    @property
    def text(self) -> str:
        """The choice in words that `of_text` reads; empty where all weights are on the device."""
        if self.group_size:
            return f"{self.num_in_group}/{self.group_size} layers"
        if self.first_gib:
            return f"{self.first_gib} GiB"
        return f"{self.expert_gib} GiB of experts" if self.expert_gib else ""

    @staticmethod
    def of_text(text: str) -> WeightOffload:
        """Read what `text` wrote.

        Raises
        ------
        ValueError
            If it is nothing that `text` writes.
        """
        if not text:
            return WeightOffload()
        layers, amount = _LAYERS.fullmatch(text), _BYTES.fullmatch(text)
        if layers is not None:
            return WeightOffload(num_in_group=int(layers[1]), group_size=int(layers[2]))
        if amount is None:
            raise ValueError(f"{text!r} does not say which weights stay in host memory")
        if amount[2]:
            return WeightOffload(expert_gib=int(amount[1]))
        return WeightOffload(first_gib=int(amount[1]))

    @property
    def limits(self) -> Limits:
        """What stands among the limits of a pool."""
        named = (
            ("offload_group_size", self.group_size),
            ("offload_num_in_group", self.num_in_group),
            ("offload_gib", self.first_gib),
            ("offload_experts_gib", self.expert_gib),
        )
        return tuple((name, value) for name, value in named if value)

    @staticmethod
    def of_limits(limits: Mapping[str, float | int]) -> WeightOffload:
        """Read what the limits of a pool say."""
        return WeightOffload(
            group_size=int(limits.get("offload_group_size", 0)),
            num_in_group=int(limits.get("offload_num_in_group", 0)),
            first_gib=int(limits.get("offload_gib", 0)),
            expert_gib=int(limits.get("offload_experts_gib", 0)),
        )
