"""Problems and plans that keep every rule, from which the mutants are made."""

from __future__ import annotations

from functools import cache
from typing import Any

from hardware_profiles.loader import load_device, load_link
from planner.diagnostics import Diagnostics
from planner.frontend.models import load_model
from planner.ir.cluster import Cluster, Level, Link, NodeGroup
from planner.ir.objective import Budget, Objective
from planner.ir.printer import print_ir
from planner.ir.problem import InputDigest, Problem, SearchOptions
from planner.ir.serving import ServingChoices, ServingProblem
from planner.ir.workload import Lengths, ServingWorkload, Slo
from planner.plan.schema import InputModel, ObjectiveResult, Plan, Pool, Replica, SolverInfo, StrategyModel


def link(name: str) -> Link:
    found = load_link(name)
    return Link(
        name=found.name,
        kind=found.kind,
        latency_s=found.latency_s.value,
        bandwidth_bytes_per_s=found.bandwidth_bytes_per_s.value,
    )


def group(num_nodes: int, device: str = "h100", **changes: Any) -> NodeGroup:
    fields = {
        "name": device,
        "device": load_device(device),
        "num_nodes": num_nodes,
        "devices_per_node": 8,
        "levels": (
            Level(name="domain", num_devices=8, link=link("nvlink4")),
            Level(name="site", num_devices=8 * max(num_nodes, 2), link=link("ib400")),
        ),
        "host_memory_bytes": 2e12,
        "host_link": link("pcie5"),
        "node_power_overhead_w": 4600.0,
        "usd_per_device_hour": 2.5,
        "node_names": tuple(f"{device}-{i}" for i in range(num_nodes)),
    }
    return NodeGroup(**{**fields, **changes})


DIGEST = "ab" * 32


@cache
def serving_problem(
    model: str = "llama-3.1-70b", num_nodes: int = 2, **payload: Any
) -> Problem[ServingProblem]:
    choices = ServingChoices(weight_fmts=("bf16", "fp8", "fp8_block"), kv_fmts=("bf16", "fp8"))
    workload = ServingWorkload(
        lengths=Lengths(samples=((4000, 500, 1.0),)), slo=Slo(ttft_s=2.0, tpot_s=0.05), rate_rps=2.0
    )
    return Problem(
        kind="serving",
        name="case",
        cluster=Cluster(name="cluster", groups=(group(num_nodes),)),
        objective=Objective(name="min_devices"),
        budget=Budget(num_devices=8 * num_nodes, usd_per_hour=100.0),
        options=SearchOptions(),
        payload=ServingProblem(
            model=load_model(model, diagnostics=Diagnostics()), workload=workload, choices=choices, **payload
        ),
        inputs=(InputDigest(role="model", name=model, sha256=DIGEST),),
    )


def serving_pool(problem: Problem[ServingProblem], **changes: Any) -> Pool:
    strategy = StrategyModel(**changes.pop("strategy", {"tp": 8, "moe_tp": 8}))
    layers = len(problem.payload.model.layers)
    even = [layers // strategy.pp + (i < layers % strategy.pp) for i in range(strategy.pp)]
    fields = {
        "name": "pool",
        "role": "aggregated",
        "model": problem.payload.model.name,
        "replicas": 2,
        "device": problem.cluster.groups[0].device.name,
        "node_group": problem.cluster.groups[0].name,
        "weight_dtype": "bf16",
        "kv_dtype": "bf16",
        "engine": "vllm",
        "limits": {"max_num_seqs": 128, "max_num_batched_tokens": 8192},
        "layers_per_stage": even,
        "predicted": {},
        "memory": [],
    }
    return Pool(strategy=strategy, **{**fields, **changes})


def serving_plan(problem: Problem[ServingProblem], *pools: Pool) -> Plan:
    node = problem.cluster.groups[0].name
    placement: list[Replica] = []
    used = 0
    for pool in pools:
        s = pool.strategy
        for replica in range(pool.replicas):
            size = s.tp * s.pp * s.attention_dp * s.cp
            devices = [f"{node}-{i // 8}/{i % 8}" for i in range(used, used + size)]
            placement.append(Replica(pool=pool.name, replica=replica, devices=devices))
            used += size
    return Plan(
        kind="serving",
        name=problem.name,
        status="optimal",
        objective=ObjectiveResult(
            name="min_devices", unit="devices", sense="min", value=float(used), bound=float(used), gap=0.0
        ),
        pools=list(pools),
        placement=placement,
        solver=SolverInfo(method="by hand", status="optimal", seed=0),
        inputs=[InputModel(role=i.role, name=i.name, sha256=i.sha256) for i in problem.inputs],
        problem=print_ir(problem),
    )
