"""Routing policies: to which rank a router sends a request. One file each, exposing ``ROUTER``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from planner.registry import Registry
from planner.simulate.serving_engine import Rank
from planner.simulate.serving_request import Request

__all__ = ["ROUTERS", "Router"]


class Router(Protocol):
    """Chooses a rank for each request."""

    def choose(self, ranks: Sequence[Rank], request: Request) -> int:
        """Return the index of the rank that `request` goes to."""
        ...


class RouterMaker(Protocol):
    """A policy: makes routers whose chance, if they use any, comes from a seed."""

    def __call__(self, seed: int) -> Router:
        """Return a router."""
        ...


ROUTERS: Registry[RouterMaker] = Registry(
    what="routing policy", package="planner.simulate.routing", attribute="ROUTER"
)
"""Policies by name."""
