"""A served plan under a stream of requests: a second opinion on its latencies, one engine step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from math import inf
from typing import cast

import numpy as np

from cost_models.serving.closed_loop import admitted_per_step
from planner.errors import InputError, UnsupportedError
from planner.ir.cluster import NodeGroup
from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem
from planner.ir.trace import RequestTrace
from planner.ir.workload import ServingWorkload
from planner.plan.schema import Plan, Pool
from planner.simulate.policies import POLICIES
from planner.simulate.routing import ROUTERS, Router
from planner.simulate.serving_cache import Tier
from planner.simulate.serving_engine import Engine, Rank
from planner.simulate.serving_loop import ClosedLoop
from planner.simulate.serving_options import SimulationOptions
from planner.simulate.serving_report import Place, SimulationReport, make_report
from planner.simulate.serving_request import Request
from planner.simulate.serving_requests import make_requests
from planner.simulate.serving_times import ReplicaModel, replica_cache_bytes_per_token, replica_model

_MOST_TOKENS = 4_194_304
"""Longest request that is simulated where a plan does not say what its engines take."""

__all__ = ["SimulationOptions", "SimulationReport", "simulate_plan"]


@dataclass(slots=True, kw_only=True)
class Simulation:
    """A finished simulation: the requests with what happened to them, where they went, and the report."""

    requests: list[Request]
    places: list[Place]
    report: SimulationReport


def simulate_plan(
    plan: Plan, problem: Problem[object], options: SimulationOptions, trace: RequestTrace | None = None
) -> SimulationReport:
    """Simulate a served plan under random arrivals, or under a trace (see `run_simulation`)."""
    return run_simulation(plan, problem, options, trace).report


def run_simulation(
    plan: Plan, problem: Problem[object], options: SimulationOptions, trace: RequestTrace | None = None
) -> Simulation:
    """Simulate a served plan under random arrivals, or under a trace.

    Raises
    ------
    InputError
        If the plan has nothing to simulate, or the options name what it does not have.
    UnsupportedError
        If the plan is of another kind.
    """
    if problem.kind != "serving":
        raise UnsupportedError("only served plans can be simulated", key="kind", value=problem.kind)
    if not plan.pools:
        raise InputError("this plan has nothing to simulate", key="status", value=plan.status)
    payload = cast("ServingProblem", problem.payload)
    _check_replicas(plan, options)
    asked = make_requests(plan, payload, options, trace)
    requests = _accepted(plan, asked)
    longest = max(r.context + r.steps for r in requests)
    groups = {group.name: group for group in problem.cluster.groups}
    blocks = trace.block_tokens if trace is not None and trace.blocks else 0
    models = {
        p.name: _model(payload, p, groups[p.node_group], (longest, blocks, options)) for p in plan.pools
    }
    halves: list[_Half] = []
    paired = "decode" in {p.role for p in plan.pools}
    first = 0
    for roles in (("prefill",), ("decode",)) if paired else (("aggregated",),):
        pools = [pool for pool in plan.pools if pool.role in roles]
        halves.append(_Half(plan=plan, pools=pools, models=models, options=options, first_place=first))
        first += sum(pool.replicas for pool in pools)
    if payload.workload.concurrency is not None and trace is None and options.rate_rps is None:
        _serve_clients(plan, halves, requests, payload.workload)
    else:
        for half in halves:
            half.serve(requests)
    places = [place for half in halves for place in half.places(groups)]
    report = make_report(plan, payload.workload.slo, requests, places, warms_up=not options.failures)
    refused = len(asked) - len(requests)
    return Simulation(requests=requests, places=places, report=replace(report, refused=refused))


def _serve_clients(
    plan: Plan, halves: list[_Half], requests: list[Request], workload: ServingWorkload
) -> None:
    """Let a fixed number of clients send the requests, each its next one when the last has ended.

    Raises
    ------
    InputError
        If replicas shall fail: clients would have to find others.
    """
    clients = workload.concurrency or 1
    if halves[0].options.failures:
        raise InputError(
            "failures are simulated under a rate, not under a fixed number of clients",
            key="--fail",
            hint="Give a rate with --rate.",
        )
    loop = ClosedLoop(
        halves=[half.all_engines() for half in halves],
        shares=[half.shares() for half in halves],
        num_clients=clients,
        transfer_s=lambda _: _transfer_s(plan),
    )
    if len(halves) == 1:
        each = max(1, round(clients / len(halves[0].all_engines())))
        loop.admitted_per_step = admitted_per_step(each, max(1.0, workload.lengths.mean_output - 1.0))
    loop.run(requests)


def _accepted(plan: Plan, requests: list[Request]) -> list[Request]:
    """Return the requests that are not longer than the engines are set to take; those refuse the others."""
    limits = (pool.limits.get("max_model_len") for pool in plan.pools)
    most = min((int(limit) for limit in limits if limit), default=_MOST_TOKENS)
    kept = [request for request in requests if request.context + request.steps + 1 <= most]
    if not kept:
        raise InputError(
            "every request is longer than the plan's engines take",
            key="max_model_len",
            value=min(request.context + request.steps + 1 for request in requests),
            allowed=f"prompt and output of at most {most} tokens together",
            hint="Plan with these lengths.",
        )
    return kept


def _check_replicas(plan: Plan, options: SimulationOptions) -> None:
    sizes = {pool.name: pool.replicas for pool in plan.pools}
    for item in (*options.failures, *options.stragglers):
        if item.replica >= sizes.get(item.pool, 0):
            raise InputError(
                "the plan has no such replica",
                key=item.pool,
                value=item.replica,
                allowed=", ".join(f"{name}/0 to {name}/{n - 1}" for name, n in sizes.items()),
            )


def _model(
    payload: ServingProblem, pool: Pool, group: NodeGroup, what: tuple[int, int, SimulationOptions]
) -> ReplicaModel:
    longest, block_tokens, options = what
    model = replica_model(payload, pool, group, longest)
    if not block_tokens:
        return model
    tiers: tuple[Tier, ...] = ()
    if options.tiers:
        per_token = replica_cache_bytes_per_token(pool, model)
        tiers = tuple(
            Tier(
                name=t.name,
                capacity_tokens=t.capacity_bytes / per_token,
                tokens_per_s=t.bytes_per_s / per_token,
            )
            for t in options.tiers
        )
    return replace(model, block_tokens=block_tokens, tiers=tiers)


@dataclass(slots=True, kw_only=True)
class _Half:
    """The pools that do one half of every request (or all of it), and the router in front of each."""

    plan: Plan
    pools: list[Pool]
    models: dict[str, ReplicaModel]
    options: SimulationOptions
    first_place: int
    engines: list[list[Engine]] = field(default_factory=list[list[Engine]])
    routers: list[Router] = field(default_factory=list[Router])

    def __post_init__(self) -> None:
        """Start the engines."""
        queue = POLICIES.get(self.options.policy)
        router = ROUTERS.get(self.options.routing)
        slow = {(s.pool, s.replica): s.factor for s in self.options.stragglers}
        for number, pool in enumerate(self.pools):
            self.engines.append(
                [
                    Engine(
                        model=self.models[pool.name],
                        prefills=pool.role != "decode",
                        decodes=pool.role != "prefill",
                        slowdown=slow.get((pool.name, replica), 1.0),
                        queue=queue,
                    )
                    for replica in range(pool.replicas)
                ]
            )
            self.routers.append(router(self.options.seed + number))

    @property
    def decoding(self) -> bool:
        """Whether requests come here with their prompts computed."""
        return self.pools[0].role == "decode"

    def serve(self, requests: list[Request]) -> None:
        """Send requests through the pools, failures and their second tries included.

        A failed replica's requests go to the others of its pool; those of a decode pool fetch the caches
        of their prompts once more.
        """
        rng = np.random.default_rng(self.options.seed + 1)
        weights = np.array([_share(pool) for pool in self.pools])
        if not weights.any():  # planned without traffic, but given some now
            weights = np.array([float(pool.replicas) for pool in self.pools])
        choices = rng.choice(len(self.pools), size=len(requests), p=weights / weights.sum()).tolist()
        if self.decoding:
            transfer = _transfer_s(self.plan)
            for request in requests:
                request.first_s += transfer
                request.ready_s, request.done = request.first_s, 0
        serial = len(requests)
        events: list[tuple[float, int, Request | int, int]] = [
            (request.ready_s, i, request, int(choices[i])) for i, request in enumerate(requests)
        ]
        names = [pool.name for pool in self.pools]
        for number, failure in enumerate(self.options.failures):
            if failure.pool in names:
                serial += 1
                events.append((failure.at_s, serial, number, names.index(failure.pool)))
        events.sort()
        while events:
            at, _, what, pool = heappop(events)
            if isinstance(what, int):
                failure = self.options.failures[what]
                lost = self.engines[pool][failure.replica].fail(at, at + failure.for_s)
            else:
                lost = self._send(what, pool, at)
            for request in lost:
                serial += 1
                again = _transfer_s(self.plan) if self.decoding and isinstance(what, int) else 0.0
                request.ready_s = self._up_at(pool, at) + again
                heappush(events, (request.ready_s, serial, request, pool))
        for engine in self.all_engines():
            engine.advance(inf)

    def shares(self) -> list[float]:
        """Return how much of the requests every engine gets."""
        return [_share(pool) / pool.replicas for pool in self.pools for _ in range(pool.replicas)]

    def _up_at(self, pool: int, at_s: float) -> float:
        """Return when the first engine of a pool is up."""
        return max(at_s, min(engine.down_until_s for engine in self.engines[pool]))

    def _send(self, request: Request, pool: int, at_s: float) -> list[Request]:
        """Route a request; return it if no engine of its pool is up."""
        ranks: list[Rank] = []
        owners: list[int] = []
        for number, engine in enumerate(self.engines[pool]):
            engine.advance(at_s)
            if engine.is_up(at_s):
                ranks += engine.ranks
                owners += [number] * len(engine.ranks)
        if not ranks:
            return [request]
        chosen = self.routers[pool].choose(ranks, request) if len(ranks) > 1 else 0
        before = sum(len(engines) for engines in self.engines[:pool])
        request.place = self.first_place + before + owners[chosen]
        ranks[chosen].admit(request)
        return []

    def all_engines(self) -> list[Engine]:
        """Return the engines of all pools, in order."""
        return [engine for engines in self.engines for engine in engines]

    def places(self, groups: dict[str, NodeGroup]) -> list[Place]:
        """Return what each replica did."""
        return [
            Place(
                pool=pool.name,
                replica=replica,
                num_devices=pool.strategy.tp
                * pool.strategy.pp
                * pool.strategy.attention_dp
                * pool.strategy.cp,
                device=groups[pool.node_group].device,
                cache_tokens=self.models[pool.name].cache_tokens * self.models[pool.name].num_ranks,
                tally=engine.tally,
                caches=tuple(rank.prefixes for rank in engine.ranks if rank.prefixes is not None),
            )
            for pool, engines in zip(self.pools, self.engines, strict=True)
            for replica, engine in enumerate(engines)
        ]


def _transfer_s(plan: Plan) -> float:
    """Return the seconds that the caches of a prompt take from prefill to decode."""
    return max(
        (p.predicted["kv_transfer_s"].value for p in plan.pools if "kv_transfer_s" in p.predicted),
        default=0.0,
    )


def _share(pool: Pool) -> float:
    rate = pool.predicted.get("request_rate_rps")
    return rate.value if rate is not None else float(pool.replicas)


def replica_names(places: Sequence[Place]) -> list[str]:
    """Return <pool>/<replica> of every place."""
    return [f"{place.pool}/{place.replica}" for place in places]
