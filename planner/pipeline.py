"""The spine: the ordered phases from a spec to a checked plan, and the only module that knows them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from planner.diagnostics import Diagnostics
from planner.ir.candidates import SearchResult
from planner.ir.problem import Problem
from planner.registry import Registry

Search = Callable[[Problem[Any], Diagnostics], SearchResult]

SEARCHES: Registry[Search] = Registry(what="kind", package="planner.search.kinds", attribute="search")
"""Searches by kind of problem."""
