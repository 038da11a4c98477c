"""What happens when calls run with given models, streams and order: the recursion behind a plan's times.

Calls start in the order of time: when a call starts all that stream to it have started, so when each of their
tokens is there is known, and with it the whole course of the call. A call takes a free slot as soon as it is
ready; where several wait the one with the smaller priority goes first. Nothing is kept free for later calls.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, inf

from planner.ir.agent_graph import AgentGraph, LlmCall, ToolCall
from planner.space.agent_flat import FlatCall, Flow
from planner.space.agent_lower import RATE_WINDOW_S, output_tokens, prompt_tokens, rate_tokens
from planner.space.agent_streams import Stream

_GIVE, _ARRIVE = 0, 1
_NUDGE = 1e-9


@dataclass(frozen=True, slots=True)
class Course:
    """One call: seconds of its start, first token and end, tokens prefilled, and when its tokens are there.

    `parts` are (tokens before, tokens after, seconds at which the first of them begins to be written).
    """

    start_s: float
    first_s: float
    end_s: float
    prefilled_tokens: float
    parts: tuple[tuple[float, float, float], ...] = ()
    step_s: float = 0.0

    def when_s(self, tokens: float) -> float:
        """Return when so many tokens, rounded up, are written."""
        count = ceil(tokens - _NUDGE)
        for before, after, begin_s in self.parts:
            if count <= after:
                return begin_s + (count - before) * self.step_s
        return self.end_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A model: what its calls take, and its speed."""

    name: str
    slots: int
    rate: int
    tokens: int
    overhead_s: float
    prefill_tokens_per_s: float
    decode_s_per_token: float
    cached: bool


