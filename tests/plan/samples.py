"""A small search result and its problem, for tests of what is made from them."""

from __future__ import annotations

from hardware_profiles.provenance import Provenance
from planner.ir.candidates import (
    AlternativeChoice,
    BindingLimit,
    Estimate,
    InfeasibilityReport,
    ObjectiveValue,
    PoolChoice,
    ReplicaPlacement,
    SearchResult,
    StageMemory,
)
from planner.ir.cluster import Cluster
from planner.ir.objective import Budget, Objective
from planner.ir.problem import InputDigest, Problem, SearchOptions
from planner.ir.workload import Slo

PROBLEM = Problem(
    kind="sample",
    name="sample; $(reboot) 'quoted'",
    cluster=Cluster(name="none", groups=()),
    objective=Objective(name="max_throughput"),
    budget=Budget(),
    options=SearchOptions(seed=7),
    payload=Slo(ttft_s=1.0),
    inputs=(InputDigest(role="spec", name="spec.yaml", sha256="0" * 64),),
)

POOL = PoolChoice(
    name="aggregated-0",
    role="aggregated",
    model="tiny",
    replicas=2,
    node_group="g0",
    device="h200",
    degrees=(("tp", 2), ("pp", 1)),
    devices_per_replica=2,
    weight_fmt="bf16",
    kv_fmt="fp8",
    engine="vllm",
    limits=(("token_budget", 8192), ("max_num_seqs", 256)),
    layers_per_stage=(32,),
    predicted=(("tpot_s", Estimate(value=0.02, unit="s", low=0.018, high=0.022)),),
    memory=(StageMemory(stage=0, parts=(("weights", 8e9), ("kv_cache", 1e11)), capacity_bytes=1.41e11),),
)

RESULT = SearchResult(
    status="optimal",
    objective=ObjectiveValue(
        name="max_throughput", unit="req/s", sense="max", value=10.0, bound=10.0, gap=0.0
    ),
    pools=(POOL,),
    placement=(
        ReplicaPlacement(pool="aggregated-0", replica=0, devices=("n0/0", "n0/1")),
        ReplicaPlacement(pool="aggregated-0", replica=1, devices=("n0/2", "n0/3")),
    ),
    predicted=(
        ("ttft_s", Estimate(value=0.3, unit="s", provenance=Provenance.CALIBRATED)),
        ("request_rate_rps", Estimate(value=10.0, unit="1/s")),
    ),
    alternatives=(
        AlternativeChoice(
            label="tp=4", summary="1 x tp4", objective_value=9.0, relative=0.1, tie=False, pools=(POOL,)
        ),
    ),
    infeasibility=None,
    method="enumeration",
    work=(("candidates", 12),),
    space="tp in {1, 2, 4}",
)

INFEASIBLE = SearchResult(
    status="infeasible",
    objective=ObjectiveValue(
        name="max_throughput", unit="req/s", sense="max", value=None, bound=None, gap=None
    ),
    pools=(),
    placement=(),
    predicted=(),
    alternatives=(),
    infeasibility=InfeasibilityReport(
        binding=(
            BindingLimit(name="slo.tpot", limit=0.001, best_reachable=0.008, unit="s", message="too tight"),
        ),
        nearest_relaxation="set slo.tpot to 8ms",
        relaxed=(("slo.tpot", "8ms"),),
    ),
    method="enumeration",
    work=(),
)
