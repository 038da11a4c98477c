"""What a search dimension is: a name, its place in the order, and the values that are valid so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from cost_models.serving.requests import Requests
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import AttentionCore, Experts, Linear, ModelGraph, StateCore
from planner.ir.serving import Role, ServingChoices
from planner.registry import Registry
from planner.space.engine import EngineCosts

Value = int | str
Chosen = Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceFacts:
    """What the dimensions look at: one role of one model on one node group under one engine."""

    model: ModelGraph
    group: NodeGroup
    engine: EngineCosts
    choices: ServingChoices
    requests: Requests
    role: Role
    max_devices: int
    experts: tuple[Experts, ...] = field(init=False)
    cores: tuple[AttentionCore, ...] = field(init=False)
    states: tuple[StateCore, ...] = field(init=False)
    linears: tuple[Linear, ...] = field(init=False)

    def pinned(self, name: str) -> int | None:
        """Return the value the user pinned a dimension to, if any."""
        return dict(self.choices.fixed).get(name)

    def __post_init__(self) -> None:
        """List the distinct operators."""
        ops = tuple(dict.fromkeys(op for layer in dict.fromkeys(self.model.layers) for op in layer.ops))
        object.__setattr__(self, "experts", tuple(op for op in ops if isinstance(op, Experts)))
        object.__setattr__(self, "cores", tuple(op for op in ops if isinstance(op, AttentionCore)))
        object.__setattr__(self, "states", tuple(op for op in ops if isinstance(op, StateCore)))
        object.__setattr__(self, "linears", tuple(op for op in ops if isinstance(op, Linear)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One search dimension.

    `order` sorts the dimensions, since `values` sees what was chosen before it.
    """

    name: str
    order: int
    values: Callable[[SpaceFacts, Chosen], tuple[Value, ...]]


DIMENSIONS: Registry[Dimension] = Registry(
    what="search dimension", package="planner.space.dimensions", attribute="dimension"
)


def degree(chosen: Chosen, name: str) -> int:
    """Return a degree that was chosen before."""
    return cast("int", chosen[name])


def powers_of_two(limit: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... up to `limit`."""
    return tuple(1 << i for i in range(max(limit, 1).bit_length()) if 1 << i <= max(limit, 1))


def fits_domain(facts: SpaceFacts, num_devices: int) -> bool:
    """Return whether a stage of so many devices lies inside a scale-up domain or fills whole ones."""
    domain = facts.group.domain_size
    return num_devices <= domain or num_devices % domain == 0
