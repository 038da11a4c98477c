"""Columns of a fleet: for every model, role and node group, the pools that are worth buying.

A column is one queue: `replicas` equal replicas behind one router. Its capacity is the highest rate at
which the queue meets the model's limits, so the master problem is linear in the number of queues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from cost_models.cost import FloatArray
from cost_models.serving.capacity import Entries
from cost_models.work import LinkSpec
from planner.diagnostics import Diagnostics
from planner.ir.cluster import NodeGroup
from planner.ir.fleet import FleetModel, FleetProblem
from planner.ir.objective import Budget, Objective
from planner.ir.problem import Problem, SearchOptions
from planner.ir.serving import Role, ServingProblem
from planner.search.fleet_room import fills_slots, units_of
from planner.search.serving_catalogue import Catalogue, Stop, build_catalogue, fill, roles_of
from planner.search.serving_contexts import cross_contexts, inner_contexts
from planner.search.serving_dominance import undominated
from planner.search.serving_pools import Context, PoolTables
from planner.search.serving_question import Question, Resources, question_of
from planner.space.compose import ReplicaShape
from planner.space.engine import CostSource

AGGREGATED: Role = "aggregated"
PREFILL: Role = "prefill"
DECODE: Role = "decode"
STAGE = "stage"
NUM_DEADLINE_SPLITS = 4
"""Shares into which an end-to-end limit is cut between prefill and decode."""
QUEUE_SIZES = frozenset({*range(1, 9), 10, 12, 16, 24, 32, 48, 64})
"""Replicas of one queue; beyond a few, one more changes little."""
_FEW_REPLICAS = 16
"""Longest queue of a fault-tolerant model; what the loss of a replica takes must stay small."""
_FEW_ENTRIES = 1_000
"""Entries that are priced at once sooner than looked through."""
_SURELY = 1e-6
"""By how much a shape must be worse than others to be left out unpriced."""
LOSS_STEP = 0.01
"""Losses of a replica that differ by less are counted as the larger one."""
_Queue = tuple[int, int, float, float]
"""Offer, replicas, capacity, loss per lost replica."""
_NO_LINK = LinkSpec(name="none", latency_s=0.0, bandwidth_bytes_per_s=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One queue of `replicas` replicas of a shape; `offer` is its index in the model's catalogue.

    `split` numbers the cache format and the share of an end-to-end limit that is left to decode; prefill
    and decode of one split go together. `crosses` marks prefill whose cache may go to decode on another
    group. `units` are the scale-up slots that one replica occupies. `loss_rps` is the most that one lost
    replica takes away (0 where no failure is to be survived).
    """

    model: int
    role: str
    group: int
    offer: int
    replicas: int
    replica_devices: int
    units: tuple[int, ...]
    capacity_rps: float
    loss_rps: float
    split: int = 0
    crosses: bool = False
    context: Context | None = None

    @property
    def num_devices(self) -> int:
        """Devices of the whole queue."""
        return self.replicas * self.replica_devices


@dataclass(slots=True, kw_only=True)
class ModelSupply:
    """What a model can be served with: its columns, and the tables behind them (None for a stated stage)."""

    columns: list[Column] = field(default_factory=list[Column])
    tables: PoolTables | None = None
    question: Question | None = None
    num_shapes: int = 0
    num_fitting: int = 0
    complete: bool = True


def serving_problem(problem: Problem[FleetProblem], model: FleetModel) -> Problem[ServingProblem]:
    """Return the serving problem of one model on the whole inventory, without demand."""
    assert model.serving is not None
    workload = replace(model.serving.workload, rate_rps=None, concurrency=None)
    return Problem(
        kind="serving",
        name=model.name,
        cluster=problem.cluster,
        objective=Objective(name="max_throughput", robust=problem.objective.robust),
        budget=Budget(num_devices=model.replica_devices),
        options=SearchOptions(seed=problem.options.seed),
        payload=replace(model.serving, workload=workload),
    )


