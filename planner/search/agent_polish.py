"""Better plans of agent graphs by replaying them: models, streams and order, changed where time is lost.

First simple rules are replayed (all stream alike, models taken as they are free), then what the time to the
goal hangs on is changed call by call and group by group as long as that helps. Work is counted in calls
replayed, so that the same graph and seed give the same plan.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal

from planner.ir.agent_graph import AgentProblem, LlmCall
from planner.space.agent_courses import Courses, Decisions
from planner.space.agent_gains import gaining_streams, stairs_of, ways_of
from planner.space.agent_lower import usable_models
from planner.space.agent_outcomes import Worlds
from planner.space.agent_replay import Replayed, Server, Station
from planner.space.agent_streams import Stream, chunk_kinds

_MAX_CALLS = 100_000
_GREEDY_SHARE = 0.5
_TRIED_ALL = 8
_KEENNESS = (0.9, 0.5, 0.0)
_CRITICAL = 400
_GAIN = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """Calls and what is changed about them: their model or way by number (-1: wait), or their place."""

    names: tuple[str, ...]
    what: Literal["model", "way", "sooner"]
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Polished:
    """Decisions, what they come to in every outcome, and the time that counts."""

    decisions: Decisions
    found: list[Replayed]
    value: float
    latency_s: float


@dataclass(slots=True, kw_only=True)
class _Effort:
    """What is left of the work and the time."""

    calls: int
    until: float
    spent: int = 0

    def spend(self, calls: int) -> bool:
        """Count a replay; False if there is nothing left."""
        self.calls -= calls
        self.spent += calls
        return self.calls > 0 and time.monotonic() < self.until


@dataclass(kw_only=True)
class Polish:
    """One search by replays."""

    payload: AgentProblem
    worlds: Worlds
    seed: int
    left_s: float
    courses: Courses = field(init=False)
    ways: dict[str, list[Stream]] = field(init=False)
    models: dict[str, tuple[str, ...]] = field(init=False)
    best: Polished | None = None
    proposed: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    def __post_init__(self) -> None:
        """List what is open."""
        graph, flow = self.payload.graph, self.worlds.flow
        self.courses = Courses(graph, self.worlds)
        calls = flow.flat.calls
        self.ways = {c.name: found for c in calls if (found := ways_of(self.payload, flow, c))}
        self.models = {
            c.name: tuple(m.name for m in usable_models(graph, c.work))
            for c in calls
            if isinstance(c.work, LlmCall)
        }
        # streams from many are more work
        edges = sum(len(flow.into.get(n, ())) for n in self.ways)
        self.size = sum(len(w.flow.flat.calls) for w in self.worlds.worlds) + edges // 8
        self.effort = _Effort(calls=_MAX_CALLS, until=time.monotonic() + self.left_s)
        self.soonest_s = inf

    def run(self, starts: Iterable[Decisions]) -> Polished | None:
        """Return the best decisions found, None if none can be replayed."""
        self.proposed = [self._quickest()]
        for decisions in starts:
            self._offer(decisions)
            if decisions.models not in self.proposed:
                self.proposed.append(decisions.models)
            if self.ways:
                # the ways that suit each consumer by itself, under the models at hand
                streams = gaining_streams(self.payload, self.worlds.flow, decisions.models)
                self._offer(replace(decisions, streams=streams))
        if any(len(m) > 1 for m in self.models.values()) or self.ways:
            self._greedy()
            self._improve()
        self._settle()
        return self.best

    # -- trying ------------------------------------------------------------------------------------

    def _offer(self, decisions: Decisions) -> bool:
        """Replay decisions; True if they are the best so far."""
        self.effort.spend(self.size)
        found = self.courses.run(decisions)
        return found is not None and self._take(decisions, found)

    def _take(self, decisions: Decisions, found: list[Replayed]) -> bool:
        value, latency_s = self.courses.value(found), self.courses.latency_s(found)
        if not self._keeps_deadlines(found):
            return False
        new = Polished(decisions=decisions, found=found, value=value, latency_s=latency_s)
        if self.best is None or self._rank(new) < self._rank(self.best):
            self.soonest_s = min(self.soonest_s, latency_s)
            self.best = new
            return True
        self.soonest_s = min(self.soonest_s, latency_s)
        return False

    def _rank(self, plan: Polished) -> tuple[float, float, float]:
        """Return what is compared: first too late an end, where time to the first token is won by it."""
        late = 0.0
        if self.payload.graph.goal == "min_ttft":
            late = max(plan.latency_s - self.soonest_s * (1.0 + self.payload.e2e_slack), 0.0)
        return late, round(plan.value, 9), plan.latency_s

    def _keeps_deadlines(self, found: list[Replayed]) -> bool:
        graph_s = self.payload.graph.deadline_s
        for replay, replayed in zip(self.courses.replays, found, strict=True):
            finals = set(replay.finals)
            for i, (station, course) in enumerate(zip(replay.stations, replayed.courses, strict=True)):
                limits = (station.call.deadline_s, graph_s if i in finals else None)
                if any(limit is not None and course.end_s > limit + _GAIN for limit in limits):
                    return False
        return True

    # -- rules -------------------------------------------------------------------------------------

    def _greedy(self) -> None:
        """Let all consumers stream alike, and calls take the model that serves best as they start."""
        limit = self.effort.calls * (1.0 - _GREEDY_SHARE)
        ranks = self._ranks()
        best: tuple[tuple[float, float, float], dict[str, Stream]] | None = None
        for number, streams in enumerate(self._alike()):
            if self.effort.calls < limit or time.monotonic() > self.effort.until:
                break
            few = number >= _TRIED_ALL and self.best is not None
            for models in self.proposed if not few or self.best is None else [self.best.decisions.models]:
                kept = {n: s for n, s in streams.items() if self._may(s, models.get(n))}
                self._offer(Decisions(models=models, streams=kept, places={n: -r for n, r in ranks.items()}))
            rank = self._rule(streams, ranks, _KEENNESS[0])
            if rank is not None and (best is None or rank < best[0]):
                best = rank, streams
        for keenness in _KEENNESS[1:]:
            if best is not None:
                self._rule(best[1], ranks, keenness)

    def _alike(self) -> Iterator[dict[str, Stream]]:
        """Yield streams in which all take the same way, from none on."""
        yield {}
        ahead = {n: s for n, ways in self.ways.items() for s in ways[:1] if s.kind in ("overlap", "items")}
        if ahead:
            yield ahead
        flow = self.worlds.flow
        stairs = [n for n, w in self.ways.items() if w[-1].kind == "staircase"]
        longest = max((self.ways[n][-1].boundaries[-1] for n in stairs), default=0.0)
        kinds = chunk_kinds(longest, self.payload.min_first_chunk_tokens)
        # every other first chunk before those between, growing chunks before equal ones
        growing, equal = [k for k in kinds if k[1] > 1], [k for k in kinds if k[1] == 1]
        for first, growth in (*growing[::2], *equal[::2], *growing[1::2], *equal[1::2]):
            yield ahead | {n: stairs_of(flow, flow.calls[n], first, growth) for n in stairs}

    def _rule(
        self, streams: dict[str, Stream], ranks: dict[str, float], keenness: float
    ) -> tuple[float, float, float] | None:
        """Replay one rule; how good it is, None if some call never starts or a deadline is missed."""
        if len(self.worlds.worlds) > 1:
            # models are those of all outcomes: taken as the outcome in which most calls are made takes them
            replay = max(self.courses.replays, key=lambda r: len(r.stations))
        else:
            replay = self.courses.replays[0]
        places = [-ranks.get(s.call.name, 0.0) for s in replay.stations]
        self.effort.spend(2 * self.size)
        replayed = replay.run(self.models, streams, places, keenness)
        if replayed is None:
            return None
        chosen = {name: models[0] for name, models in self.models.items()}
        names = [s.call.name for s in replay.stations]
        chosen |= {n: m for n, m in zip(names, replayed.models, strict=True) if m}
        kept = {n: s for n, s in streams.items() if self._may(s, chosen.get(n))}
        decisions = Decisions(models=chosen, streams=kept, places={n: -r for n, r in ranks.items()})
        found = [replayed] if len(self.worlds.worlds) == 1 else self.courses.run(decisions)
        if found is None or not self._keeps_deadlines(found):
            return None
        self._take(decisions, found)
        value, latency_s = self.courses.value(found), self.courses.latency_s(found)
        return self._rank(Polished(decisions=decisions, found=found, value=value, latency_s=latency_s))

    def _may(self, stream: Stream, model: str | None) -> bool:
        if stream.kind != "overlap" or model is None:
            return True
        return self.payload.graph.model(model).cache_block_tokens > 0

    def _quickest(self) -> dict[str, str]:
        """Return the model of each call that serves it soonest if nothing is computed ahead."""
        replay = max(self.courses.replays, key=lambda r: len(r.stations))
        chosen = {name: models[0] for name, models in self.models.items()}
        for station in replay.stations:
            if station.fixed_s is None:
                servers = [replay.servers[m] for m in self.models[station.call.name]]
                chosen[station.call.name] = min(servers, key=lambda s: _whole_s(station, s)).name
        return chosen

    def _ranks(self) -> dict[str, float]:
        """Return the least time from each call's start to the end of the last one after it, seconds."""
        replay = max(self.courses.replays, key=lambda r: len(r.stations))
        ranks: dict[str, float] = {}
        for station in reversed(replay.stations):
            own = station.fixed_s
            if own is None:
                servers = [replay.servers[m] for m in self.models[station.call.name]]
                own = min(_whole_s(station, s) for s in servers)
            after = (ranks[replay.stations[t].call.name] for t in station.targets)
            ranks[station.call.name] = own + max(after, default=0.0)
        return ranks

    # -- changes -----------------------------------------------------------------------------------

    def _improve(self) -> None:
        """Change what the value hangs on while that helps and work is left."""
        generator = random.Random(self.seed)
        groups = self._groups()
        while self.best is not None:
            changes = self._changes(self.best, groups)
            generator.shuffle(changes)
            if not self._first_better(self.best, changes):
                return

    def _first_better(self, plan: Polished, changes: list[_Change]) -> bool:
        """Try changes up to the first that helps; False if none does or the work is done."""
        for change in changes:
            if not self.effort.spend(0):
                return False
            decisions = self._changed(plan, change)
            if decisions is not None and self._offer(decisions):
                return True
        return False

    def _changes(self, plan: Polished, groups: dict[str, tuple[str, ...]]) -> list[_Change]:
        """Return what could be changed about the calls that the value hangs on."""
        changes: list[_Change] = []
        seen: set[tuple[str, ...]] = set()
        for name in self._critical(plan):
            models = self.models.get(name, ())
            for k, model in enumerate(models):
                if model != plan.decisions.models[name]:
                    changes.append(_Change(names=(name,), what="model", number=k))
            changes.append(_Change(names=(name,), what="sooner"))
            members = groups.get(name, ())
            groups_of: list[tuple[str, ...]] = [members, (name,)] if members else []
            for group in groups_of:
                if group not in seen:
                    seen.add(group)
                    most = max(len(self.ways[m]) for m in group)
                    changes += [_Change(names=group, what="way", number=k) for k in range(-1, most)]
        return changes

    def _changed(self, plan: Polished, change: _Change) -> Decisions | None:
        names, what, k = change.names, change.what, change.number
        decisions = plan.decisions
        if what == "sooner":
            return self._sooner(plan, names[0])
        if what == "model":
            models = decisions.models | {names[0]: self.models[names[0]][k]}
            streams = {n: s for n, s in decisions.streams.items() if self._may(s, models.get(n))}
            return replace(decisions, models=models, streams=streams)
        streams = {n: s for n, s in decisions.streams.items() if n not in names}
        for name in names if k >= 0 else ():
            way = self.ways[name][min(k, len(self.ways[name]) - 1)]
            if self._may(way, decisions.models.get(name)):
                streams[name] = way
        return replace(decisions, streams=streams)

    def _groups(self) -> dict[str, tuple[str, ...]]:
        """Return, per call that may stream, all that take the same producers in."""
        flow = self.worlds.flow
        by_sources: dict[tuple[str, ...], list[str]] = {}
        for name in self.ways:
            key = tuple(sorted(e.source for e in flow.producers(flow.calls[name])))
            by_sources.setdefault(key, []).append(name)
        return {n: tuple(members) for members in by_sources.values() for n in members}

    def _sooner(self, plan: Polished, name: str) -> Decisions | None:
        """Return decisions in which a call that waited for a slot goes before what was served meanwhile."""
        places = plan.decisions.places
        for replay, replayed in zip(self.courses.replays, plan.found, strict=True):
            number = replay.number.get(name)
            if number is None or replayed.courses[number].start_s <= replayed.ready_s[number] + _GAIN:
                continue
            begin, end = replayed.ready_s[number], replayed.courses[number].start_s
            between = [
                places.get(s.call.name, 0.0)
                for s, c, m in zip(replay.stations, replayed.courses, replayed.models, strict=True)
                if m == replayed.models[number] and begin <= c.start_s < end
            ]
            if between:
                return replace(plan.decisions, places=places | {name: min(between) - 1e-6})
        return None

    def _critical(self, plan: Polished) -> list[str]:
        """Return the calls that the value hangs on, from the end on."""
        found: dict[str, None] = {}
        for replay, replayed in zip(self.courses.replays, plan.found, strict=True):
            streams = [plan.decisions.streams.get(s.call.name) for s in replay.stations]
            courses = replayed.courses
            last = max(replay.finals, key=lambda i: courses[i].end_s)
            left, seen = [last, *replay.finals], set[int]()
            while left and len(seen) < _CRITICAL:
                at = left.pop()
                if at in seen:
                    continue
                seen.add(at)
                sources = replay.stations[at].sources
                if sources:
                    left.append(max(sources, key=lambda s: courses[s].end_s))
                    stream = streams[at]
                    if stream is not None and stream.kind == "staircase":
                        made = [s for s in sources if replay.stations[s].call.name in stream.starts_s]
                        first = stream.boundaries[0]
                        left.append(max((courses[s].when_s(first), s) for s in made)[1])
                if courses[at].start_s > replayed.ready_s[at] + _GAIN:
                    # whose slot it was
                    left += [
                        i
                        for i, c in enumerate(courses)
                        if abs(c.end_s - courses[at].start_s) <= _GAIN
                        and replayed.models[i] == replayed.models[at]
                    ]
            found |= dict.fromkeys(replay.stations[i].call.name for i in sorted(seen, reverse=True))
        return list(found)

    def _settle(self) -> None:
        """Let calls go first in the order in which they start, as a run does, if that is no worse."""
        if self.best is None:
            return
        places: dict[str, float] = {}
        for replay, replayed in zip(self.courses.replays, self.best.found, strict=True):
            for station, course in zip(replay.stations, replayed.courses, strict=True):
                places[station.call.name] = min(places.get(station.call.name, inf), course.start_s)
        decisions = replace(self.best.decisions, places=places)
        found = self.courses.run(decisions)
        if found is None or not self._keeps_deadlines(found):
            return
        value = self.courses.value(found)
        if value <= self.best.value + _GAIN:
            self.best = Polished(
                decisions=decisions, found=found, value=value, latency_s=self.courses.latency_s(found)
            )


def _whole_s(station: Station, server: Server) -> float:
    """Return seconds of a call that waits for its whole prompt."""
    return (
        server.overhead_s
        + station.prompt / server.prefill_tokens_per_s
        + station.output * server.decode_s_per_token
    )
