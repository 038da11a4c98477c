"""What prices a replica: the cost model and software facts of one engine on one node group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cost_models.aiconfigurator.workers import WorkerTimes
from cost_models.base import CostModel
from cost_models.formats import executed_format, number_format
from cost_models.source import no_remarks
from hardware_profiles.schema import SoftwareProfile
from planner.ir.cluster import NodeGroup
from planner.ir.cost_sources import COST_SOURCES, OWN_COSTS, priced_by
from planner.ir.model_graph import ModelGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCosts:
    """An engine on one kind of device.

    `hybrid_experts` says whether experts may be split by expert and by tensor at once; `remarks` says, once
    something was priced, where the times came from and what was missing there. With `workers`, whole
    replicas are estimated by them.
    """

    engine: str
    software: SoftwareProfile
    model: CostModel
    hybrid_experts: bool
    remarks: Callable[[], tuple[str, ...]] = no_remarks
    workers: WorkerTimes | None = None


CostSource = Callable[[NodeGroup, str], EngineCosts]

HYBRID_EXPERT_ENGINES = frozenset({"trtllm", "sglang"})
"""Engines that take an expert degree of their own; vLLM spreads experts over all ranks or over none.

Source: engine argument references (moe_expert_parallel_size, --ep-size, --enable-expert-parallel), 2026.
"""


def installed_costs(group: NodeGroup, engine: str) -> EngineCosts:
    """Return the costs of an engine from the shipped profiles.

    Raises
    ------
    InputError
        If no software profile has that name.
    """
    from hardware_profiles.loader import load_software

    return costs_of(group, engine, load_software(engine))


def costs_of(
    group: NodeGroup, engine: str, software: SoftwareProfile, source: str = OWN_COSTS
) -> EngineCosts:
    """Return the costs of an engine that `software` describes, from a source of costs.

    Raises
    ------
    InputError
        If the source cannot price the device or the engine at all.
    """
    priced = priced_by(source, group.device, software)
    return EngineCosts(
        engine=engine,
        software=priced.software,
        model=priced.model,
        hybrid_experts=software.engine in HYBRID_EXPERT_ENGINES,
        remarks=priced.remarks,
        workers=priced.workers,
    )


def costs_from(source: str) -> CostSource:
    """Return what prices engines of the shipped profiles with a source of costs.

    Raises
    ------
    InputError
        If there is no such source.
    """
    COST_SOURCES.get(source)

    def lookup(group: NodeGroup, engine: str) -> EngineCosts:
        from hardware_profiles.loader import load_software

        return costs_of(group, engine, load_software(engine), source)

    return lookup


def cached(source: CostSource) -> CostSource:
    """Return a source that asks `source` once per device and engine."""
    seen: dict[tuple[str, str], EngineCosts] = {}

    def lookup(group: NodeGroup, engine: str) -> EngineCosts:
        key = (group.name, engine)
        if key not in seen:
            seen[key] = source(group, engine)
        return seen[key]

    return lookup


def executed_on(group: NodeGroup, fmt: str) -> str | None:
    """Return the format that a group's devices execute for weights stored as `fmt`; None if they cannot."""
    peaks = {key: fact.value for key, fact in group.device.peak_flops_per_s.items()}
    return executed_format(peaks, fmt)


def kv_format(model: ModelGraph, kv_fmt: str) -> str:
    """Return the concrete cache format: ``auto`` is the checkpoint's, or its 16-bit type."""
    if kv_fmt != "auto":
        return kv_fmt
    return model.checkpoint_kv_fmt if model.checkpoint_kv_fmt != "auto" else model.checkpoint_dtype


def bytes_per_element(fmt: str) -> float:
    """Return stored bytes per element of a format, scales included."""
    return number_format(fmt).weight_bytes