def supply_of(
    problem: Problem[FleetProblem], index: int, costs: CostSource, diagnostics: Diagnostics, stop: Stop
) -> ModelSupply:
    """Return the columns of one model.

    Sizes that leave a part of their slots unused are priced only for roles that no other size can fill on
    a group.
    """
    model = problem.payload.models[index]
    if model.serving is None:
        return ModelSupply(columns=list(stated_columns(problem, index)))
    case = serving_problem(problem, model)
    catalogue = build_catalogue(case, costs, diagnostics, stop, _fills)
    catalogue.offers[:] = undominated(catalogue.offers)
    supply = catalogue_supply(problem, index, case, catalogue)
    served = {(column.role, column.group) for column in supply.columns}
    before = len(catalogue.offers)
    for where in tuple(catalogue.builders):
        for role in roles_of(catalogue):
            if (role, where[0]) not in served and model.allows(role, catalogue.groups[where[0]].name):
                fill(catalogue, where, role, stop, lambda shape, group: not _fills(shape, group))
    if len(catalogue.offers) == before:
        return supply
    return catalogue_supply(problem, index, case, catalogue)


def _fills(shape: ReplicaShape, group: NodeGroup) -> bool:
    """Return whether a shape leaves nothing of its scale-up slots unused."""
    return fills_slots(shape.strategy.num_devices, group.domain_size)


def catalogue_supply(
    problem: Problem[FleetProblem], index: int, case: Problem[ServingProblem], catalogue: Catalogue
) -> ModelSupply:
    """Return the columns over a catalogue of priced shapes."""
    model = problem.payload.models[index]
    # Only failures ask for the lengths between.
    tables = PoolTables(catalogue=catalogue, queue_sizes=None if model.tolerance else QUEUE_SIZES)
    question = replace(question_of(case), budget=Budget(), resources=Resources.of(case.cluster.groups))
    supply = ModelSupply(
        tables=tables,
        question=question,
        num_shapes=catalogue.num_shapes,
        num_fitting=catalogue.num_fitting,
        complete=catalogue.complete,
    )
    need = model.rate_rps * max((level.factor for level in problem.payload.levels), default=1.0)
    bound = need if model.tolerance is None and problem.objective.name.startswith("min_") else np.inf
    builder = _Builder(model=model, index=index, tables=tables, question=question, need_rps=bound)
    supply.columns.extend(builder.columns())
    return supply


