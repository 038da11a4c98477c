"""Every decision is one that the user left open: model, engine, mode, formats, pinned degrees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from hardware_profiles.loader import load_software
from planner.ir.cluster import Cluster
from planner.ir.serving import ServingProblem
from planner.ir.weight_offload import WeightOffload
from planner.plan.schema import Pool
from planner.verify.report import Violation
from planner.verify.rule import SERVING, Case, Rule
from planner.verify.serving.expert_skew import expert_maps, faults
from planner.verify.serving.streaming import can_tell

_COUNTS = ("token_budget", "max_num_seqs", "max_model_len", "block_size")
_MOST = 2**24
"""No engine takes more tokens or sequences than this."""
_DEGREE_NAMES = {"prefill_cp": "cp"}


def _check(case: Case) -> Iterator[Violation]:
    payload = cast("ServingProblem", case.problem.payload)
    choices, maps = payload.choices, expert_maps(case.plan)
    for pool in case.plan.pools:
        for what, value, allowed in (
            ("model", pool.model, (payload.model.name,)),
            ("engine", pool.engine, choices.engines),
            ("weight format", pool.weight_dtype, choices.weight_fmts),
            ("KV format", pool.kv_dtype, choices.kv_fmts),
        ):
            if allowed and value not in allowed:
                yield Violation(
                    message=f"pool {pool.name!r}: {what} {value!r} is not among {', '.join(allowed)}"
                )
        if WeightOffload.of_limits(pool.limits) != WeightOffload():
            yield from _host_memory(pool, allowed=choices.weight_offload)
        if "redundant_experts" in pool.limits and (wrong := faults(payload, pool, maps.get(pool.name))):
            yield Violation(message=f"pool {pool.name!r}: {wrong}")
        yield from _pinned(pool, choices.fixed)
        yield from _engine(pool, case.problem.cluster)
        yield from _counts(pool)
    yield from _mode({pool.role for pool in case.plan.pools}, choices.modes)


def _engine(pool: Pool, cluster: Cluster) -> Iterator[Violation]:
    if any(
        group.name == pool.node_group and not load_software(pool.engine).runs_on(group.device)
        for group in cluster.groups
    ):
        yield Violation(message=f"pool {pool.name!r}: {pool.engine} does not run on {pool.device}")


def _host_memory(pool: Pool, *, allowed: bool) -> Iterator[Violation]:
    if not allowed:
        yield Violation(message=f"pool {pool.name!r} leaves weights in host memory, which was not allowed")
    if not can_tell(pool):
        yield Violation(message=f"{pool.engine} cannot leave these weights of pool {pool.name!r} on the host")


def _mode(roles: set[str], modes: tuple[str, ...]) -> Iterator[Violation]:
    if not roles <= {"aggregated", "prefill", "decode"} or ("prefill" in roles) != ("decode" in roles):
        yield Violation(message=f"pools of roles {', '.join(sorted(roles))} serve no request")
        return
    used = [
        mode for mode, role in (("aggregated", "aggregated"), ("disaggregated", "decode")) if role in roles
    ]
    for mode in used:
        if modes and mode not in modes:
            yield Violation(message=f"the plan is {mode}, allowed is {', '.join(modes)}")


def _counts(pool: Pool) -> Iterator[Violation]:
    for name in _COUNTS:
        value = pool.limits.get(name, 1)
        if not 1 <= value <= _MOST:
            yield Violation(message=f"pool {pool.name!r} has {name}={value:g}")


def _pinned(pool: Pool, fixed: tuple[tuple[str, int], ...]) -> Iterator[Violation]:
    degrees = pool.strategy.model_dump()
    for name, value in fixed:
        found = degrees.get(_DEGREE_NAMES.get(name, name), pool.limits.get(name, value))
        if found != value:
            yield Violation(message=f"pool {pool.name!r} has {name}={found}, pinned is {value}")


RULE = Rule(
    says="every decision was open to the plan",
    check=_check,
    kinds=SERVING,
    of_parts=True,
    requires=("well-formed",),
)
