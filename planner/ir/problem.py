"""The problem: everything the search needs, whatever the kind of workload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from planner.ir.cluster import Cluster
from planner.ir.objective import Budget, Objective

PayloadT_co = TypeVar("PayloadT_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How to search: limits and reproducibility. Same problem and options give the same plan.

    With `refine` a served plan is simulated, and sought again where the simulation breaks its limits.
    """

    time_limit_s: float = 60.0
    seed: int = 0
    num_workers: int = 1
    tie_tolerance: float = 1e-3
    num_alternatives: int = 5
    refine: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InputDigest:
    """An input that the plan rests on: what it is, where it came from, SHA-256 of its bytes."""

    role: str
    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem(Generic[PayloadT_co]):
    """A scheduling problem. `kind` names the registered kind; `payload` is that kind's own part."""

    kind: str
    name: str
    cluster: Cluster
    objective: Objective
    budget: Budget
    options: SearchOptions
    payload: PayloadT_co
    inputs: tuple[InputDigest, ...] = ()
