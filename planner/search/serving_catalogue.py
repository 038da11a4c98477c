"""The catalogue: every replica shape that fits, priced once, on every node group and engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from cost_models.cost import FloatArray
from cost_models.serving.requests import Requests
from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.ir.cluster import NodeGroup
from planner.ir.problem import Problem
from planner.ir.serving import Role, ServingProblem
from planner.space.compose import ReplicaShape, shapes
from planner.space.dimension import SpaceFacts
from planner.space.engine import CostSource, executed_on, kv_format
from planner.space.replica import Replica, ReplicaBuilder, requests_of

_AT_ONCE = 64
"""Shapes priced between two looks at the clock."""
Stop = Callable[[], bool]
Wanted = Callable[[ReplicaShape, NodeGroup], bool]
_ROLES_OF_MODE: dict[str, tuple[Role, ...]] = {
    "aggregated": ("aggregated",),
    "disaggregated": ("prefill", "decode"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A priced replica and the group it runs on."""

    replica: Replica
    group: int

    @property
    def role(self) -> Role:
        """Role of the replica."""
        return self.replica.shape.role

    @property
    def cache_lanes(self) -> int:
        """Devices that hold distinct parts of one request's cache, so that they can move it side by side."""
        return self.replica.cache_lanes


@dataclass(slots=True, kw_only=True)
class Catalogue:
    """All offers of a problem, in a fixed order, and what it took to make them."""

    problem: Problem[ServingProblem]
    requests: Requests
    builders: dict[tuple[int, str], ReplicaBuilder]
    offers: list[Offer] = field(default_factory=list[Offer])
    num_shapes: int = 0
    num_fitting: int = 0
    complete: bool = True
    _by_role: dict[Role, list[int]] = field(default_factory=dict[Role, list[int]])
    _num_indexed: int = 0

    @property
    def groups(self) -> tuple[NodeGroup, ...]:
        """Node groups of the cluster."""
        return self.problem.cluster.groups

    def by_role(self, role: Role) -> list[int]:
        """Return the indices of the offers of one role."""
        if self._num_indexed != len(self.offers):
            self._by_role.clear()
            for index, offer in enumerate(self.offers):
                self._by_role.setdefault(offer.role, []).append(index)
            self._num_indexed = len(self.offers)
        return self._by_role.get(role, [])

    def cache_of(self, offer: Offer) -> tuple[str, str]:
        """Return what two replicas share if one can go on with the cache of the other: engine and format."""
        shape = offer.replica.shape
        return shape.engine, kv_format(self.problem.payload.model, shape.kv_fmt)

    def caches(self) -> tuple[tuple[str, str], ...]:
        """Return the caches that both prefill and decode offers have."""
        held = [{self.cache_of(self.offers[i]) for i in self.by_role(role)} for role in ("prefill", "decode")]
        return tuple(sorted(held[0] & held[1]))

    def cache_bytes(self, offer: Offer) -> FloatArray:
        """Return the cache of each sample's prompt over the whole replica, bytes."""
        return self.builders[offer.group, offer.replica.shape.engine].prompt_cache_bytes(offer.replica.shape)


def empty_catalogue(
    problem: Problem[ServingProblem], costs: CostSource, where: Iterable[tuple[int, str]] = ()
) -> Catalogue:
    """Return a catalogue without offers, with builders for the groups and engines named."""
    workload = problem.payload.workload
    return Catalogue(
        problem=problem,
        requests=requests_of(workload.lengths, workload.prefix_hit_share),
        builders={at: builder_of(problem, at, costs) for at in where},
    )


def builder_of(problem: Problem[ServingProblem], where: tuple[int, str], costs: CostSource) -> ReplicaBuilder:
    """Return what builds the replicas of a problem on one group under one engine."""
    group = problem.cluster.groups[where[0]]
    return ReplicaBuilder(
        problem=problem.payload,
        group=group,
        costs=costs(group, where[1]),
        robust_quantile=problem.objective.robust,
    )


