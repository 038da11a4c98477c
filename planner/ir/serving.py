"""The serving payload of a problem: one model, its workload, and what the search may choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from planner.ir.model_graph import Linear, ModelGraph
from planner.ir.strategy import ServingStrategy
from planner.ir.workload import ServingWorkload

BALANCING_ENGINES = frozenset({"vllm", "sglang"})
"""Engines that exports can tell of copies of hot experts.

Source: vllm/config/parallel.py (EPLBConfig, 0.32.0), sglang/srt/arg_groups/fields/exec_.py (0.5.23). The
balancer of TensorRT-LLM 1.2 is read from a second file, which has to lie where the server runs.
"""
Role = Literal["aggregated", "prefill", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedShape:
    """A shape of replicas that a plan had and that is not to be used again.

    `token_budget` and `max_num_seqs` are those that the engine was told, of which the first is at least the
    second.
    """

    role: Role
    group: str
    engine: str
    weight_fmt: str
    kv_fmt: str
    strategy: ServingStrategy
    token_budget: int
    max_num_seqs: int
    offload: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingChoices:
    """What the search may choose; an empty tuple means every value that is valid.

    `weight_fmts` and `kv_fmts` list the formats the user allows (quality is the user's call).
    `fixed` pins single degrees, e.g. (("tp", 8),). `costs` names who says how long operations take. With
    `weight_offload` weights may stay in host memory; `redundant_experts` are numbers of copies of hot
    experts to choose from. `rejected` shapes are left out, whatever they promise.
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
    redundant_experts: tuple[int, ...] = (0,)
    rejected: tuple[RejectedShape, ...] = ()


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
    """One model served under one workload.

    `expert_loads` are the tokens that every expert of every layer got; without any, `routing_skew` stands for
    the load of the fullest rank of experts over the mean.
    """

    model: ModelGraph
    workload: ServingWorkload
    choices: ServingChoices
    routing_skew: float = 1.0
    memory_fraction: float | None = None
    adapters: Adapters | None = None
    expert_loads: tuple[tuple[float, ...], ...] = ()
    assumptions: tuple[str, ...] = field(default=())