def stated_columns(problem: Problem[FleetProblem], index: int) -> Iterator[Column]:
    """Yield the columns of a stage with stated rates."""
    model = problem.payload.models[index]
    for number, shape in enumerate(model.stated):
        for where, group in enumerate(problem.cluster.groups):
            fits_domain = shape.num_devices <= group.domain_size
            if group.device.name == shape.device and fits_domain and model.allows(STAGE, group.name):
                yield Column(
                    model=index,
                    role=STAGE,
                    group=where,
                    offer=number,
                    replicas=1,
                    replica_devices=shape.num_devices,
                    units=units_of(shape.num_devices, group.domain_size),
                    capacity_rps=shape.capacity_rps,
                    loss_rps=shape.capacity_rps,
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """Under what a half of a pair is priced."""

    split: int = 0
    crosses: bool = False
    context: Context | None = None


def _at(split: int, context: Context) -> _How:
    return _How(split=split, context=context)


@dataclass(slots=True, kw_only=True)
class _Builder:
    """Makes the columns of one priced model."""

    model: FleetModel
    index: int
    tables: PoolTables
    question: Question
    need_rps: float

    def columns(self) -> Iterator[Column]:
        """Yield the columns of every role, group and kind of link."""
        groups = range(len(self.question.resources.num_devices))
        for group in groups:
            yield from self._of(AGGREGATED, group)
        halves = product(self._steps(), self.tables.catalogue.caches())
        for split, (step_s, cache) in enumerate(halves):
            yield from self._disaggregated(split, step_s, cache)

    def _disaggregated(self, split: int, step_s: float, cache: tuple[str, str]) -> Iterator[Column]:
        catalogue = self.tables.catalogue
        groups = range(len(self.question.resources.num_devices))
        lanes: dict[int, int] = {}
        for group in groups:
            found = list(
                self._of(
                    DECODE,
                    group,
                    _at(split, Context(link=_NO_LINK, lanes=1, max_devices=1, step_s=step_s, cache=cache)),
                )
            )
            if not found:
                continue
            best = max(found, key=lambda c: (c.capacity_rps / c.num_devices, -c.offer))
            most = catalogue.offers[best.offer].cache_lanes
            lanes[group] = 1 << (most.bit_length() - 1)
            yield from (c for c in found if catalogue.offers[c.offer].cache_lanes >= lanes[group])
        for group in groups:
            for inner in inner_contexts(catalogue, group, self.question)[-1:] if group in lanes else ():
                context = replace(inner, lanes=lanes[group], step_s=step_s, cache=cache)
                yield from self._of(PREFILL, group, _at(split, context))
            others = [other for other in groups if other != group and other in lanes]
            if others and catalogue.problem.cluster.slowest_between() is not None:
                (link, *_) = cross_contexts(catalogue, self.question)
                least = min(lanes[other] for other in others)
                context = replace(link, lanes=least, step_s=step_s, cache=cache)
                yield from self._of(PREFILL, group, replace(_at(split, context), crosses=True))

    def _steps(self) -> tuple[float, ...]:
        """Return the decode steps to reserve for under an end-to-end limit; one without limit else."""
        limits, steps = self.question.limits, self.tables.catalogue.requests.mean_steps
        decode = [o for o in self.tables.catalogue.offers if o.role == DECODE]
        if not decode or not np.isfinite(limits.e2e_s) or steps <= 0.0:
            return (np.inf,) if decode else ()
        fastest = min(float(offer.replica.curve.tpot_high_s[0]) for offer in decode)
        slowest = min(limits.tpot_s, limits.e2e_s / steps)
        if not fastest < slowest:
            return ()
        return tuple(float(step) for step in np.geomspace(fastest, slowest, NUM_DEADLINE_SPLITS + 1)[1:])

    def _of(self, role: Role, group: int, how: _How | None = None) -> Iterator[Column]:
        """Yield the undominated queues of one role on one group."""
        name = self.question_group(group)
        how = how or _How()
        if not self.model.allows(role, name) or not self.tables.catalogue.by_role(role):
            return
        entries = self.tables.entries(role, self.question, group)
        allowed = self.tables.accepted((role, how.context, group), self.question, entries)
        entries = entries.only(np.flatnonzero(allowed))
        if self.model.tolerance is None and entries.shape.size > _FEW_ENTRIES:
            entries = self._worth_pricing(role, how.context, entries)
        rate = self.tables.capacity_of(role, how.context, self.question, entries)
        found = self._best_of_equals(role, rate, entries)
        for offer, replicas, capacity, loss in self._undominated(found):
            replica = self.tables.catalogue.offers[offer].replica
            domain = self.tables.catalogue.groups[group].domain_size
            yield Column(
                model=self.index,
                role=role,
                group=group,
                offer=offer,
                replicas=replicas,
                replica_devices=replica.num_devices,
                units=units_of(replica.num_devices, domain),
                capacity_rps=capacity,
                loss_rps=loss,
                split=how.split,
                crosses=how.crosses,
                context=how.context,
            )

    def _worth_pricing(self, role: Role, context: Context | None, entries: Entries) -> Entries:
        """Drop the shapes that at full load, without limits, carry less than single replicas within theirs.

        Those on no more devices: queues of several replicas carry at least as much as these one by one, so
        `_undominated` would drop every queue of such a shape.
        """
        ones = entries.only(np.flatnonzero(entries.replicas == 1.0))
        alone = self.tables.capacity_of(role, context, self.question, ones)
        pools = self.tables.pools(role, context)
        ceiling = pools.rate_rps[:, -1] * pools.num_ranks
        widths = self.tables.widths(role)
        best = np.zeros(int(widths.max(initial=0)) + 1)
        np.maximum.at(best, widths[ones.shape], alone)
        for n in range(1, best.size):
            best[n] = max(best[n], float((best[: n + 1] + best[n::-1]).max()))
        worth = ceiling > best[widths] * (1.0 - _SURELY)
        return entries.only(np.flatnonzero(worth[entries.shape]))

    def question_group(self, group: int) -> str:
        """Return the name of a group."""
        return self.tables.catalogue.groups[group].name

    def _best_of_equals(self, role: Role, rate: FloatArray, entries: Entries) -> list[_Queue]:
        """Return the best offer for every (devices of a replica, lanes, replicas)."""
        indices = self.tables.catalogue.by_role(role)
        best: dict[tuple[int, int, int], _Queue] = {}
        series: dict[int, dict[int, float]] = {}
        for at in np.flatnonzero(rate > 0.0):
            offer, replicas = indices[int(entries.shape[at])], int(entries.replicas[at])
            capacity = float(rate[at])
            series.setdefault(offer, {})[replicas] = capacity
            if replicas not in QUEUE_SIZES:
                continue
            one = self.tables.catalogue.offers[offer]
            lanes = one.cache_lanes if role == DECODE else 0
            key = (one.replica.num_devices, lanes, replicas)
            if key not in best or capacity > best[key][2] * (1.0 + 1e-12):
                best[key] = (offer, replicas, capacity, 0.0)
        return [
            (offer, replicas, capacity, _loss(series[offer], replicas) if self.model.tolerance else 0.0)
            for offer, replicas, capacity, _ in best.values()
        ]

    def _undominated(self, found: list[_Queue]) -> list[_Queue]:
        """Drop queues that smaller ones together beat on no more devices, and those far above the need.

        Slots of powers of two replace one another freely.
        """
        offers = self.tables.catalogue.offers

        def width(queue: _Queue) -> int:
            return offers[queue[0]].replica.num_devices * queue[1]

        ordered = sorted(found, key=lambda q: (width(q), -q[2], q[0], q[1]))
        if self.model.tolerance is not None:
            return _tolerant(_clustered([q for q in ordered if q[1] <= _FEW_REPLICAS]), width)
        most = width(ordered[-1]) if ordered else 0
        best = np.zeros(most + 1)
        kept: list[_Queue] = []
        enough = False
        for queue in ordered:
            w = width(queue)
            if enough or queue[2] <= best[w] * (1.0 + 1e-9):
                continue
            kept.append(queue)
            enough = queue[2] >= self.need_rps
            for n in range(w, most + 1):
                best[n] = max(best[n], best[n - w] + queue[2])
        return kept


def _tolerant(ordered: Sequence[_Queue], width: Callable[[_Queue], int]) -> list[_Queue]:
    """Drop queues that shorter ones of the same replica size replace without carrying less or losing more.

    Losses within `LOSS_STEP` of each other count as the largest of them, so that few differ.
    """
    kept: list[_Queue] = []
    for queue in ordered:
        same = [q for q in kept if width(q) * queue[1] == width(queue) * q[1] and q[3] <= queue[3]]
        best = np.zeros(queue[1] + 1)
        for n in range(1, queue[1] + 1):
            best[n] = max((best[n - q[1]] + q[2] for q in same if q[1] <= n), default=0.0)
        if queue[2] > best[-1] * (1.0 + 1e-9):
            kept.append(queue)
    return kept


def _clustered(found: Sequence[_Queue]) -> list[_Queue]:
    """Return the queues with every loss raised to the largest that is within `LOSS_STEP` of it."""
    levels: list[float] = []
    for loss in sorted({queue[3] for queue in found}, reverse=True):
        if not levels or loss * (1.0 + LOSS_STEP) < levels[-1]:
            levels.append(loss)
    return [(*q[:3], min(level for level in levels if level >= q[3])) for q in found]


def _loss(series: dict[int, float], replicas: int) -> float:
    """Return the most that a queue loses per lost replica: max over j of (f(k) - f(k - j)) / j."""
    whole = series[replicas]
    return max((whole - series.get(replicas - j, 0.0)) / j for j in range(1, replicas + 1))
