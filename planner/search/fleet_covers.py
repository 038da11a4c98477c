"""Covers: the least device vectors with which one half of a mode carries a rate.

`FillTable` says, per group, the most that n devices carry. A cover is a vector of devices per group
whose tables add up to the rate. All covers within a window of the least weighted cost are enumerated,
group by group, the least efficient group first; a partial cover is dropped when even the best ratio of
the remaining groups cannot bring it into the window, which loses none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cost_models.cost import FloatArray
from planner.search.fleet_columns import Column

IntArray = NDArray[np.int64]
SLACK = 1e-9
MAX_PARTIAL = 2_000_000
"""Partial covers looked at together; beyond, they are thinned and nothing is proved from the list."""
MAX_LISTED = 400
"""Covers of one half that an integer program is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """Covers with their weighted costs; `complete` tells whether none was left out."""

    cost: FloatArray
    covers: IntArray
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FillTable:
    """Most requests per second by devices of one group; `last[n]` is the column added last (-1: none)."""

    columns: tuple[Column, ...]
    best: FloatArray
    last: IntArray

    @staticmethod
    def of(columns: Sequence[Column], num_devices: int, rate_rps: float) -> FillTable:
        """Fill up to `num_devices` devices, or as many as carry the rate."""
        widths = np.array([c.num_devices for c in columns], dtype=np.int64)
        carried = np.array([c.capacity_rps for c in columns])
        best, last = np.zeros(num_devices + 1), np.full(num_devices + 1, -1, dtype=np.int64)
        for n in range(1, num_devices + 1):
            fitting = np.flatnonzero(widths <= n)
            best[n] = best[n - 1]
            if fitting.size:
                sums = best[n - widths[fitting]] + carried[fitting]
                at = int(np.argmax(sums))
                if sums[at] > best[n] * (1.0 + 1e-12):
                    best[n], last[n] = sums[at], fitting[at]
            if best[n] >= rate_rps * (1.0 - SLACK):
                best, last = best[: n + 1], last[: n + 1]
                break
        return FillTable(columns=tuple(columns), best=best, last=last)

    def steps(self) -> IntArray:
        """Return 0 and the device counts at which the table rises."""
        rises = np.flatnonzero(np.diff(self.best) > 0.0) + 1
        return np.concatenate(([0], rises)).astype(np.int64)

    def picks(self, num_devices: int) -> dict[int, int]:
        """Return how many of each column (by index) make up `best[num_devices]`."""
        found: dict[int, int] = {}
        left = num_devices
        while left > 0:
            at = int(self.last[left])
            if at < 0:
                left -= 1
                continue
            found[at] = found.get(at, 0) + 1
            left -= self.columns[at].num_devices
        return found


