"""The training stack as the evaluator sees it: plain numbers in base units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hardware_profiles.loader import load_trainer
from hardware_profiles.schema import TrainerProfile


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
    cp_overlap: float = 0.0
    ep_overlap: float = 0.0
    p2p_overlap: float = 0.0
    dp_overlap: float = 0.0
    straggler: float = 0.0
    gradient_bytes: float = 4.0
    context_memory_bytes: float = 0.0
    allocator_slack: float = 0.0
    sigma_log: float = 0.1
    flash_attention: bool = True
    kernel_software: tuple[str, ...] = ()

    @staticmethod
    def of(profile: TrainerProfile) -> TrainingSoftware:
        """Read the numbers out of a profile."""
        return TrainingSoftware(
            name=profile.name,
            compute_scale=profile.compute_scale.value,
            elementwise_scale=profile.elementwise_scale.value,
            attention_backward=profile.attention_backward.value,
            per_layer_s=profile.per_layer_s.value,
            per_micro_batch_s=profile.per_micro_batch_s.value,
            per_step_s=profile.per_step_s.value,
            tp_overlap=profile.tp_overlap.value,
            cp_overlap=profile.cp_overlap.value,
            ep_overlap=profile.ep_overlap.value,
            p2p_overlap=profile.p2p_overlap.value,
            dp_overlap=profile.dp_overlap.value,
            straggler=profile.straggler.value,
            gradient_bytes=profile.gradient_bytes.value,
            context_memory_bytes=profile.context_memory_bytes.value,
            allocator_slack=profile.allocator_slack.value,
            sigma_log=profile.sigma_log.value,
            flash_attention=profile.flash_attention,
            kernel_software=profile.kernel_software,
        )


def load_training_software(name: str, *, folders: Sequence[Path] = ()) -> TrainingSoftware:
    """Return the training stack called `name`.

    Raises
    ------
    ProfileError
        If no training stack has that name or its file is wrong.
    """
    return TrainingSoftware.of(load_trainer(name, folders=folders))
