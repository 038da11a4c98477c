"""Tables of pools: what the best pool of one role can carry with n devices of one group.

A pool is k equal replicas behind one queue. A table's `best[n]` is the most that pools of one role carry
together on at most n devices, which a knapsack over single pools gives exactly; each pool takes a fixed
share of the traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from cost_models.cost import FloatArray
from cost_models.serving.capacity import (
    MAX_REPLICAS_PER_QUEUE,
    Entries,
    LatencyLimits,
    Pools,
    PoolState,
    capacity_position,
    position_at_rate,
    state_at,
)
from cost_models.serving.queueing import Arrivals
from cost_models.work import KvTransfer, LinkSpec
from planner.ir.serving import Role
from planner.search.serving_catalogue import Catalogue, Offer
from planner.search.serving_question import Question, everything

IntArray = NDArray[np.intp]


_ANY_NUMBER = 1e12
"""Requests that a queue without limits holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Under what a disaggregated pair is priced: the link its cache crosses, and a cap on decode steps.

    `lanes` bounds the parallel transfers by what the decode side can take: decode offers have at least so
    many. `max_devices` limits the pair to one scale-up domain. `step_s` is the decode step that the
    end-to-end limit reserves (infinite: no such limit). `cache` is the engine and the cache format of both
    sides, as blocks are moved as they are (None: of any).
    """

    link: LinkSpec
    lanes: int
    max_devices: int
    step_s: float = np.inf
    cache: tuple[str, str] | None = None

    def any_cache(self) -> Context:
        """Return the context without its cache, on which no price depends."""
        return replace(self, cache=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPick:
    """One pool of a solution: `replicas` of an offer, and the context if it is half of a pair."""

    role: Role
    offer: int
    replicas: int
    context: Context | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleTable:
    """Capacity by devices for one role on one group.

    `best[n]` uses at most n devices; `taken[n]` is the size of the last pool of that optimum (0: device n
    stays unused); `offer[w]` and `replicas[w]` are the best single pool of exactly w devices.
    """

    role: Role
    context: Context | None
    best: FloatArray
    taken: np.ndarray[tuple[int], np.dtype[np.intp]]
    offer: np.ndarray[tuple[int], np.dtype[np.intp]]
    replicas: np.ndarray[tuple[int], np.dtype[np.intp]]

    def picks(self, num_devices: int) -> list[PoolPick]:
        """Return the pools behind `best[num_devices]`."""
        pools: list[PoolPick] = []
        left = num_devices
        while left > 0:
            size = int(self.taken[left])
            if size == 0:
                left -= 1
                continue
            pools.append(
                PoolPick(
                    role=self.role,
                    offer=int(self.offer[size]),
                    replicas=int(self.replicas[size]),
                    context=self.context,
                )
            )
            left -= size
        return pools

    def steps(self, limit: int | None = None) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        """Return 0 and the device counts at which the capacity rises, up to `limit`."""
        rises = np.flatnonzero(np.diff(self.best) > 0.0) + 1
        points = np.concatenate(([0], rises)).astype(np.intp)
        return points if limit is None else points[points <= limit]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RoleFacts:
    """Offers of a role side by side: group, devices, places, lanes, and which of `caches` they have."""

    group: IntArray
    width: IntArray
    room: IntArray
    lanes: IntArray
    cache: IntArray
    caches: tuple[tuple[str, str], ...]


@dataclass(slots=True, kw_only=True)
class PoolTables:
    """Makes tables for questions to one catalogue; capacities are kept across questions.

    `deadline` is a reading of the monotonic clock; `cut_short` says that something was left out for it.
    `queue_sizes` are the replica counts to look at within a group (None: all).
    """

    catalogue: Catalogue
    queue_sizes: frozenset[int] | None = None
    deadline: float = np.inf
    num_evaluations: int = 0
    cut_short: bool = False
    _pools: dict[tuple[Role, Context | None], Pools] = field(
        default_factory=dict[tuple[Role, Context | None], Pools]
    )
    _known: dict[Role, _RoleFacts] = field(default_factory=dict[Role, _RoleFacts])
    _entries: dict[tuple[Role, tuple[int, ...], bool], Entries] = field(
        default_factory=dict[tuple[Role, tuple[int, ...], bool], Entries]
    )
    _capacity: dict[tuple[object, ...], tuple[FloatArray, FloatArray]] = field(
        default_factory=dict[tuple[object, ...], tuple[FloatArray, FloatArray]]
    )

    def out_of_time(self) -> bool:
        """Return whether the time is up, and remember that it was asked."""
        if monotonic() > self.deadline:
            self.cut_short = True
        return self.cut_short

    def remaining_s(self) -> float:
        """Return the seconds left."""
        return min(self.deadline - monotonic(), 1e6)

    def pools(self, role: Role, context: Context | None) -> Pools:
        """Return the stacked curves of a role, with the transfer of the context on every first token."""
        key = (role, context.any_cache() if role == "prefill" and context is not None else None)
        if key not in self._pools:
            offers = [self.catalogue.offers[i] for i in self.catalogue.by_role(role)]
            workload = self.catalogue.problem.payload.workload
            extra: FloatArray | float = 0.0
            if role == "prefill" and context is not None:
                extra = self._transfers_s(offers, context)
            self._pools[key] = Pools.stack(
                [offer.replica.curve for offer in offers],
                self.catalogue.requests,
                Arrivals(
                    scv=workload.burstiness,
                    closed=workload.concurrency is not None and role == "aggregated",
                ),
                extra,
                _finite(context.step_s) if role == "prefill" and context is not None else 0.0,
            )
        return self._pools[key]

    def entries(self, role: Role, question: Question, group: int | None = None) -> Entries:
        """Return every (offer, replica count) of a role that the device limits allow; shape is a row.

        With a group, only those of its offers and of a single queue: beyond that, capacity is proportional.
        """
        most = question.budget.num_devices
        limits = tuple(
            0 if group not in (None, index) else count if most is None else min(count, most)
            for index, count in enumerate(question.resources.num_devices)
        )
        key = (role, limits, group is None)
        if key not in self._entries:
            facts = self._facts(role)
            copies = np.minimum(np.array(limits)[facts.group] // facts.width, facts.room)
            most_copies = int(copies.max(initial=0))
            if group is not None:
                most_copies = min(most_copies, MAX_REPLICAS_PER_QUEUE)
            sizes = np.arange(1, most_copies + 1)
            if group is not None and self.queue_sizes is not None:
                sizes = sizes[np.isin(sizes, sorted(self.queue_sizes))]
            rows, columns = np.nonzero(sizes[None, :] <= copies[:, None])
            self._entries[key] = Entries(shape=rows, replicas=sizes[columns].astype(np.float64))
        return self._entries[key]

    def _facts(self, role: Role) -> _RoleFacts:
        """Return what entries and contexts ask of the offers of a role, side by side."""
        offers = [self.catalogue.offers[index] for index in self.catalogue.by_role(role)]
        known = self._known.get(role)
        if known is None or known.width.size != len(offers):
            caches = list(dict.fromkeys(self.catalogue.cache_of(offer) for offer in offers))
            known = _RoleFacts(
                group=np.array([offer.group for offer in offers], dtype=np.intp),
                width=np.array([offer.replica.num_devices for offer in offers], dtype=np.intp),
                room=np.array([self._room(offer) for offer in offers], dtype=np.intp),
                lanes=np.array([offer.cache_lanes for offer in offers], dtype=np.intp),
                cache=np.array([caches.index(self.catalogue.cache_of(o)) for o in offers], dtype=np.intp),
                caches=tuple(caches),
            )
            self._known[role] = known
        return known

    def _room(self, offer: Offer) -> int:
        """Return how many replicas there are places for: a stage lies inside one scale-up domain."""
        group, strategy = self.catalogue.groups[offer.group], offer.replica.shape.strategy
        domain, stage = group.domain_size, strategy.stage_devices
        if stage > domain:
            return group.num_devices // offer.replica.num_devices
        return (group.num_devices // domain) * (domain // stage) // strategy.pp

    def capacity(
        self, role: Role, context: Context | None, question: Question, group: int | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return the highest rate within the limits per entry (0: none), and the requests then inside.

        Decode knows its context only by the step that it reserves, which is among the limits.
        """
        limits = role_limits(role, context, question.limits)
        where = context.any_cache() if role == "prefill" and context is not None else None
        counts = (question.resources.num_devices, question.budget.num_devices)
        key = (role, where, limits, counts, group)
        if key not in self._capacity:
            pools, entries = self.pools(role, context), self.entries(role, question, group)
            position = capacity_position(pools, entries, limits)
            state = state_at(pools, entries, np.maximum(position, 0.0))
            self.num_evaluations += entries.shape.size
            fits = position >= 0.0
            inside = np.minimum(state.rate_rps * state.e2e_s, _ANY_NUMBER)
            self._capacity[key] = (np.where(fits, state.rate_rps, 0.0), np.where(fits, inside, 0.0))
        return self._capacity[key]

    def capacity_of(
        self, role: Role, context: Context | None, question: Question, entries: Entries
    ) -> FloatArray:
        """Return the highest rate within the limits of some entries (0: none); nothing is kept."""
        pools = self.pools(role, context)
        position = capacity_position(pools, entries, role_limits(role, context, question.limits))
        self.num_evaluations += entries.shape.size
        rate = state_at(pools, entries, np.maximum(position, 0.0)).rate_rps
        return np.where(position >= 0.0, rate, 0.0)

    def accepted(
        self, where: tuple[Role, Context | None, int], question: Question, entries: Entries
    ) -> FloatArray:
        """Return 1 for entries of a group that the question and the context allow, else 0."""
        role, context, group = where
        facts = self._facts(role)
        fine = facts.group == group
        if question.accept is not everything:
            offers = (self.catalogue.offers[index] for index in self.catalogue.by_role(role))
            fine &= np.array([question.accept(offer) for offer in offers], dtype=np.bool_)
        if context is not None and context.cache is not None:
            known = context.cache in facts.caches
            fine &= (facts.cache == facts.caches.index(context.cache)) if known else False
        if context is not None and role == "decode":
            fine &= facts.lanes >= context.lanes
        return fine.astype(np.float64)[entries.shape]

    def table(self, role: Role, context: Context | None, group: int, question: Question) -> RoleTable:
        """Return capacity by devices of one role on one group; in a closed loop, capacity in requests."""
        size = question.resources.num_devices[group]
        if question.budget.num_devices is not None:
            size = min(size, question.budget.num_devices)
        single = np.zeros(size + 1)
        offer = np.zeros(size + 1, dtype=np.intp)
        replicas = np.zeros(size + 1, dtype=np.intp)
        indices = np.array(self.catalogue.by_role(role), dtype=np.intp)
        if indices.size:
            entries = self.entries(role, question, group)
            rate, inside = self.capacity(role, context, question, group)
            carried = inside if question.concurrency is not None and role == "aggregated" else rate
            carried = carried * self.accepted((role, context, group), question, entries)
            rooms = self._facts(role).room
            entries, carried = _beyond_one_queue(
                entries, carried, np.minimum(rooms, size // self.widths(role))
            )
            widths = self.widths(role)[entries.shape] * entries.replicas.astype(np.intp)
            order = np.argsort(-carried, kind="stable")
            order = order[(carried[order] > 0.0) & (widths[order] <= size)]
            found, first = np.unique(widths[order], return_index=True)
            chosen = order[first]
            single[found] = carried[chosen]
            offer[found] = indices[entries.shape[chosen]]
            replicas[found] = entries.replicas[chosen].astype(np.intp)
        best, taken = _knapsack(
            single, one_pool=question.one_pool_per_role or question.concurrency is not None
        )
        return RoleTable(role=role, context=context, best=best, taken=taken, offer=offer, replicas=replicas)

    def states_at_rate(
        self, role: Role, context: Context | None, question: Question, rate_rps: FloatArray | float
    ) -> tuple[PoolState, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        """Return the state of every entry at a rate, and which can carry it."""
        pools, entries = self.pools(role, context), self.entries(role, question)
        position = position_at_rate(pools, entries, rate_rps)
        self.num_evaluations += entries.shape.size
        return state_at(pools, entries, np.maximum(position, 0.0)), position >= 0.0

    def row_of(self, pick: PoolPick) -> int:
        """Return the row of a pick's offer in the stacked curves of its role."""
        return self.catalogue.by_role(pick.role).index(pick.offer)

    def transfer_s(self, pick: PoolPick) -> FloatArray:
        """Return the cache transfer of each sample from a prefill pick, seconds."""
        if pick.context is None or pick.role != "prefill":
            return np.zeros(self.catalogue.requests.weights.size)
        return self._transfer_s(self.catalogue.offers[pick.offer], pick.context)

    def _transfers_s(self, offers: Sequence[Offer], context: Context) -> FloatArray:
        """Return what hand-overs of offers take: the cache crosses, and the decode worker takes requests in.

        Transfers of equal caches and lanes on a group are the same; both sides run the same engine.
        """
        known: dict[tuple[int, str, str, int], FloatArray] = {}
        found: list[FloatArray] = []
        for offer in offers:
            shape = offer.replica.shape
            key = (offer.group, shape.engine, shape.kv_fmt, min(context.lanes, offer.cache_lanes))
            if key not in known:
                known[key] = self._transfer_s(offer, context)
            found.append(known[key] + offer.replica.tables.per_request_s)
        return np.array(found)

    def _transfer_s(self, offer: Offer, context: Context) -> FloatArray:
        builder = self.catalogue.builders[offer.group, offer.replica.shape.engine]
        work = KvTransfer(
            num_bytes=self.catalogue.cache_bytes(offer),
            link=context.link,
            num_lanes=float(min(context.lanes, offer.cache_lanes)),
        )
        return builder.costs.model.price(work).time_s

    def widths(self, role: Role) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        """Return the devices of each offer of a role."""
        return self._facts(role).width


def role_limits(role: Role, context: Context | None, limits: LatencyLimits) -> LatencyLimits:
    """Return what a role must meet: prefill answers for the first token, decode for the steps."""
    if role == "prefill":
        return replace(limits, tpot_s=np.inf)
    if role == "decode":
        step_s = np.inf if context is None else context.step_s
        return replace(limits, ttft_s=np.inf, e2e_s=np.inf, tpot_s=min(limits.tpot_s, step_s))
    return limits


def _beyond_one_queue(
    entries: Entries, carried: FloatArray, most: np.ndarray[tuple[int], np.dtype[np.intp]]
) -> tuple[Entries, FloatArray]:
    """Return the entries with those of several full queues added, up to `most` replicas of a shape.

    They carry in proportion.
    """
    full = np.flatnonzero((entries.replicas == MAX_REPLICAS_PER_QUEUE) & (carried > 0.0))
    shapes, counts, rates = [entries.shape], [entries.replicas], [carried]
    for at in full:
        shape = int(entries.shape[at])
        more = np.arange(MAX_REPLICAS_PER_QUEUE + 1, int(most[shape]) + 1, dtype=np.float64)
        shapes.append(np.full(more.size, shape, dtype=np.intp))
        counts.append(more)
        rates.append(carried[at] * more / MAX_REPLICAS_PER_QUEUE)
    joined = Entries(shape=np.concatenate(shapes), replicas=np.concatenate(counts))
    return joined, np.concatenate(rates)


def _finite(value: float) -> float:
    return value if np.isfinite(value) else 0.0


def _knapsack(
    single: FloatArray, *, one_pool: bool
) -> tuple[FloatArray, np.ndarray[tuple[int], np.dtype[np.intp]]]:
    """Return the best sum of pools within n devices, and the pool taken last.

    best[n] = max(best[n - 1], max over w of single[w] + best[n - w]); a single pool wins ties.
    """
    size = single.size
    best = np.zeros(size)
    taken = np.zeros(size, dtype=np.intp)
    for n in range(1, size):
        if one_pool:
            value, width = single[n], n
        else:
            sums = single[1 : n + 1] + best[n - 1 :: -1][:n]
            width = int(np.argmax(sums)) + 1
            value = sums[width - 1]
            if single[n] >= value * (1.0 - 1e-12):
                value, width = single[n], n
        if value > best[n - 1] * (1.0 + 1e-12):
            best[n], taken[n] = value, width
        else:
            best[n] = best[n - 1]
    return best, taken
