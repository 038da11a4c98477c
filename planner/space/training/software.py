"""The training stack as the evaluator sees it: plain numbers in base units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from pathlib import Path
from typing import Any

from cost_models.library import DeviceCostModel, Pricing, device_cost_model
from hardware_profiles.loader import load_trainer
from hardware_profiles.schema import DeviceProfile, Fact, TrainerProfile
from planner.ir.cluster import NodeGroup
from planner.space.spans import link_spec

_SINCE_HOPPER = frozenset({"hopper", "blackwell"})
_HALF_BYTES = 2.0
_HOPPER_FLASH = 3.0
_SECOND_FLASH = 2.0
_FLASH_2_ON_HOPPER = 1.75
"""FlashAttention-3 is 1.5 to 2 times as fast as FlashAttention-2 on Hopper (Shah 2024, abstract)."""
_FLASH_1 = 1.9
"""FlashAttention-2 is about twice as fast as the first version (Dao 2023, abstract)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSoftware:
    """Constants of a training stack; the words are those of `TrainerProfile`.

    `attention_scale` and `half_scale` multiply the times of attention and of 16-bit products on one device.
    `row_scales` says that quantised products have a scale per row, not per tensor: a run's recipe decides.
    """

    name: str
    compute_scale: float = 1.0
    elementwise_scale: float = 1.0
    attention_backward: float = 2.8
    flash_version: float = 3.0
    expert_scale: float = 1.0
    expert_bias_bytes: float = 0.0
    per_layer_s: float = 0.0
    per_expert_s: float = 0.0
    per_micro_batch_s: float = 0.0
    per_step_s: float = 0.0
    tp_overlap: float = 0.0
    regather_overlap: float = 0.0
    cp_overlap: float = 0.0
    ep_overlap: float = 0.0
    p2p_overlap: float = 0.0
    dp_overlap: float = 0.0
    dp_efficiency: float = 1.0
    straggler: float = 0.0
    weight_bytes: float = 2.0
    gradient_bytes: float = 4.0
    optimizer_bytes: float = 12.0
    reduce_bytes: float = 4.0
    logit_bytes: float = 8.0
    parallel_logit_bytes: float | None = None
    loss_bytes: float = 20.0
    max_live_params: float = inf
    score_bytes: float = 11.0
    selective_products: float = 0.0
    dropout: bool = False
    context_memory_bytes: float = 0.0
    allocator_slack: float = 0.0
    sigma_log: float = 0.1
    flash_attention: bool = True
    sequence_parallel: bool = True
    scatter_gather: bool = True
    sends_once: bool = False
    eager_copies: bool = False
    passed_buffers: bool = False
    optimizer_sync: bool = True
    fused_expert_families: tuple[str, ...] = ()
    kernel_software: tuple[str, ...] = ()
    attention_scale: float = 1.0
    half_scale: float = 1.0
    row_scales: bool = False

    def on(self, device: DeviceProfile) -> TrainingSoftware:
        """Return the stack as it runs on a device: its clocks under load, and attention older than it."""
        slowdown = device.sustained_slowdown.value if device.sustained_slowdown is not None else 1.0
        old = self.flash_version < _HOPPER_FLASH and device.family in _SINCE_HOPPER
        oldest = self.flash_version < _SECOND_FLASH
        attention = (_FLASH_2_ON_HOPPER if old else 1.0) * (_FLASH_1 if oldest else 1.0)
        fused = not self.fused_expert_families or device.family in self.fused_expert_families
        return replace(
            self,
            half_scale=self.half_scale * slowdown,
            attention_scale=self.attention_scale * attention,
            expert_scale=self.expert_scale if fused else 1.0,
        )

    @property
    def casts_weights(self) -> bool:
        """Whether weights are one 32-bit copy, cast when it is gathered (FSDP)."""
        return self.weight_bytes > _HALF_BYTES

    @staticmethod
    def of(profile: TrainerProfile) -> TrainingSoftware:
        """Read the numbers out of a profile."""
        values: dict[str, Any] = {}
        for field in fields(TrainingSoftware):
            if field.name in ("attention_scale", "half_scale", "row_scales"):
                continue
            stated: object = getattr(profile, field.name)
            if stated is not None:
                values[field.name] = stated.value if isinstance(stated, Fact) else stated
        return TrainingSoftware(**values)


def training_cost_model(group: NodeGroup, software: TrainingSoftware) -> DeviceCostModel:
    """Return what prices the kernels of a training stack on a node group."""
    return device_cost_model(
        group.device,
        pricing=Pricing(all_reduce="library", quant="static"),
        host_link=link_spec(group.host_link, shared=False),
        kernel_software=software.kernel_software,
    )


def load_training_software(name: str, *, folders: Sequence[Path] = ()) -> TrainingSoftware:
    """Return the training stack called `name`.

    Raises
    ------
    ProfileError
        If no training stack has that name or its file is wrong.
    """
    return TrainingSoftware.of(load_trainer(name, folders=folders))
