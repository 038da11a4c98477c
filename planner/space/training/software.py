"""The training stack as the evaluator sees it: plain numbers in base units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cost_models.library import DeviceCostModel, Pricing, device_cost_model
from hardware_profiles.loader import load_trainer
from hardware_profiles.schema import Fact, TrainerProfile
from planner.ir.cluster import NodeGroup
from planner.space.spans import link_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSoftware:
    """Constants of a training stack; the words are those of `TrainerProfile`."""

    name: str
    compute_scale: float = 1.0
    elementwise_scale: float = 1.0
    attention_backward: float = 2.8
    per_layer_s: float = 0.0
    per_micro_batch_s: float = 0.0
    per_step_s: float = 0.0
    tp_overlap: float = 0.0
    regather_overlap: float = 0.0
    cp_overlap: float = 0.0
    ep_overlap: float = 0.0
    p2p_overlap: float = 0.0
    dp_overlap: float = 0.0
    straggler: float = 0.0
    weight_bytes: float = 2.0
    gradient_bytes: float = 4.0
    optimizer_bytes: float = 12.0
    reduce_bytes: float = 4.0
    logit_bytes: float = 8.0
    score_bytes: float = 11.0
    dropout: bool = False
    context_memory_bytes: float = 0.0
    allocator_slack: float = 0.0
    sigma_log: float = 0.1
    flash_attention: bool = True
    sequence_parallel: bool = True
    kernel_software: tuple[str, ...] = ()

    @staticmethod
    def of(profile: TrainerProfile) -> TrainingSoftware:
        """Read the numbers out of a profile."""
        values: dict[str, Any] = {}
        for field in fields(TrainingSoftware):
            stated: object = getattr(profile, field.name)
            values[field.name] = stated.value if isinstance(stated, Fact) else stated
        return TrainingSoftware(**values)


def training_cost_model(group: NodeGroup, software: TrainingSoftware) -> DeviceCostModel:
    """Return what prices the kernels of a training stack on a node group."""
    return device_cost_model(
        group.device,
        pricing=Pricing(all_reduce="library"),
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
