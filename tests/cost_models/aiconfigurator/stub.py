"""A stand-in for AIConfigurator's tables: simple times, a list of what was asked, and gaps on demand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cost_models.aiconfigurator.query import Answer, MissingDataError, Point, Query


class StubTimes:
    """Answers every query in closed form; families in `missing` have no rows, `borrowed` ones no own rows."""

    label = "stub tables 0"
    devices_per_node = 8

    def __init__(self, missing: Sequence[str] = (), borrowed: Sequence[str] = ()) -> None:
        self.missing, self.borrowed = set(missing), set(borrowed)
        self.asked: list[tuple[Query, tuple[Point, ...]]] = []

    def times(self, query: Query, points: Sequence[Point]) -> Answer:
        self.asked.append((query, tuple(points)))
        if query.family in self.missing:
            raise MissingDataError(f"no rows for {query.family}")
        seconds = np.array([self._seconds(query, point) for point in points])
        return Answer(time_s=seconds, measured=query.family not in self.borrowed)

    def _seconds(self, query: Query, point: Point) -> float:
        """Launch, flops at 500 TFLOP/s and bytes at 2 TB/s; communication at 300 GB/s."""
        count, length, prefix = point
        shape = query.shape
        if query.family == "gemm":
            n, k = float(shape[0]), float(shape[1])
            return 2e-6 + max(2 * count * n * k / 5e14, 2 * n * k / 2e12)
        if query.family == "moe":
            hidden, inter, top_k, experts = (float(v) for v in shape[:4])
            ranks = float(shape[4]) * float(shape[5])
            read = min(experts, count * top_k) * 6 * hidden * inter / ranks
            return 5e-6 + max(read / 2e12, 6 * count * top_k * hidden * inter / ranks / 5e14)
        if query.family in ("generation_attention", "generation_mla"):
            return 3e-6 + count * length * 1024.0 / 2e12
        if query.family in ("context_attention", "context_mla"):
            return 4e-6 + count * length * (length / 2 + prefix) * 4 * float(shape[0]) * 128 / 3e14
        if query.family == "memory":
            return 3e-6 + count * 2048.0 / 2.5e12
        return 8e-6 + count * 2048.0 / 3e11
