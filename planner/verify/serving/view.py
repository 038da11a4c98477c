"""The checker's view of a served plan: every pool with its own pricing, made from plan and problem alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import cast

from cost_models.work import KvTransfer
from hardware_profiles.loader import load_software
from planner.ir.cluster import Cluster, Link, NodeGroup
from planner.ir.cost_sources import priced_by
from planner.ir.serving import ServingProblem
from planner.ir.weight_offload import WeightOffload
from planner.plan.schema import Pool, Replica
from planner.verify.placing import device_of, position
from planner.verify.rule import Case
from planner.verify.serving.expert_skew import expert_maps, skew_of
from planner.verify.serving.load import PoolFacts, PoolLoad, Requests
from planner.verify.serving.shards import bytes_of, cache_format, entries, sequence_bytes
from planner.verify.serving.spans import link_as_seen, replica_spans
from planner.verify.serving.steps import StepPricer

_BUDGET_NAMES = ("token_budget", "max_num_batched_tokens")
_ENGINE_BUDGET = 8192.0
"""Tokens per step of a server whose plan sets none (vLLM's default on data-centre GPUs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """One pool as the checker sees it."""

    pool: Pool
    group: NodeGroup
    load: PoolLoad

    @property
    def requests(self) -> Requests:
        """The requests of the problem."""
        return self.load.requests

    @property
    def memory_fraction(self) -> float:
        """Share of device memory that the engine may use."""
        return self.load.pricer.software.memory_fraction.value

    def holding(self, held: float) -> PoolView:
        """Return the view where `held` sequences of mean length fit a rank's cache.

        Who prefills and decodes takes requests as they come, so they wait for a place to decode in.
        """
        facts, places = self.load.facts, inf
        if facts.role == "aggregated" and facts.concurrency is None and self.requests.mean_steps:
            places = min(self.requests.places(held), float(self.pool.limits.get("max_num_seqs", inf)))
        return replace(self, load=replace(self.load, facts=replace(facts, places=places)))


def pool_views(case: Case) -> tuple[PoolView, ...]:
    """Return the views of all pools, made once per plan."""
    return cast("tuple[PoolView, ...]", case.once("serving pools", lambda: _views(case)))


def _views(case: Case) -> tuple[PoolView, ...]:
    groups = {group.name: group for group in case.problem.cluster.groups}
    payload = cast("ServingProblem", case.problem.payload)
    requests = Requests.of(payload.workload)
    found: list[PoolView] = []
    maps = expert_maps(case.plan)
    for pool in case.plan.pools:
        placed = [r for r in case.plan.placement if r.pool == pool.name]
        extra = handover_s(case, pool, requests) if pool.role == "prefill" else 0.0
        own = replace(payload, routing_skew=skew_of(payload, pool, maps.get(pool.name)), expert_loads=())
        found.append(pool_view(own, pool, placed[0], groups[pool.node_group], requests, extra_ttft_s=extra))
    return tuple(found)


def pool_view(
    payload: ServingProblem,
    pool: Pool,
    replica: Replica,
    group: NodeGroup,
    requests: Requests,
    *,
    extra_ttft_s: float = 0.0,
) -> PoolView:
    """Return the view of a pool whose replicas all lie like `replica`."""
    priced = priced_by(payload.choices.costs, group.device, load_software(pool.engine))
    software = priced.software
    pricer = StepPricer(
        model=payload.model,
        pool=pool,
        spans=replica_spans(pool, replica, group),
        costs=priced.model,
        peaks_flops_per_s=priced.facts.peaks_flops_per_s,
        software=software,
        routing_skew=skew_of(payload, pool, None),
        adapters=payload.adapters,
        images=payload.workload.images,
        host_link=link_as_seen(group.host_link) if WeightOffload.of_limits(pool.limits).text else None,
    )
    facts = PoolFacts(
        role=pool.role,
        replicas=pool.replicas,
        token_budget=token_budget(pool),
        burstiness=payload.workload.burstiness,
        extra_ttft_s=extra_ttft_s,
        concurrency=payload.workload.concurrency,
    )
    view = PoolView(pool=pool, group=group, load=PoolLoad(pricer=pricer, requests=requests, facts=facts))
    return view.holding(_held(payload, pool, requests))


def _held(payload: ServingProblem, pool: Pool, requests: Requests) -> float:
    """Return how many sequences of mean length fit the cache that the plan states, per rank."""
    fitting = inf
    for memory in pool.memory:
        cache = sum(part.num_bytes for part in memory.parts if part.name == "kv_cache")
        each = sequence_bytes(payload.model, pool, memory.stage, requests.context)
        fitting = min(fitting, cache / each if each else inf)
    return fitting


def token_budget(pool: Pool) -> float:
    """Return the tokens that a step of the pool may carry."""
    return next((float(pool.limits[n]) for n in _BUDGET_NAMES if n in pool.limits), _ENGINE_BUDGET)


def handover_s(case: Case, prefill: Pool, requests: Requests) -> float:
    """Return the mean time from a computed prompt to its first token: its cache moves, decode takes it in."""
    payload = cast("ServingProblem", case.problem.payload)
    groups = {group.name: group for group in case.problem.cluster.groups}
    taken_in = max(
        (
            priced_by(
                payload.choices.costs, groups[pool.node_group].device, load_software(pool.engine)
            ).software.per_request_s.value
            for pool in case.plan.pools
            if pool.role == "decode"
        ),
        default=0.0,
    )
    return transfer_s(case, prefill, requests) + taken_in


def transfer_s(case: Case, prefill: Pool, requests: Requests) -> float:
    """Return the mean time to move a prompt's cache to the farthest decode pool, seconds.

    As many devices send side by side as hold distinct parts of the cache on either end.
    """
    payload = cast("ServingProblem", case.problem.payload)
    cluster = case.problem.cluster
    decode = [pool for pool in case.plan.pools if pool.role == "decode"]
    model = payload.model
    tokens = sum(b.tokens * b.share for b in requests.bins)
    width = bytes_of(cache_format(model, prefill.kv_dtype))
    elements = sum(
        entries(core, tokens) * (core.kv_elems_per_entry + core.index_dim) for core in model.attention_cores()
    )
    heads = min((c.num_kv_heads if c.kind == "gqa" else 1 for c in model.attention_cores()), default=1)
    source, slowest = payload.choices.costs, 0.0
    for pool in decode:
        lanes = min(min(p.strategy.tp, heads) * p.strategy.pp for p in (prefill, pool))
        link = _link_between(case, cluster, prefill, pool)
        group = next(g for g in cluster.groups if g.name == prefill.node_group)
        work = KvTransfer(num_bytes=elements * width, link=link_as_seen(link), num_lanes=float(lanes))
        costs = priced_by(source, group.device, load_software(prefill.engine)).model
        slowest = max(slowest, float(costs.price(work).time_s))
    return slowest


def _link_between(case: Case, cluster: Cluster, first: Pool, second: Pool) -> Link:
    """Return the link that a transfer crosses: the innermost level that holds some replica of both."""
    groups = {group.name: group for group in cluster.groups}
    if first.node_group != second.node_group:
        if cluster.is_joined(first.node_group, second.node_group):
            return cluster.between(first.node_group, second.node_group).link
        return groups[first.node_group].levels[-1].link
    group = groups[first.node_group]
    for level in group.levels:
        if _cells(case, first, group, level.num_devices) >= _cells(case, second, group, level.num_devices):
            return level.link
    return group.levels[-1].link


def _cells(case: Case, pool: Pool, group: NodeGroup, size: int) -> set[int]:
    placed = [r.devices for r in case.plan.placement if r.pool == pool.name]
    devices = [device_of(text) for texts in placed for text in texts]
    return {position(d, group) // size for d in devices if d is not None}
