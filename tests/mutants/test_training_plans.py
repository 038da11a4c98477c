"""Mutants of found training plans: exactly the rule that is broken fires."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan, TrainingSettings
from planner.verify import problem_of, verify_plan

Mutation = Callable[[Plan], Plan]

SPECS: dict[str, dict[str, Any]] = {
    "pipeline": {
        "kind": "training",
        "model": "llama-3.1-8b",
        "cluster": "2x8xh100@ib400",
        "workload": {"global_batch": 64, "seq_len": 8192, "tokens": "1T", "deadline": "900d"},
        "objective": "min_step_time",
        "fix": {"tp": 4, "pp": 2, "num_chunks": 2, "zero": 1},
    },
    "experts": {
        "kind": "training",
        "model": "mixtral-8x7b",
        "cluster": "4x8xh100@ib400",
        "workload": {"global_batch": 128, "seq_len": 4096},
        "objective": "min_energy",
        "memory_reserve": "2GB",
        "fix": {"tp": 2, "ep": 4, "pp": 4, "schedule": "zb-h1"},
    },
    "two kinds": {
        "kind": "training",
        "model": "llama-3.1-8b",
        "cluster": "8xh100+8xa100",
        "recompute": ["none", "selective"],
        "workload": {"global_batch": 64, "seq_len": 4096},
        "objective": "min_step_time",
    },
    "signs": {
        "kind": "training",
        "model": "llama-3.2-1b",
        "cluster": "2x8xa100@eth100",
        "workload": {"global_batch": 64, "seq_len": 2048},
        "objective": "min_step_time",
        "software": "deepspeed-zero3",
        "gradients": ["1bit"],
        "fix": {"pp": 1},
    },
    "replicas": {
        "kind": "training",
        "model": "llama-3.2-1b",
        "cluster": "8xh100+8xa100",
        "workload": {"global_batch": 192, "seq_len": 2048},
        "objective": "min_step_time",
        "fix": {"pp": 1, "tp": 1, "cp": 1, "micro_batch": 1},
    },
    "sites": {
        "kind": "training",
        "model": "llama-3.2-1b",
        "cluster": {
            "groups": [
                {"name": "east", "device": "h100", "nodes": 1},
                {"name": "west", "device": "h100", "nodes": 1},
            ],
            "group_links": [
                {
                    "groups": ["west", "east"],
                    "bandwidth": "0.5 GB/s",
                    "latency": "20 ms",
                    "capacity": "1 GB/s",
                }
            ],
        },
        "workload": {"global_batch": 64, "seq_len": 2048},
        "objective": "min_step_time",
        "outer_loop": {"steps": [20, 40], "bits": [8], "fragments": [2], "overlap_steps": [0]},
        "fix": {"pp": 1},
    },
    "lengths": {
        "kind": "training",
        "model": "llama-3.2-1b",
        "cluster": "4xh100",
        "workload": {
            "global_batch": 16,
            "lengths": str(Path(__file__).parents[1] / "data" / "lengths" / "drawn.csv"),
            "num_batches": 1,
        },
        "objective": "min_step_time",
        "memory_reserve": "45GB",
        "fix": {"tp": 1},
    },
    "host": {
        "kind": "training",
        "model": "llama-3.2-1b",
        "cluster": "8xa100",
        "workload": {"global_batch": 64, "seq_len": 2048},
        "objective": "min_step_time",
        "offload": ["optimizer"],
    },
    "away": {
        "kind": "training",
        "model": "llama-3.2-1b",
        "cluster": {
            "device": "a100",
            "nodes": 1,
            "host_link": {"link": "pcie4", "bandwidth": "4GB/s"},
            "host_memory_bandwidth": "5TB/s",
        },
        "workload": {"global_batch": 64, "seq_len": 2048},
        "objective": "min_step_time",
        "offload": ["activations"],
        "fix": {"recompute": "none"},
    },
    "one stage": {
        "kind": "training",
        "model": "llama-3.2-1b",
        "cluster": "8xh100",
        "workload": {"global_batch": 64, "seq_len": 8192},
        "objective": "min_cost",
    },
}


@cache
def found(name: str) -> Plan:
    return make_plan(SPECS[name], Run())


def settings(**changes: Any) -> Mutation:
    def mutate(plan: Plan) -> Plan:
        pool = plan.pools[0]
        assert pool.training is not None
        training = TrainingSettings.model_validate({**pool.training.model_dump(), **changes})
        return plan.model_copy(
            update={"pools": [pool.model_copy(update={"training": training}), *plan.pools[1:]]}
        )

    return mutate


def pool(**changes: Any) -> Mutation:
    return lambda plan: plan.model_copy(
        update={"pools": [plan.pools[0].model_copy(update=changes), *plan.pools[1:]]}
    )


def strategy(**changes: Any) -> Mutation:
    return lambda plan: pool(strategy=plan.pools[0].strategy.model_copy(update=changes))(plan)


def scaled(name: str, factor: float) -> Mutation:
    def mutate(plan: Plan) -> Plan:
        old = plan.predicted[name]
        new = old.model_copy(update={"value": old.value * factor, "low": None, "high": None})
        return plan.model_copy(update={"predicted": {**plan.predicted, name: new}})

    return mutate


def part(name: str, factor: float) -> Mutation:
    """Scale one part of the memory of stage 0, the sum with it."""

    def mutate(plan: Plan) -> Plan:
        first, *rest = plan.pools[0].memory
        parts = [
            p.model_copy(update={"num_bytes": p.num_bytes * (factor if p.name == name else 1.0)})
            for p in first.parts
        ]
        used = sum(p.num_bytes for p in parts)
        changed = first.model_copy(update={"parts": parts, "used_bytes": used})
        return pool(memory=[changed, *rest])(plan)

    return mutate


def terms(factor: float) -> Mutation:
    def mutate(plan: Plan) -> Plan:
        old: Any = plan.details["step_time_terms_s"]
        new = {name: value * factor for name, value in old.items()}
        return plan.model_copy(update={"details": {**plan.details, "step_time_terms_s": new}})

    return mutate


def every(**changes: Any) -> Mutation:
    """Change settings of every pool."""

    def mutate(plan: Plan) -> Plan:
        pools = [
            p.model_copy(update={"training": p.training.model_copy(update=changes)})
            for p in plan.pools
            if p.training is not None
        ]
        return plan.model_copy(update={"pools": pools})

    return mutate


def loop(**changes: Any) -> Mutation:
    def mutate(plan: Plan) -> Plan:
        settings = plan.pools[0].training
        assert settings is not None
        assert settings.outer_loop is not None
        return every(outer_loop=settings.outer_loop.model_copy(update=changes))(plan)

    return mutate


def moved(name: str, factor: float) -> Mutation:
    """Claim a term of the step of another length, and that the rest is overhead."""

    def mutate(plan: Plan) -> Plan:
        old: Any = plan.details["step_time_terms_s"]
        less = old[name] * (1 - factor)
        new = {**old, name: old[name] - less, "overhead_s": old["overhead_s"] + less}
        return plan.model_copy(update={"details": {**plan.details, "step_time_terms_s": new}})

    return mutate


def batch(**changes: Any) -> Mutation:
    """Change what is said of the first batch of different lengths."""

    def mutate(plan: Plan) -> Plan:
        lengths: Any = plan.details["lengths"]
        first = {**lengths["batches"][0], **changes}
        new = {**plan.details, "lengths": {**lengths, "batches": [first]}}
        return plan.model_copy(update={"details": new})

    return mutate


def faster(factor: float) -> Mutation:
    """Claim a step that is `factor` times as long, and everything that follows from it."""

    def mutate(plan: Plan) -> Plan:
        mutant = terms(factor)(plan)
        for name in plan.predicted:
            if name.startswith(("step", "run")) or name.endswith(("per_step", "per_step_j")):
                mutant = scaled(name, factor)(mutant)
            elif "per_s" in name or name == "mfu":
                mutant = scaled(name, 1 / factor)(mutant)
        value = (plan.objective.value or 0.0) * factor
        objective = plan.objective.model_copy(update={"value": value, "bound": value})
        return mutant.model_copy(update={"objective": objective, "alternatives": []})

    return mutate


def failed(name: str, mutate: Mutation) -> tuple[str, ...]:
    return verify_plan(mutate(found(name)), problem_of(found(name))).failed_rules


@pytest.mark.parametrize("name", sorted(SPECS))
def test_found_plans_keep_every_rule(name: str) -> None:
    report = verify_plan(found(name), problem_of(found(name)))
    assert report.failed_rules == ()
    assert {f.outcome for f in report.findings} == {"passed"}


@pytest.mark.parametrize(
    ("name", "rule", "mutate"),
    [
        ("two kinds", "training-choices", settings(recompute_stages=[{"recompute": "full", "layers": 3}])),
        ("two kinds", "training-spread", settings(first_stage=3)),
        ("two kinds", "training-spread", settings(first_layer=1)),
        ("two kinds", "training-spread", settings(num_stages=9)),
        ("two kinds", "training-spread", settings(micro_batch=64)),
        ("two kinds", "training-spread", settings(layers_per_chunk=[1])),
        ("two kinds", "training-layers", pool(layers_per_stage=[3])),
        ("two kinds", "training-memory", part("weights", 0.5)),
        ("two kinds", "training-memory", part("activations", 0.1)),
        ("pipeline", "training-choices", settings(global_batch=32)),
        ("pipeline", "training-choices", settings(seq_len=4096)),
        ("pipeline", "training-choices", settings(zero=2)),
        ("pipeline", "training-choices", pool(weight_dtype="fp8")),
        ("pipeline", "training-choices", settings(offload="optimizer")),
        ("pipeline", "training-choices", settings(schedule="gpipe")),
        ("pipeline", "training-choices", pool(training=None)),
        ("pipeline", "training-choices", pool(replicas=2)),
        ("pipeline", "training-degrees", settings(micro_batch=3)),
        ("pipeline", "training-degrees", strategy(cp=16)),
        ("pipeline", "training-degrees", settings(dp_shard=7)),
        ("pipeline", "training-degrees", settings(cp_ulysses=3)),
        ("pipeline", "training-degrees", strategy(ep=2)),
        ("pipeline", "training-degrees", strategy(attention_dp=2)),
        ("pipeline", "training-degrees", settings(schedule="1f1b")),
        ("one stage", "training-degrees", settings(sequence_parallel=True)),
        ("experts", "training-degrees", strategy(etp=3)),
        ("replicas", "training-shares", settings(share=128)),
        ("replicas", "training-shares", moved("exchange_s", 0.3)),
        ("replicas", "training-degrees", settings(share=135)),
        ("replicas", "training-choices", settings(share=0)),
        ("sites", "training-shares", loop(steps=30)),
        ("sites", "training-shares", loop(bits=4)),
        ("sites", "training-shares", loop(overlap_steps=30)),
        ("sites", "training-shares", moved("exchange_s", 0.2)),
        ("sites", "training-memory", part("outer_optimizer", 0.5)),
        ("lengths", "training-lengths", batch(groups=[])),
        ("lengths", "training-lengths", batch(time_s=1e-6)),
        ("lengths", "training-lengths", settings(rank_tokens=1)),
        ("lengths", "training-degrees", settings(zero=0, micro_batch=2)),
        ("signs", "training-choices", settings(gradients="full")),
        ("signs", "training-degrees", settings(zero=1)),
        ("signs", "training-memory", part("gradients", 0.5)),
        ("pipeline", "training-layers", settings(layers_per_chunk=[8, 8, 8, 7])),
        ("pipeline", "training-layers", settings(layers_per_chunk=[16, 16])),
        ("pipeline", "training-layers", pool(layers_per_stage=[20, 12])),
        ("pipeline", "training-memory", part("weights", 0.5)),
        ("pipeline", "training-memory", part("gradients", 2.0)),
        ("pipeline", "training-memory", part("optimizer", 0.9)),
        ("pipeline", "training-memory", part("activations", 0.3)),
        ("pipeline", "training-memory", part("reserved", 50.0)),
        ("experts", "training-memory", part("weights", 0.8)),
        ("experts", "training-memory", part("kept_free", 0.5)),
        ("pipeline", "training-memory", pool(memory=[])),
        ("pipeline", "training-step", faster(0.4)),
        ("pipeline", "training-step", terms(0.9)),
        ("host", "training-step", moved("optimizer_s", 0.1)),
        ("away", "training-memory", part("optimizer", 0.5)),
        ("away", "training-step", faster(0.12)),
        ("pipeline", "training-totals", scaled("tokens_per_s", 1.1)),
        ("pipeline", "training-totals", scaled("run_time_s", 0.9)),
        ("pipeline", "training-totals", scaled("run_usd", 0.9)),
        ("pipeline", "training-totals", scaled("model_flops_per_s_per_device", 1.2)),
        ("pipeline", "training-totals", scaled("mfu", 3.0)),
        ("pipeline", "training-totals", faster(40.0)),
        ("experts", "training-totals", scaled("energy_per_step_j", 0.9)),
        ("one stage", "training-totals", scaled("usd_per_step", 0.9)),
    ],
)
def test_exactly_the_rule_that_is_broken_fires(name: str, rule: str, mutate: Mutation) -> None:
    assert failed(name, mutate) == (rule,)


def test_a_device_too_few_is_found_out() -> None:
    def mutate(plan: Plan) -> Plan:
        seat = plan.placement[0]
        fewer = seat.model_copy(update={"devices": seat.devices[:-1]})
        return plan.model_copy(update={"placement": [fewer]})

    assert "training-degrees" in failed("pipeline", mutate)
