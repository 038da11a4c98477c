"""The master problem of a fleet: which columns, how many of each, under the shared inventory.

A model is served in one mode: by whole replicas on any groups, by prefill and decode inside one group,
or by prefill and decode across groups (every prefill may feed every decode, so the transfer is priced
over the link between groups). A mode has one half (whole replicas) or two (prefill, decode); each half
has to carry the model's rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cost_models.cost import FloatArray
from planner.ir.candidates import Sense
from planner.ir.fleet import FleetModel
from planner.search.fleet_columns import AGGREGATED, DECODE, PREFILL, STAGE, Column
from planner.search.fleet_power import NO_SHARED_POWER, SharedPower
from planner.search.fleet_room import Room, device_power_w

GOALS: dict[str, tuple[Sense, str]] = {
    "min_cost": ("min", "USD/h"),
    "min_devices": ("min", "devices"),
    "min_power": ("min", "W"),
    "max_load": ("max", "times the stated traffic"),
    "max_goodput": ("max", "weighted output tokens/s"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One way to serve a model: `halves` are the columns of which each must carry the rate."""

    name: str
    halves: tuple[tuple[Column, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one model asks for: its modes, requests per second and output tokens of a request.

    `cells` are the failure domains of each group over which a fault-tolerant model may spread, or where
    groups share them, `joint_cells` those of every set of groups.
    """

    model: FleetModel
    modes: tuple[Mode, ...]
    rate_rps: float
    tokens: float = 1.0
    cells: tuple[int, ...] = ()
    joint_cells: tuple[tuple[tuple[int, ...], int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A linear limit on devices: sum over groups of `weights` times the devices of the group."""

    name: str
    weights: tuple[float, ...]
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Master:
    """The whole question. `unit_cost` is what one device of each group adds to a goal that is minimised."""

    goal: str
    demands: tuple[Demand, ...]
    rooms: tuple[Room, ...]
    rows: tuple[Row, ...]
    unit_cost: tuple[float, ...]
    power: SharedPower = NO_SHARED_POWER

    @property
    def minimises(self) -> bool:
        """Whether the goal is to use least."""
        return GOALS[self.goal][0] == "min"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The mode of one model, how many of each column per half, and the rate it is to serve."""

    mode: Mode
    counts: tuple[tuple[tuple[Column, int], ...], ...]
    served_rps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterSolution:
    """An answer: one choice per model (None: nothing is served), value and bound of the goal.

    `status` is infeasible where `choices` is empty and no answer exists.
    """

    status: str
    choices: tuple[Chosen | None, ...] = ()
    value: float | None = None
    bound: float | None = None
    method: str = ""
    work: tuple[tuple[str, float | int], ...] = ()


@dataclass(slots=True, kw_only=True)
class Work:
    """Counts of what solvers did."""

    counts: dict[str, float | int] = field(default_factory=dict[str, float | int])

    def add(self, name: str, amount: float = 1) -> None:
        """Add to a count."""
        self.counts[name] = self.counts.get(name, 0) + amount


def modes_of(columns: Sequence[Column]) -> tuple[Mode, ...]:
    """Return the modes that columns of one model allow."""
    found: list[Mode] = []
    for role in (AGGREGATED, STAGE):
        whole = tuple(c for c in columns if c.role == role)
        if whole:
            found.append(Mode(name=role, halves=(whole,)))
    prefill = [c for c in columns if c.role == PREFILL]
    decode = [c for c in columns if c.role == DECODE]
    for split in sorted({c.split for c in prefill}):
        second = [c for c in decode if c.split == split]
        for group in sorted({c.group for c in prefill}):
            first = tuple(c for c in prefill if (c.split, c.group, c.crosses) == (split, group, False))
            inside = tuple(c for c in second if c.group == group)
            if first and inside:
                found.append(Mode(name=f"inside {group}, split {split}", halves=(first, inside)))
        first = tuple(c for c in prefill if c.split == split and c.crosses)
        if first and second and len({c.group for c in (*first, *second)}) > 1:
            found.append(Mode(name=f"across, split {split}", halves=(first, tuple(second))))
    return tuple(found)


def resource_rows(
    rooms: Sequence[Room], columns: Iterable[Column], budget: Sequence[tuple[str, FloatArray, float | None]]
) -> tuple[Row, ...]:
    """Return the limits on devices: what each group holds, and the budgets that are set."""
    used = {column.group for column in columns}
    rows: list[Row] = []
    for index, room in enumerate(rooms):
        if index in used:
            weights = tuple(1.0 if g == index else 0.0 for g in range(len(rooms)))
            rows.append(Row(name=room.group.name, weights=weights, limit=float(room.num_devices)))
    for name, weights, limit in budget:
        if limit is not None:
            rows.append(Row(name=name, weights=tuple(float(w) for w in weights), limit=limit))
    return tuple(rows)


def unit_costs(goal: str, rooms: Sequence[Room]) -> FloatArray:
    """Return what one device of each group costs in the unit of a goal (devices for goals that maximise)."""
    if goal == "min_cost":
        return np.array([room.group.usd_per_device_hour or 0.0 for room in rooms])
    if goal == "min_power":
        return np.array([device_power_w(room.group) for room in rooms])
    return np.ones(len(rooms))
