"""A fixed number of clients, each of which sends its next request when its last one has ended.

Requests pass one or two groups of engines (prefill, then decode). Clients stay with an engine and a rank of
each group, spread as evenly as they can be, and all start at once, as benchmarks of a fixed concurrency do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf, nextafter

from planner.simulate.serving_engine import Engine
from planner.simulate.serving_request import Request


def _at_once(_: Request) -> float:
    return 0.0


@dataclass(slots=True, kw_only=True)
class _Seat:
    """An engine, its group of `num_peers` engines, and its front end, which may hand over `quota` more.

    Who comes while an engine runs is seen after the step that is about to start: engines prepare the next
    step while one runs.
    """

    engine: Engine
    half: int
    num_peers: int
    quota: int
    inbox: deque[tuple[int, Request]] = field(default_factory=deque[tuple[int, Request]])

    def arrive(self, client: int, request: Request) -> None:
        """Take a request in, and hand it over if the engine idles."""
        self.engine.advance(request.ready_s)
        self.inbox.append((client, request))
        if self.engine.next_end_s() == inf:
            self._hand_over()

    def next_s(self) -> float:
        """Return a time before which nothing ends here unless something arrives."""
        return self.engine.now_s if self.inbox else self.engine.next_end_s()

    def step(self) -> list[Request]:
        """Run to the next moment at which something may end or start; return what ended."""
        if self.inbox:
            self.engine.advance(nextafter(self.engine.now_s, inf))
        else:
            self.engine.step()
        self._hand_over()
        ended = self.engine.ended
        self.engine.ended = []
        return ended

    def _hand_over(self) -> None:
        for _ in range(min(self.quota, len(self.inbox))):
            client, request = self.inbox.popleft()
            ranks = self.engine.ranks
            ranks[client // self.num_peers % len(ranks)].admit(request)


@dataclass(slots=True, kw_only=True)
class ClosedLoop:
    """`halves` are the engines that requests pass, one group after the other.

    `transfer_s` is what the caches of a prompt take from the first group to the second. Between two steps a
    front end hands over at most `admitted_per_step` requests: those that end together are not sent again
    together.
    """

    halves: Sequence[Sequence[Engine]]
    num_clients: int
    admitted_per_step: int = 1_000_000
    transfer_s: Callable[[Request], float] = _at_once
    _events: list[tuple[float, int, int, int, Request]] = field(
        default_factory=list[tuple[float, int, int, int, Request]]
    )
    _client: dict[int, int] = field(default_factory=dict[int, int])
    _seats: list[_Seat] = field(default_factory=list[_Seat])
    _serial: int = 0

    def run(self, requests: Sequence[Request]) -> None:
        """Send all requests, in order, and run until the last has ended."""
        waiting = iter(requests)
        for client in range(self.num_clients):
            self._launch(client, 0.0, waiting)
        self._seats = [
            _Seat(engine=engine, half=half, num_peers=len(group), quota=self.admitted_per_step)
            for half, group in enumerate(self.halves)
            for engine in group
        ]
        ends = [inf] * len(self._seats)
        while True:
            next_end = min(ends)
            if self._events and self._events[0][0] <= next_end:
                changed = self._arrive()
            elif next_end < inf:
                changed = ends.index(next_end)
                seat = self._seats[changed]
                for request in seat.step():
                    self._end(request, seat.half, waiting)
            else:
                return
            ends[changed] = self._seats[changed].next_s()

    def _launch(self, client: int, at_s: float, waiting: Iterator[Request]) -> None:
        request = next(waiting, None)
        if request is not None:
            request.arrival_s = at_s
            request.ready_s = at_s
            self._push(client, 0, request)

    def _push(self, client: int, half: int, request: Request) -> None:
        self._serial += 1
        heappush(self._events, (request.ready_s, self._serial, client, half, request))

    def _arrive(self) -> int:
        """Let the next request arrive; return the number of its engine."""
        _, _, client, half, request = heappop(self._events)
        number = client % len(self.halves[half])
        request.place = sum(len(earlier) for earlier in self.halves[:half]) + number
        self._client[id(request)] = client
        self._seats[request.place].arrive(client, request)
        return request.place

    def _end(self, request: Request, half: int, waiting: Iterator[Request]) -> None:
        client = self._client.pop(id(request))
        if half + 1 == len(self.halves):
            self._launch(client, request.finish_s, waiting)
            return
        request.first_s += self.transfer_s(request)
        request.ready_s, request.done = request.first_s, 0
        self._push(client, half + 1, request)
