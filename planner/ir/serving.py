"""The serving payload of a problem: one model, its workload, and what the search may choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from planner.ir.model_graph import Linear, ModelGraph
from planner.ir.workload import ServingWorkload

Role = Literal["aggregated", "prefill", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingChoices:
    """What the search may choose; an empty tuple means every value that is valid.

    `weight_fmts` and `kv_fmts` list the formats the user allows (quality is the user's call).
    `fixed` pins single degrees, e.g. (("tp", 8),). `costs` names who says how long operations take. With
    `weight_offload` weights may stay in host memory.
    """

    weight_fmts: tuple[str, ...]
    kv_fmts: tuple[str, ...]
    engines: tuple[str, ...] = ("vllm",)
    modes: tuple[Literal["aggregated", "disaggregated"], ...] = ("aggregated", "disaggregated")
    max_num_seqs: int = 1024
    token_budgets: tuple[int, ...] = ()
    fixed: tuple[tuple[str, int], ...] = ()
    costs: str = "newel"
    weight_offload: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """Low-rank adapters that share a base model.

    `num_resident` adapters of `rank` stay in device memory, in 16 bit; their traffic is part of the model's.
    """

    num_resident: int
    rank: int

    def elems_per_rank(self, op: Linear, tp: int) -> float:
        """Return the elements of one adapter of a linear map on one rank: rank x (inputs + outputs) there.

        Of the two factors the one on the side that is split is split, the other whole on every rank.

        Source: E. Hu et al., LoRA, 2021; S. Sheng et al., S-LoRA, 2023 (tensor parallelism).
        """
        inputs, outputs = op.shape_per_rank(tp)
        return float(self.rank * (inputs + outputs))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingProblem:
    """One model served under one workload."""

    model: ModelGraph
    workload: ServingWorkload
    choices: ServingChoices
    routing_skew: float = 1.0
    memory_fraction: float | None = None
    adapters: Adapters | None = None
    assumptions: tuple[str, ...] = field(default=())
