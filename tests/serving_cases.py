"""Small clusters, engines and workloads of the serving tests. Device figures: vendor data sheets."""

from __future__ import annotations

from dataclasses import replace

from cost_models.library import device_cost_model
from hardware_profiles.schema import DeviceProfile, Fact, SoftwareProfile, Source
from planner.ir.cluster import Cluster, Level, Link, NodeGroup
from planner.ir.model_graph import ModelGraph
from planner.ir.objective import Budget, Objective
from planner.ir.problem import Problem, SearchOptions
from planner.ir.serving import ServingChoices, ServingProblem
from planner.ir.workload import Lengths, ServingWorkload, Slo
from planner.space.engine import EngineCosts

SOURCES = {"s": Source(title="test figures", url="", date="2026-01-01")}


def fact(value: float) -> Fact:
    return Fact(value=value, source="s")


def device(
    name: str, memory: float, bandwidth: float, bf16: float, fp8: float | None, tdp: float = 700.0
) -> DeviceProfile:
    peaks = {"bf16": fact(bf16), "fp16": fact(bf16), "int8": fact(2 * bf16)}
    if fp8:
        peaks["fp8"] = fact(fp8)
    return DeviceProfile(
        name=name,
        vendor="nvidia",
        family="hopper",
        memory_bytes=fact(memory),
        memory_bandwidth_bytes_per_s=fact(bandwidth),
        peak_flops_per_s=peaks,
        num_sms=fact(132),
        l2_bytes=fact(50e6),
        tdp_w=fact(tdp),
        idle_w=fact(70.0),
        scale_up_link="nvlink4",
        scale_up_domain=8,
        host_link="pcie5",
        default_node="dgx",
        sources=SOURCES,
    )


H100 = device("h100-sxm-test", 85.0e9, 3.35e12, 989e12, 1979e12)
H200 = device("h200-sxm-test", 150.0e9, 4.8e12, 989e12, 1979e12)

SOFTWARE = SoftwareProfile(
    name="vllm-test",
    engine="vllm",
    version="0",
    per_step_s=fact(1.0e-3),
    per_layer_s=fact(6e-6),
    per_sequence_s=fact(3e-6),
    per_request_s=fact(2e-3),
    overlap=fact(0.0),
    memory_fraction=fact(0.9),
    graph_memory_bytes=fact(1.5e9),
    context_memory_bytes=fact(1.0e9),
    sources=SOURCES,
)


def link(name: str, kind: str, bandwidth: float, latency: float) -> Link:
    return Link(name=name, kind=kind, latency_s=latency, bandwidth_bytes_per_s=bandwidth)


def group(
    profile: DeviceProfile, nodes: int, per_node: int = 8, price: float | None = 3.0, name: str = ""
) -> NodeGroup:
    levels = [
        Level(name="domain", num_devices=per_node, link=link("nvlink4", "nvlink", 450e9, 1.5e-6)),
        Level(name="pod", num_devices=per_node * max(nodes, 2), link=link("ib400", "infiniband", 50e9, 5e-6)),
    ]
    return NodeGroup(
        name=name or profile.name,
        device=profile,
        num_nodes=nodes,
        devices_per_node=per_node,
        levels=tuple(levels[: 1 if nodes == 1 else 2]),
        host_memory_bytes=2e12,
        host_link=link("pcie5", "pcie", 55e9, 2e-6),
        node_power_overhead_w=3000.0,
        usd_per_device_hour=price,
    )


def cluster(*groups: NodeGroup) -> Cluster:
    between = link("ib400", "infiniband", 50e9, 5e-6) if len(groups) > 1 else None
    return Cluster(name="test", groups=groups, between_groups=between)


def costs(at: NodeGroup, engine: str) -> EngineCosts:
    return EngineCosts(
        engine=engine,
        software=SOFTWARE.model_copy(update={"engine": engine}),
        model=device_cost_model(at.device, SOFTWARE),
        hybrid_experts=engine != "vllm",
    )


def problem(
    model: ModelGraph,
    where: Cluster,
    *,
    isl: int = 4000,
    osl: int = 500,
    ttft: float | None = 1.0,
    tpot: float | None = 0.03,
    e2e: float | None = None,
    percentile: float = 0.0,
    rate: float | None = None,
    concurrency: int | None = None,
    goal: str = "max_throughput",
    weight_fmts: tuple[str, ...] = ("bf16",),
    budget: Budget | None = None,
    **choices: object,
) -> Problem[ServingProblem]:
    picks = ServingChoices(weight_fmts=weight_fmts, kv_fmts=("auto",))
    return Problem(
        kind="serving",
        name="case",
        cluster=where,
        objective=Objective(name=goal),
        budget=budget or Budget(),
        options=SearchOptions(),
        payload=ServingProblem(
            model=model,
            workload=ServingWorkload(
                lengths=Lengths(samples=((isl, osl, 1.0),)),
                slo=Slo(ttft_s=ttft, tpot_s=tpot, e2e_s=e2e, percentile=percentile),
                rate_rps=rate,
                concurrency=concurrency,
            ),
            choices=replace(picks, **choices),
        ),
    )