@dataclass(slots=True, kw_only=True)
class Station:
    """A call as the recursion needs it, apart from what is decided."""

    call: FlatCall
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    need: int
    prompt: float
    output: float
    fixed_s: float | None
    shared: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The course and the model (none for a tool) of every call, and when it had what it starts on."""

    courses: list[Course]
    models: list[str]
    ready_s: list[float]


class Replay:
    """Runs one outcome of a graph under any decisions."""

    def __init__(self, graph: AgentGraph, flow: Flow) -> None:
        self.graph = graph
        self.sizes: list[float] = []
        self._pools: dict[str, int] = {}
        self.servers = {m.name: self._server(m.name) for m in graph.models}
        self.number = {c.name: i for i, c in enumerate(flow.flat.calls)}
        self.finals = [self.number[n] for n in flow.flat.finals]
        self.eager = frozenset(self.finals if graph.goal == "min_ttft" else ())
        targets: list[list[int]] = [[] for _ in flow.flat.calls]
        for edge in flow.flat.edges:
            targets[self.number[edge.source]].append(self.number[edge.target])
        self.stations = [
            self._station(flow, call, tuple(targets[i])) for i, call in enumerate(flow.flat.calls)
        ]

    def run(
        self,
        models: Mapping[str, Sequence[str]],
        streams: dict[str, Stream],
        priorities: Sequence[float],
        keenness: float = 0.0,
    ) -> Replayed | None:
        """Return the course of every call, None if some call never starts.

        Parameters
        ----------
        models
            The model of every model call; of several it takes the one of those with a free slot that serves
            best when it starts.
        streams
            How consumers stream; all others wait.
        priorities
            Per call; the smaller goes first where several wait for the same.
        keenness
            What serves best: from 0, an early end, to 1, an early first chunk for those who stream from it.
        """
        return _Run(self, (models, keenness), streams, priorities).replayed()

    def _pool(self, name: str, size: float) -> int:
        if name not in self._pools:
            self._pools[name] = len(self.sizes)
            self.sizes.append(size)
        return self._pools[name]

    def _server(self, name: str) -> Server:
        model = self.graph.model(name)
        return Server(
            name=name,
            slots=self._pool(f"slots {name}", model.slots * model.replicas),
            rate=-1 if model.calls_per_minute is None else self._pool(f"rate {name}", model.calls_per_minute),
            tokens=-1
            if model.tokens_per_minute is None
            else self._pool(f"tokens {name}", model.tokens_per_minute),
            overhead_s=model.overhead_s,
            prefill_tokens_per_s=model.prefill_tokens_per_s,
            decode_s_per_token=model.decode_s_per_token,
            cached=model.cache_block_tokens > 0,
        )

    def _station(self, flow: Flow, call: FlatCall, targets: tuple[int, ...]) -> Station:
        sources = tuple(self.number[e.source] for e in flow.producers(call))
        shared: list[tuple[int, int, float]] = []
        if call.parallel is not None:
            shared.append((self._pool(f"copies of {call.group}", call.parallel), 1, inf))
        if isinstance(call.work, ToolCall) and call.work.limit is not None:
            shared.append((self._pool(f"tool {call.work.tool}", call.work.limit), 1, inf))
        latency = getattr(call.work, "latency", None)
        fixed_s = 0.0 if latency is None else float(latency.mean_s)
        return Station(
            call=call,
            sources=sources,
            targets=targets,
            need=len(sources) if call.join is None else min(call.join, len(sources)),
            prompt=prompt_tokens(self.graph, flow, call),
            output=output_tokens(call),
            fixed_s=None if isinstance(call.work, LlmCall) else fixed_s,
            shared=tuple(shared),
        )


class _Run:
    """One run. Events are (seconds, kind, priority, number, value)."""

    def __init__(
        self,
        replay: Replay,
        models: tuple[Mapping[str, Sequence[str]], float],
        streams: dict[str, Stream],
        priorities: Sequence[float],
    ) -> None:
        self.replay = replay
        self.stations = replay.stations
        self.priorities = priorities
        self.keenness = models[1]
        self.servers: list[list[Server]] = [
            [replay.servers[name] for name in models[0][s.call.name]] if s.fixed_s is None else []
            for s in self.stations
        ]
        self.streams = [streams.get(s.call.name) for s in self.stations]
        self.free = list(replay.sizes)
        self.queues: list[list[tuple[float, int, float]]] = [[] for _ in self.free]
        self.events: list[tuple[float, int, float, int, int]] = []
        self.found: list[Course | None] = [None] * len(self.stations)
        self.chosen = [""] * len(self.stations)
        self.missing = [s.need for s in self.stations]
        self.ready = [-1.0] * len(self.stations)
        self.arrivals: dict[tuple[tuple[int, ...], tuple[float, ...]], list[list[float]]] = {}

    def replayed(self) -> Replayed | None:
        """Process events until none is left."""
        for i, station in enumerate(self.stations):
            if station.need == 0:
                self._push(0.0, _ARRIVE, i)
        while self.events:
            now, kind, _, number, value = heapq.heappop(self.events)
            if kind == _GIVE:
                self._give(number, value, now)
            else:
                self.missing[number] -= 1
                if self.missing[number] <= 0 and self.ready[number] < 0.0:
                    self.ready[number] = now
                    self._try(number, now)
        courses = [c for c in self.found if c is not None]
        if len(courses) < len(self.found):
            return None
        return Replayed(courses=courses, models=self.chosen, ready_s=self.ready)

    def _push(self, now: float, kind: int, number: int, value: int = 0) -> None:
        place = self.priorities[number] if kind == _ARRIVE else 0.0
        heapq.heappush(self.events, (now, kind, place, number, value))

    # -- what is shared ----------------------------------------------------------------------------

    def _holds(self, number: int, server: Server | None) -> list[tuple[int, int, float]]:
        """Return (pool, amount, seconds; inf: until the end) of what a call takes."""
        station = self.stations[number]
        if server is None:
            return [*station.shared]
        held = [(server.slots, 1, inf), *station.shared]
        if server.rate >= 0:
            held.append((server.rate, 1, RATE_WINDOW_S))
        if server.tokens >= 0:
            limit = int(self.replay.sizes[server.tokens])
            amount = min(rate_tokens(station.prompt + station.output), limit)
            held.append((server.tokens, amount, RATE_WINDOW_S))
        return held

    def _try(self, number: int, now: float) -> None:
        """Start a call on the best server that is free, or let it wait for all that it could take."""
        servers: Sequence[Server | None] = self.servers[number] or (None,)
        best: tuple[float, Course, str, list[tuple[int, int, float]]] | None = None
        short: list[tuple[int, int]] = []
        for server in servers:
            held = self._holds(number, server)
            lacking = next(((p, n) for p, n, _ in held if self.free[p] < n), None)
            if lacking is not None:
                short.append(lacking)
                continue
            course = self._course(number, now, server)
            key = self._key(number, course) if len(servers) > 1 else 0.0
            if best is None or key < best[0]:
                best = key, course, "" if server is None else server.name, held
        if best is None:
            for pool, amount in short:
                heapq.heappush(self.queues[pool], (self.priorities[number], number, amount))
            return
        self._start(number, now, best[1], best[2], best[3])

    def _start(
        self, number: int, now: float, course: Course, name: str, held: list[tuple[int, int, float]]
    ) -> None:
        self.found[number], self.chosen[number] = course, name
        for pool, amount, for_s in held:
            self.free[pool] -= amount
            self._push(course.end_s if for_s == inf else now + for_s, _GIVE, pool, amount)
        for target in self.stations[number].targets:
            self._push(self._ready_s(number, target, course), _ARRIVE, target)

    def _key(self, number: int, course: Course) -> float:
        """Return how well a course serves, in seconds; less is better."""
        early = [
            self._ready_s(number, target, course)
            for target in self.stations[number].targets
            if self.streams[target] is not None
        ]
        if number in self.replay.eager:
            early.append(course.first_s)
        if not early:
            return course.end_s
        return self.keenness * max(early) + (1.0 - self.keenness) * course.end_s

    def _give(self, pool: int, amount: int, now: float) -> None:
        self.free[pool] += amount
        queue = self.queues[pool]
        while queue and self.free[pool] >= queue[0][2]:
            _, number, _ = heapq.heappop(queue)
            if self.found[number] is None:
                self._try(number, now)

    def _ready_s(self, source: int, target: int, course: Course) -> float:
        """Return when a call is done with what its target starts on."""
        stream = self.streams[target]
        name = self.stations[source].call.name
        if stream is None or name not in stream.starts_s or stream.kind == "overlap":
            return course.end_s
        if stream.kind == "staircase" and self.stations[target].output <= 1.0:
            return course.end_s
        boundary = stream.boundaries[0]
        return course.end_s if boundary >= self.stations[source].output else course.when_s(boundary)

    # -- single calls ------------------------------------------------------------------------------

    def _course(self, number: int, now: float, server: Server | None) -> Course:
        station, stream = self.stations[number], self.streams[number]
        if server is None:
            end_s = now + (station.fixed_s or 0.0)
            return Course(now, end_s, end_s, 0.0)
        # without a prefix cache nothing can be computed ahead
        ahead = stream is not None and stream.kind == "overlap" and server.cached
        if stream is not None and (ahead or stream.kind == "staircase"):
            return self._streamed(number, now, server, stream)
        ready = now + server.overhead_s + station.prompt / server.prefill_tokens_per_s
        return _written(now, station.prompt, [(0.0, station.output, ready)], server.decode_s_per_token)

    def _streamed(self, number: int, now: float, server: Server, stream: Stream) -> Course:
        station = self.stations[number]
        names = [self.stations[s].call.name for s in station.sources]
        made = tuple(s for s, name in zip(station.sources, names, strict=True) if name in stream.starts_s)
        feed = _Feed(
            arrivals=self._arrivals(made, stream.boundaries),
            sizes=[self.stations[s].output for s in made],
            boundaries=stream.boundaries,
        )
        own = max(station.prompt - sum(feed.sizes), 0.0)
        if stream.kind == "overlap":
            return _overlapped(now, server, feed, (own, station.output))
        return _stairs(now, server, feed, (own, station.output))

    def _arrivals(self, made: tuple[int, ...], boundaries: tuple[float, ...]) -> list[list[float]]:
        """Return per producer when each of its hand-overs is there."""
        key = made, boundaries
        if key not in self.arrivals:
            rows: list[list[float]] = []
            for source in made:
                course, size = self.found[source], self.stations[source].output
                assert course is not None
                rows.append([course.end_s if b >= size else course.when_s(b) for b in boundaries])
            self.arrivals[key] = rows
        return self.arrivals[key]


@dataclass(slots=True, kw_only=True)
class _Feed:
    """What streams into a call: per producer when each hand-over is there, and what it writes in all."""

    arrivals: list[list[float]]
    sizes: list[float]
    boundaries: tuple[float, ...]

    def rounds(self) -> list[float]:
        """Return when each hand-over has come from all."""
        return [max(column) for column in zip(*self.arrivals, strict=True)]

    def tokens(self, now: float) -> float:
        """Return the tokens that are there by a time."""
        total = 0.0
        for row, size in zip(self.arrivals, self.sizes, strict=True):
            count = bisect_right(row, now + _NUDGE)
            if count:
                total += min(self.boundaries[count - 1], size)
        return total


def _written(
    start_s: float, prefilled: float, parts: list[tuple[float, float, float]], step_s: float
) -> Course:
    first = next((begin for before, after, begin in parts if after > before), parts[0][2])
    before, after, begin = parts[-1]
    end_s = begin + (after - before) * step_s
    return Course(start_s, min(first + step_s, end_s), end_s, prefilled, tuple(parts), step_s)


def _overlapped(now: float, server: Server, feed: _Feed, tokens: tuple[float, float]) -> Course:
    """Return a call whose prompt was computed as it came, and which starts at `now` on the rest."""
    own, output = tokens
    known, idle, prefilled = 0.0, 0.0, 0.0
    rounds = feed.rounds()
    at = rounds[0]
    while at < rounds[-1] - _NUDGE:
        prompt = own + feed.tokens(at)
        new, known = prompt - floor(known), prompt
        prefilled += new
        idle = at + server.overhead_s + new / server.prefill_tokens_per_s
        at = max(idle, rounds[bisect_right(rounds, at + _NUDGE)])
    start = max(now, idle)
    new = own + sum(feed.sizes) - floor(known)
    ready = start + server.overhead_s + new / server.prefill_tokens_per_s
    return _written(start, prefilled + new, [(0.0, output, ready)], server.decode_s_per_token)


def _stairs(now: float, server: Server, feed: _Feed, tokens: tuple[float, float]) -> Course:
    """Return a call that starts on the hand-overs that are there and is asked again as more come.

    Its last token waits until all has come.
    """
    own, output = tokens
    total = float(max(ceil(output - _NUDGE), 1))
    rounds, step_s = feed.rounds(), server.decode_s_per_token
    start, written, known, prefilled = now, 0.0, 0.0, 0.0
    parts: list[tuple[float, float, float]] = []
    while True:
        k = bisect_right(rounds, now + _NUDGE)
        prompt = own + feed.tokens(now) + written
        new = prompt - (floor(min(known, prompt)) if server.cached else 0.0)
        prefilled += new
        ready = now + server.overhead_s + new / server.prefill_tokens_per_s
        if k >= len(rounds):
            parts.append((written, total, ready))
            return _written(start, prefilled, parts, step_s)
        fits = floor((rounds[k] - ready) / step_s + _NUDGE) if step_s > 0 else total
        count = min(max(fits, 1.0), total - 1.0 - written)
        parts.append((written, written + count, ready))
        now = max(ready + count * step_s, rounds[k])
        written += count
        known = prompt + count
        if written >= total - 1.0:
            now = max(now, rounds[-1])