def build_catalogue(
    problem: Problem[ServingProblem],
    costs: CostSource,
    diagnostics: Diagnostics,
    stop: Stop,
    wanted: Wanted | None = None,
) -> Catalogue:
    """Return every offer of the problem (that is `wanted`); `complete` is False if `stop` cut it short.

    Raises
    ------
    InputError
        If no engine runs on any device.
    """
    payload = problem.payload
    catalogue = empty_catalogue(problem, costs)
    roles = roles_of(catalogue)
    for index, group in enumerate(problem.cluster.groups):
        for engine in payload.choices.engines:
            builder = builder_of(problem, (index, engine), costs)
            if not builder.costs.software.runs_on(group.device):
                told = f"{engine} does not run on {group.device.name} and is not used there"
                diagnostics.note("engine-device", told)
                continue
            builder.refuse_unknown()
            catalogue.builders[index, engine] = builder
            _note_formats(group, payload, diagnostics)
            for role in roles:
                diagnostics.progress(f"pricing {role} replicas on {group.name} under {engine}")
                try:
                    fill(catalogue, (index, engine), role, stop, wanted)
                except KeyboardInterrupt:
                    catalogue.complete = False
                if not catalogue.complete and catalogue.offers:
                    return catalogue
    if not catalogue.builders:
        raise InputError(
            "no engine that the spec allows runs on a device of the cluster",
            key="engine",
            value=", ".join(payload.choices.engines),
            hint=f"The devices are {', '.join(sorted({g.device.name for g in problem.cluster.groups}))}.",
        )
    return catalogue


def roles_of(catalogue: Catalogue) -> tuple[Role, ...]:
    """Return the roles to price; without decode steps there is nothing to separate."""
    modes = catalogue.problem.payload.choices.modes
    if catalogue.requests.mean_steps <= 0.0:
        return ("aggregated",)
    return tuple(role for mode in modes for role in _ROLES_OF_MODE[mode])


def fill(
    catalogue: Catalogue, where: tuple[int, str], role: Role, stop: Stop, wanted: Wanted | None = None
) -> None:
    """Add the offers of one role on one group under one engine."""
    index, builder = where[0], catalogue.builders[where]
    candidates = _candidates(catalogue, index, builder, role)
    while shapes_now := list(islice(candidates, _AT_ONCE)):
        if stop():
            catalogue.complete = False
            return
        if wanted is not None:
            shapes_now = [shape for shape in shapes_now if wanted(shape, catalogue.groups[index])]
        catalogue.num_shapes += len(shapes_now)
        replicas = builder.build_all([shape for shape in shapes_now if builder.fits_roughly(shape)])
        catalogue.num_fitting += len(replicas)
        catalogue.offers.extend(Offer(replica=replica, group=index) for replica in replicas)


def _candidates(
    catalogue: Catalogue, index: int, builder: ReplicaBuilder, role: Role
) -> Iterator[ReplicaShape]:
    budget = catalogue.problem.budget.num_devices
    most = catalogue.groups[index].num_devices
    facts = SpaceFacts(
        model=builder.model,
        group=catalogue.groups[index],
        engine=builder.costs,
        choices=catalogue.problem.payload.choices,
        requests=catalogue.requests,
        role=role,
        max_devices=most if budget is None else min(most, budget),
    )
    return shapes(facts)


def _note_formats(group: NodeGroup, payload: ServingProblem, diagnostics: Diagnostics) -> None:
    """Say which allowed formats the devices run as something else, or not at all."""
    for fmt in payload.choices.weight_fmts:
        executed = executed_on(group, fmt)
        if executed is None:
            diagnostics.warn("format-not-executable", f"{group.device.name} cannot run weights in {fmt}")
        elif executed != fmt:
            diagnostics.note(
                "format-fallback", f"{group.device.name} stores {fmt} weights but multiplies as {executed}"
            )
