"""The narrow interface to AIConfigurator's tables: what is asked, and what an answer looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cost_models.cost import FloatArray

Family = Literal[
    "gemm",
    "context_attention",
    "generation_attention",
    "context_mla",
    "generation_mla",
    "moe",
    "all_reduce",
    "nccl",
    "p2p",
    "memory",
]
Point = tuple[int, int, int]
"""Where an operation is timed: (batch or tokens, length, cached prefix); the last two matter to attention."""


class AiconfiguratorError(ValueError):
    """AIConfigurator cannot be asked at all: not installed, or it does not know the device or engine."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class MissingDataError(LookupError):
    """AIConfigurator has no rows for an operation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One operation whose time is wanted at many points.

    `shape` holds what its family needs, in the order of AIConfigurator's own constructor; formats are the
    names of its own enumerations (``bfloat16``, ``fp8_block``, ``nvfp4``).
    """

    family: Family
    shape: tuple[float | str | bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Seconds per point, and whether all of them rest on measured rows of this very operation."""

    time_s: FloatArray
    measured: bool


class OperationTimes(Protocol):
    """Times of operations on one GPU system under one engine."""

    @property
    def label(self) -> str:
        """Package, version, system and engine in words."""
        ...

    @property
    def devices_per_node(self) -> int:
        """GPUs that share a node: wider groups are timed over the network."""
        ...

    def times(self, query: Query, points: Sequence[Point]) -> Answer:
        """Return the seconds of an operation at points.

        Raises
        ------
        MissingDataError
            If there are no rows to interpolate between.
        """
        ...