@dataclass(slots=True, kw_only=True)
class Half:
    """One half of a mode: its tables by group, and the covers of its rate."""

    rate_rps: float
    num_groups: int
    tables: dict[int, FillTable] = field(default_factory=dict[int, FillTable])

    @staticmethod
    def of(columns: Sequence[Column], devices: Sequence[int], rate_rps: float) -> Half:
        """Return the half over columns, with so many devices in each group."""
        half = Half(rate_rps=rate_rps, num_groups=len(devices))
        for group in sorted({c.group for c in columns}):
            own = [c for c in columns if c.group == group and c.num_devices <= devices[group]]
            if own:
                half.tables[group] = FillTable.of(own, devices[group], rate_rps)
        return half

    def least(self, weights: FloatArray) -> tuple[float, IntArray | None]:
        """Return a lower bound of the weighted cost of covers and a cheap cover; infinite if there is none.

        The bound is the cost of the cover itself unless there are too many covers to try; then it is the
        best ratio of cost to rate times the rate.
        """
        upper, greedy = self._greedy(weights)
        if greedy is None:
            return np.inf, None
        listed = self._covers(weights, upper)
        cheapest, found = upper, greedy
        if listed.cost.size:
            at = int(np.argmin(listed.cost))
            if listed.complete:
                return float(listed.cost[at]), listed.covers[at]
            if listed.cost[at] <= upper:
                cheapest, found = float(listed.cost[at]), listed.covers[at]
        ratio = min(self._ratio(group, weights) for group in self.tables)
        return min(ratio * self.rate_rps * (1.0 - SLACK), cheapest), found

    def within(self, weights: FloatArray, limit: float) -> tuple[IntArray, bool]:
        """Return the covers of weighted cost at most `limit` that no other is below, and if these are all.

        There may be none.
        """
        _, greedy = self._greedy(weights)
        listed = self._covers(weights, limit)
        covers = np.unique(listed.covers, axis=0)
        if covers.shape[0] > MAX_LISTED:
            covers = covers[_evenly(covers.shape[0], MAX_LISTED)]
            return self._with(covers, greedy), False
        return (_minimal(covers), True) if listed.complete else (self._with(covers, greedy), False)

    @staticmethod
    def _with(covers: IntArray, greedy: IntArray | None) -> IntArray:
        return covers if greedy is None else np.unique(np.vstack((covers, greedy)), axis=0)

    def columns_of(self, cover: IntArray) -> dict[Column, int]:
        """Return the columns behind a cover."""
        found: dict[Column, int] = {}
        for group, table in self.tables.items():
            for at, count in table.picks(int(cover[group])).items():
                found[table.columns[at]] = found.get(table.columns[at], 0) + count
        return found

    def _ratio(self, group: int, weights: FloatArray) -> float:
        table = self.tables[group]
        steps = table.steps()[1:]
        return float((weights[group] * steps / table.best[steps]).min()) if steps.size else np.inf

    def _greedy(self, weights: FloatArray) -> tuple[float, IntArray | None]:
        """Return some cover and its cost: groups filled by efficiency; none if all together fall short."""
        left, cover = self.rate_rps * (1.0 - SLACK), np.zeros(self.num_groups, dtype=np.int64)
        for group in sorted(self.tables, key=lambda g: (self._ratio(g, weights), g)):
            best = self.tables[group].best
            n = min(int(np.searchsorted(best, left)), best.size - 1)
            cover[group] = n
            left -= float(best[n])
            if left <= 0.0:
                return float(weights @ cover), cover
        return np.inf, None

    def _covers(self, weights: FloatArray, limit: float) -> _Listed:
        order = sorted(self.tables, key=lambda g: (-self._ratio(g, weights), g))
        ratios = [self._ratio(g, weights) for g in order]
        top = limit + SLACK * max(1.0, abs(limit))
        need = self.rate_rps * (1.0 - SLACK)
        cost, carried = np.zeros(1), np.zeros(1)
        covers = np.zeros((1, self.num_groups), dtype=np.int64)
        complete = True
        for at, group in enumerate(order[:-1]):
            rest = min(ratios[at + 1 :])
            steps, best = self.tables[group].steps(), self.tables[group].best
            alone = weights[group] * steps + np.maximum(0.0, need - best[steps]) * min(rest, ratios[at])
            steps = steps[alone <= top]
            if cost.size * steps.size > MAX_PARTIAL:
                complete = False
                most = max(2, MAX_PARTIAL // cost.size)
                steps = steps[_evenly(steps.size, most)]
            costs = (cost[:, None] + weights[group] * steps[None, :]).ravel()
            loads = (carried[:, None] + best[steps][None, :]).ravel()
            fine = np.flatnonzero(costs + np.maximum(0.0, need - loads) * rest <= top)
            covers = covers[fine // steps.size]
            covers[:, group] = steps[fine % steps.size]
            cost, carried = costs[fine], loads[fine]
            if cost.size > MAX_PARTIAL // 100:
                complete = False
                kept = _evenly(cost.size, MAX_PARTIAL // 100)
                cost, carried, covers = cost[kept], carried[kept], covers[kept]
        last = order[-1]
        best = self.tables[last].best
        n = np.where(need <= carried, 0, np.searchsorted(best, need - carried))
        cost = cost + weights[last] * n
        fine = np.flatnonzero((n < best.size) & (cost <= top))
        covers = covers[fine]
        covers[:, last] = n[fine]
        return _Listed(cost=cost[fine], covers=covers, complete=complete)


def _evenly(size: int, count: int) -> IntArray:
    """Return about `count` indices spread over `size` items, first and last included."""
    at: FloatArray = np.linspace(0.0, size - 1.0, count)
    return np.unique(at.astype(np.int64))


def _minimal(covers: IntArray) -> IntArray:
    """Return the covers that no other one is at or below in every group."""
    order = np.lexsort((*covers.T, covers.sum(axis=1)))
    kept = np.empty_like(covers)
    count = 0
    for cover in covers[order]:
        if not (kept[:count] <= cover).all(axis=1).any():
            kept[count] = cover
            count += 1
    return kept[:count]
