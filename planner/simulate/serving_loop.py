"""A fixed number of clients, each of which sends its next request when its last one has ended.

Requests pass one or two groups of engines (prefill, then decode). All clients start at once, as benchmarks of
a fixed concurrency do. In front of one group they stay with an engine and a rank, spread as evenly as can be;
in front of two, requests go to the engine that has the fewest for its share, ties to the next in turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf, nextafter
from random import Random

from planner.simulate.serving_engine import Engine, Rank
from planner.simulate.serving_request import Request


def _at_once(_: Request) -> float:
    return 0.0


@dataclass(slots=True, kw_only=True)
class _Seat:
    """An engine and its front end, which hands over at most `quota` requests between two steps.

    Who comes while an engine runs is seen after the step that is about to start: engines prepare the next
    step while one runs. Engines that only prefill or only decode see everyone at the next step.
    """

    engine: Engine
    half: int
    quota: int
    inbox: deque[tuple[int, Request]] = field(default_factory=deque[tuple[int, Request]])
    inside: int = 0
    draw: Random = field(default_factory=Random)

    def arrive(self, turn: int, request: Request) -> None:
        """Take a request in for the rank whose turn it is, and hand it over if the engine idles."""
        self.engine.advance(request.ready_s)
        self.inside += 1
        if not (self.engine.prefills and self.engine.decodes):
            self._rank(turn).admit(request)
            return
        self.inbox.append((turn, request))
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
        self.inside -= len(ended)
        return ended

    def _hand_over(self) -> None:
        for _ in range(min(self.quota, len(self.inbox))):
            turn, request = self.inbox.popleft()
            self._rank(turn).admit(request)

    def _rank(self, turn: int) -> Rank:
        """Return the rank of a request: in turn or drawn, and of those that only decode the emptiest."""
        ranks = self.engine.ranks
        if not self.engine.decodes and self.engine.model.random_prefill_ranks:
            return self.draw.choice(ranks)
        if self.engine.prefills or len(ranks) == 1:
            return ranks[turn % len(ranks)]
        return min(ranks, key=lambda rank: rank.running + len(rank.queue))


def _places(shares: Sequence[float], num_clients: int) -> list[tuple[int, int]]:
    """Return the engine of every client, and how many clients that engine had before.

    Each client goes where the next one is missed most, which spreads them evenly over equal shares.
    """
    given = [0] * len(shares)
    places: list[tuple[int, int]] = []
    for _ in range(num_clients):
        number = min(range(len(shares)), key=lambda n: (given[n] + 1) / max(shares[n], 1e-12))
        places.append((number, given[number]))
        given[number] += 1
    return places


@dataclass(slots=True, kw_only=True)
class ClosedLoop:
    """`halves` are the engines that requests pass, one group after the other.

    `transfer_s` is what the caches of a prompt take from the first group to the second. Between two steps a
    front end hands over at most `admitted_per_step` requests: those that end together are not sent again
    together. `shares` say per group how much of the clients each engine has; they are even by default.
    """

    halves: Sequence[Sequence[Engine]]
    num_clients: int
    admitted_per_step: int = 1_000_000
    transfer_s: Callable[[Request], float] = _at_once
    shares: Sequence[Sequence[float]] = ()
    _places: list[list[tuple[int, int]]] = field(default_factory=list[list[tuple[int, int]]])
    _events: list[tuple[float, int, int, int, Request]] = field(
        default_factory=list[tuple[float, int, int, int, Request]]
    )
    _client: dict[int, int] = field(default_factory=dict[int, int])
    _seats: list[_Seat] = field(default_factory=list[_Seat])
    _turns: list[int] = field(default_factory=list[int])
    _serial: int = 0

    def run(self, requests: Sequence[Request]) -> None:
        """Send all requests, in order, and run until the last has ended."""
        waiting = iter(requests)
        shares = self.shares or [[1.0] * len(group) for group in self.halves]
        self.shares = shares
        self._turns = [0] * len(self.halves)
        if len(self.halves) == 1:
            self._places = [_places(share, self.num_clients) for share in shares]
        for client in range(self.num_clients):
            self._launch(client, 0.0, waiting)
        self._seats = [
            _Seat(engine=engine, half=half, quota=self.admitted_per_step, draw=Random(number))
            for half, group in enumerate(self.halves)
            for number, engine in enumerate(group)
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
        before = sum(len(earlier) for earlier in self.halves[:half])
        number, turn = self._places[half][client] if self._places else self._fewest(half, before)
        request.place = before + number
        self._client[id(request)] = client
        self._seats[request.place].arrive(turn, request)
        return request.place

    def _fewest(self, half: int, before: int) -> tuple[int, int]:
        """Return the engine that has the fewest requests for its share, and the turn of the request there."""
        shares, first = self.shares[half], self._turns[half]
        self._turns[half] += 1
        engines = range(first, first + len(shares))
        seats = self._seats[before : before + len(shares)]

        def filled(number: int) -> float:
            number %= len(shares)
            return (seats[number].inside + 1) / max(shares[number], 1e-12)

        return min(engines, key=filled) % len(shares), first // len(shares)

    def _end(self, request: Request, half: int, waiting: Iterator[Request]) -> None:
        client = self._client.pop(id(request))
        if half + 1 == len(self.halves):
            self._launch(client, request.finish_s, waiting)
            return
        request.first_s += self.transfer_s(request)
        request.ready_s, request.done = request.first_s, 0
        self._push(client, half + 1, request)
