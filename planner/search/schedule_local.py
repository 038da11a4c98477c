"""Tabu search over device orders, led by critical paths.

Only what lies on a critical path can shorten the schedule. The path is cut into blocks (operations that
follow one another on a device without a pause); a move takes an operation of a block to before or behind
others of its block. Moves are judged by an estimate from heads and tails, the best one is made and timed
exactly.

Source: the block structure of the critical path and the estimate are those of job-shop search (Nowicki and
Smutnicki 1996; Balas and Vazacopoulos 1998); memory and first-in-first-out limits are added here.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from planner.search.schedule_orders import Evaluation, OrderSpace

_RELATIVE = 1e-12
_MAX_REACH = 12
_MAX_MOVES = 160
_RESTART_AFTER = 120
_MOST_KICKS = 12

Orders = list[list[int]]
_Move = tuple[int, int, int]


@dataclass(slots=True, kw_only=True)
class LocalResult:
    """Best orders found, their value, and how many orders were timed."""

    orders: Orders
    value: float
    num_evaluations: int
    interrupted: bool = False


def improve(
    space: OrderSpace,
    orders: Orders,
    *,
    bound: float,
    max_evaluations: int,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
) -> LocalResult:
    """Return the best orders met on a tabu walk from `orders`; ends early where `bound` is reached.

    Raises
    ------
    ValueError
        If `orders` deadlock.
    """
    return _Walk(space, orders, random.Random(seed)).run(bound * (1 + 1e-9), max_evaluations, stop)


class _Walk:
    def __init__(self, space: OrderSpace, orders: Orders, rng: random.Random) -> None:
        first = space.evaluate(orders)
        if first is None:
            raise ValueError("these orders deadlock")
        self.space = space
        self.rng = rng
        self.orders = [list(row) for row in orders]
        self.now: Evaluation = first
        self.best = LocalResult(orders=[list(row) for row in orders], value=first.value, num_evaluations=1)
        self.prefix = [space.memory_prefix(row) for row in self.orders]
        self.tabu: dict[tuple[int, int], int] = {}

    def run(self, target: float, max_evaluations: int, stop: Callable[[], bool]) -> LocalResult:
        """Walk until the target, the budget or a dead end."""
        stale = 0
        step = 0
        patience = max(_RESTART_AFTER, len(self.space.ops) // 6)
        try:
            while self.best.value > target and self.best.num_evaluations < max_evaluations and not stop():
                step += 1
                improved = self._step(step)
                stale = 0 if improved else stale + 1
                if stale >= patience:
                    self._restart()
                    stale = 0
        except KeyboardInterrupt:
            self.best.interrupted = True
        return self.best

    def _restart(self) -> None:
        self.orders = [list(row) for row in self.best.orders]
        self.prefix = [self.space.memory_prefix(row) for row in self.orders]
        self.tabu.clear()
        again = self.space.evaluate(self.orders)
        assert again is not None
        self.now = again
        for _ in range(self.rng.randrange(_MOST_KICKS)):
            self._kick()

    def _kick(self) -> None:
        """Swap two random neighbours, so that a walk from the best orders takes another way."""
        d = self.rng.randrange(len(self.orders))
        if len(self.orders[d]) < 2:
            return
        place = self.rng.randrange(len(self.orders[d]) - 1)
        if self._may_pass(d, place, place + 1):
            self._apply((d, place, place + 1), 0)

    def _step(self, step: int) -> bool:
        moves = self._moves()
        ranked = sorted((self._estimate(move), self.rng.random(), move) for move in moves)
        fallback: list[tuple[float, float, _Move]] = []
        for estimate, tie, move in ranked:
            if self._is_tabu(move, step) and estimate >= self.best.value * (1 - _RELATIVE):
                fallback.append((estimate, tie, move))
            elif self._apply(move, step):
                return self._note()
        for _, _, move in fallback:
            if self._apply(move, step):
                return self._note()
        self._restart()
        return False

    def _note(self) -> bool:
        if self.now.value < self.best.value * (1 - _RELATIVE):
            self.best.value = self.now.value
            self.best.orders = [list(row) for row in self.orders]
            return True
        return False

    def _critical_path(self) -> list[tuple[int, int]]:
        """Return (device, position) of the operations of one critical path, last first."""
        space, start, tail = self.space, self.now.start, self.now.tail
        slack = self.now.value * 1e-9 if self.now.value > 0 else 1e-12
        ends = [
            (d, len(row) - 1)
            for d, row in enumerate(self.orders)
            if row and start[row[-1]] + space.duration[row[-1]] + tail[row[-1]] >= self.now.value - slack
        ]
        d, place = self.rng.choice(ends)
        where: dict[int, tuple[int, int]] = {}
        path: list[tuple[int, int]] = []
        while True:
            path.append((d, place))
            node = self.orders[d][place]
            begin = start[node]
            before = self.orders[d][place - 1] if place else -1
            other = space.waits_for[node]
            by_device = before >= 0 and start[before] + space.duration[before] >= begin - slack
            by_arrival = (
                other >= 0 and start[other] + space.duration[other] + space.lag[node] >= begin - slack
            )
            if by_device and not (by_arrival and before != other and self.rng.random() < 0.3):
                place -= 1
            elif by_arrival:
                if not where:
                    where = {n: (e, i) for e, row in enumerate(self.orders) for i, n in enumerate(row)}
                d, place = where[other]
            else:
                return path

    def _moves(self) -> list[_Move]:
        """Return moves (device, from, to): the operation at `from` goes to where `to` is."""
        path = self._critical_path()
        path.reverse()
        moves: list[_Move] = []
        first = 0
        for i in range(1, len(path) + 1):
            if i == len(path) or path[i][0] != path[i - 1][0] or path[i][1] != path[i - 1][1] + 1:
                if i - first > 1:
                    self._block_moves(path[first][0], path[first][1], path[i - 1][1], moves)
                first = i
        if len(moves) > _MAX_MOVES:
            moves = self.rng.sample(moves, _MAX_MOVES)
        return moves

    def _block_moves(self, d: int, low: int, high: int, moves: list[_Move]) -> None:
        for place in range(low, high + 1):
            for to in range(place + 1, min(high, place + _MAX_REACH) + 1):
                if not self._may_pass(d, place, to):
                    break
                moves.append((d, place, to))
            for to in range(place - 1, max(low, place - _MAX_REACH) - 1, -1):
                if not self._may_pass(d, place, to):
                    break
                if to < place - 1:
                    moves.append((d, place, to))

    def _may_pass(self, d: int, place: int, to: int) -> bool:
        """Whether the operation at `place`, past all in between, may also jump over the one at `to`."""
        space, row = self.space, self.orders[d]
        node, over = row[place], row[to]
        step = space.memory_step
        if space.stream[node] == space.stream[over]:
            return False
        if to > place:
            if space.waits_for[over] == node:
                return False
            return step[node] >= 0 or self.prefix[d][to] - step[node] <= space.limit[d]
        if space.waits_for[node] == over:
            return False
        before = self.prefix[d][to - 1] if to else 0.0
        return step[node] <= 0 or max(before, self.prefix[d][to]) + step[node] <= space.limit[d]

    def _estimate(self, move: _Move) -> float:
        """Return a lower estimate of the value after `move`, from heads and tails around it."""
        d, place, to = move
        space, row = self.space, self.orders[d]
        low, high = min(place, to), max(place, to)
        node = row[place]
        segment = [*row[low:place], *row[place + 1 : high + 1]]
        segment = [*segment, node] if to > place else [node, *segment]
        start, tail, duration = self.now.start, self.now.tail, space.duration
        ready = start[row[low - 1]] + duration[row[low - 1]] if low else 0.0
        heads: list[float] = []
        for n in segment:
            other = space.waits_for[n]
            if other >= 0:
                ready = max(ready, start[other] + duration[other] + space.lag[n])
            heads.append(ready)
            ready += duration[n]
        last = row[high]
        after = row[high + 1] if high + 1 < len(row) else -1
        rest = tail[after] + duration[after] if after >= 0 else tail[last]
        value = 0.0
        for n, head in zip(reversed(segment), reversed(heads), strict=True):
            for waiter in space.waiters[n]:
                rest = max(rest, tail[waiter] + duration[waiter] + space.lag[waiter])
            value = max(value, head + duration[n] + rest)
            rest += duration[n]
        return value

    def _is_tabu(self, move: _Move, step: int) -> bool:
        d, place, to = move
        row = self.orders[d]
        node = row[place]
        passed = row[place + 1 : to + 1] if to > place else row[to:place]
        pairs = ((n, node) if to > place else (node, n) for n in passed)
        return any(self.tabu.get(pair, 0) > step for pair in pairs)

    def _apply(self, move: _Move, step: int) -> bool:
        d, place, to = move
        row = self.orders[d]
        changed = list(row)
        node = changed.pop(place)
        changed.insert(to, node)
        self.orders[d] = changed
        self.best.num_evaluations += 1
        after = self.space.evaluate(self.orders)
        if after is None:
            self.orders[d] = row
            return False
        self.now = after
        self.prefix[d] = self.space.memory_prefix(changed)
        passed = row[place + 1 : to + 1] if to > place else row[to:place]
        until = step + 8 + self.rng.randrange(12)
        for n in passed:
            # What has just been reversed must not be put back for a while.
            self.tabu[(node, n) if to > place else (n, node)] = until
        return True
