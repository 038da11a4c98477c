"""The training payload of a problem: one model, its batch, and the plan space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.ir.model_graph import ModelGraph

Recompute = Literal["none", "selective", "full"]
Offload = Literal[
    "none",
    "optimizer",
    "optimizer_and_parameters",
    "activations",
    "optimizer_and_activations",
    "everything",
]
"""What is kept in the memory of the host: `everything` is states, parameters and activations."""
Gradients = Literal["full", "bf16", "int4", "1bit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStrategy:
    """Degrees and switches of one training plan.

    The job has tp * cp * dp * pp devices. `dp` data-parallel ranks are `dp_shard` times `dp_replicate`
    (HSDP); ZeRO stage `zero` shards optimizer states (1), gradients (2) and parameters (3) over the
    dp_shard * cp ranks. Experts are spread over `ep` ranks taken from dp * cp (and from tp when
    `etp` is smaller than tp) and split `etp` ways. `num_chunks` is the number of model chunks
    per device (virtual pipeline). `cp_ulysses` of the cp context ranks exchange heads (they divide cp), the
    others pass keys and values in a ring. The first `recompute_layers` of each chunk are recomputed when
    `recompute` is full (0 means all of them). `gradients` is the format in which they are reduced (full: the
    software's own).
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 1
    num_chunks: int = 1
    micro_batch: int = 1
    zero: int = 0
    dp_shard: int = 1
    sequence_parallel: bool = False
    recompute: Recompute = "none"
    recompute_layers: int = 0
    offload: Offload = "none"
    cp_ulysses: int = 1
    schedule: str = "1f1b"
    gradients: Gradients = "full"

    @property
    def num_devices(self) -> int:
        """Devices of the job."""
        return self.tp * self.pp * self.dp * self.cp

    @property
    def dp_replicate(self) -> int:
        """Data-parallel replicas that each hold a full sharded copy."""
        return self.dp // self.dp_shard


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingWorkload:
    """A fixed global batch of `global_batch` sequences of `seq_len` tokens per step.

    With `batches` sequences differ: these are global batches drawn from their lengths, and `seq_len` is the
    longest of all.

    `num_tokens` is the whole run's budget, None when only the step matters; `deadline_s` is the longest
    time that the whole run may take.
    """

    global_batch: int
    seq_len: int
    num_tokens: float | None = None
    deadline_s: float | None = None
    batches: tuple[tuple[int, ...], ...] = ()

    @property
    def longest_step_s(self) -> float | None:
        """Longest step that keeps the deadline of the run, seconds; None without a deadline."""
        if self.deadline_s is None or self.num_tokens is None:
            return None
        return self.deadline_s * self.tokens_per_step / self.num_tokens

    @property
    def tokens_per_step(self) -> float:
        """Tokens of one optimizer step, in the mean where sequences differ."""
        if self.batches:
            return sum(map(sum, self.batches)) / len(self.batches)
        return self.global_batch * self.seq_len


@dataclass(frozen=True, slots=True, kw_only=True)
class OuterChoices:
    """Settings that a low-communication outer loop between groups may have (every combination).

    Local steps between two exchanges, bits of a value on the wire, parts in which the model is exchanged, and
    steps during which a part may be on its way.
    """

    steps: tuple[int, ...]
    bits: tuple[int, ...] = (32,)
    fragments: tuple[int, ...] = (1,)
    overlap_steps: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingChoices:
    """What the search may choose; `fixed` pins single degrees, e.g. (("tp", 8), ("pp", 16)).

    `outer_loop` is None where every step must reduce gradients over all replicas. With `partial_recompute`
    the software can recompute some layers of every chunk and not the others.
    """

    precisions: tuple[str, ...] = ("bf16",)
    recomputes: tuple[Recompute, ...] = ("none", "selective", "full")
    zeros: tuple[int, ...] = (0, 1, 2, 3)
    offloads: tuple[Offload, ...] = ("none",)
    schedules: tuple[str, ...] = ("1f1b", "interleaved", "zb-h1")
    max_micro_batch: int = 64
    software: str = "megatron-lm"
    fixed: tuple[tuple[str, int | str | bool], ...] = ()
    partial_recompute: bool = False
    gradients: tuple[Gradients, ...] = ("full",)
    outer_loop: OuterChoices | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProblem:
    """One model trained on one cluster.

    `flash_attention` is False for software that materialises the attention matrix.
    `memory_reserve_bytes` is kept free on every device.
    """

    model: ModelGraph
    workload: TrainingWorkload
    choices: TrainingChoices
    flash_attention: bool = True
    memory_reserve_bytes: float = 0.0
    assumptions: tuple[str, ...] = ()
