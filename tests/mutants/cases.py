"""Problems and plans that keep every rule, from which the mutants are made."""

from __future__ import annotations

from functools import cache
from typing import Any

from hardware_profiles.loader import load_device, load_link
from hardware_profiles.schema import SoftwareProfile
from planner.diagnostics import Diagnostics
from planner.frontend.models import load_model
from planner.ir.cluster import Cluster, Level, Link, NodeGroup
from planner.ir.objective import Budget, Objective
from planner.ir.printer import print_ir
from planner.ir.problem import InputDigest, Problem, SearchOptions
from planner.ir.serving import ServingChoices, ServingProblem
from planner.ir.workload import Lengths, ServingWorkload, Slo
from planner.plan.schema import (
    DeviceMemory,
    InputModel,
    MemoryPart,
    ObjectiveResult,
    Plan,
    Pool,
    Quantity,
    Replica,
    SolverInfo,
    StrategyModel,
)
from planner.verify.rule import Case
from planner.verify.serving.shards import device_bytes, stage_weight_bytes
from planner.verify.serving.view import pool_views


def plain_engine() -> SoftwareProfile:
    """An engine with round overheads, so that the mutants do not hang on shipped profiles."""
    facts = {
        "per_step_s": 2e-3,
        "per_layer_s": 5e-6,
        "per_sequence_s": 5e-6,
        "per_request_s": 5e-3,
        "overlap": 0.0,
        "memory_fraction": 0.9,
        "graph_memory_bytes": 1e9,
        "context_memory_bytes": 5e8,
    }
    source = {"title": "t", "url": "https://x.y", "date": "2026", "kind": "assumption"}
    return SoftwareProfile.model_validate(
        {
            "name": "vllm",
            "engine": "vllm",
            "version": "0",
            "sources": {"test": source},
            **{name: {"value": value, "source": "test"} for name, value in facts.items()},
        }
    )


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


def priced(plan: Plan, problem: Problem[ServingProblem], rate_rps: float | None = None) -> Plan:
    """The plan with the memory, rates and latencies that the checker itself finds."""
    rate = rate_rps or problem.payload.workload.rate_rps or 1.0
    pools = [pool.model_copy(update={"memory": memory(pool, problem)}) for pool in plan.pools]
    plan = plan.model_copy(update={"pools": pools})
    shares = {role: sum(p.replicas for p in pools if p.role == role) for role in {p.role for p in pools}}
    found: list[Pool] = []
    latency = {"ttft_s": 0.0, "tpot_s": 0.0}
    for view in pool_views(Case(plan=plan, problem=problem)):
        own_rate = rate * view.pool.replicas / shares[view.pool.role]
        state = view.load.at_rate(own_rate)
        assert state is not None
        predicted = {"request_rate_rps": Quantity(value=own_rate, unit="request/s")}
        if view.pool.role != "decode":
            predicted["ttft_s"] = Quantity(value=state.ttft_s, unit="s")
        if view.pool.role != "prefill":
            predicted["tpot_s"] = Quantity(value=state.tpot_s, unit="s")
        for name in predicted.keys() & latency.keys():
            latency[name] = max(latency[name], predicted[name].value)
        found.append(view.pool.model_copy(update={"predicted": predicted}))
    tokens = rate * problem.payload.workload.lengths.mean_output
    devices = sum(len(r.devices) for r in plan.placement)
    usd = devices * (problem.cluster.groups[0].usd_per_device_hour or 0.0)
    predicted = {
        "request_rate_rps": Quantity(value=rate, unit="request/s"),
        "output_tokens_per_s": Quantity(value=tokens, unit="token/s"),
        "output_tokens_per_s_per_device": Quantity(value=tokens / devices, unit="token/s"),
        "usd_per_hour": Quantity(value=usd, unit="USD/h"),
        "usd_per_million_output_tokens": Quantity(value=usd / tokens / 3600.0 * 1e6, unit="USD"),
        **{name: Quantity(value=value, unit="s") for name, value in latency.items()},
    }
    return plan.model_copy(update={"pools": found, "predicted": predicted})


def memory(pool: Pool, problem: Problem[ServingProblem]) -> list[DeviceMemory]:
    capacity = device_bytes(problem.cluster.groups[0])
    found: list[DeviceMemory] = []
    for stage in range(pool.strategy.pp):
        weights = stage_weight_bytes(problem.payload.model, pool, stage)
        parts = {"weights": weights, "activations": 2e9, "kv_cache": 0.9 * capacity - 2e9 - weights}
        found.append(
            DeviceMemory(
                stage=stage,
                parts=[MemoryPart(name=name, num_bytes=value) for name, value in parts.items()],
                used_bytes=sum(parts.values()),
                capacity_bytes=capacity,
            )
        )
    return found
