"""Discrete-event simulation of one run of an agent graph: calls, streams, slots.

Calls are flat (loops, copies and bodies expanded). A call starts when enough producers are ready,
holds a slot of its pool, and emits tokens at a constant rate after its prefill. Streaming edges hand
over at token boundaries; a staircase consumer restarts with everything so far, an overlapping one
only prefills ahead.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from planner.ir.agent_graph import EdgeKind
from planner.simulate.agent_pools import Hold, Pools

Discipline = Literal["interrupt", "quota"]
Order = Literal["planned", "fcfs", "priority", "program"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimCall:
    """A call: a model call (tokens at a rate) or, with `fixed_s`, a tool that ends after that time.

    `join` of the producers must be ready (None: all). Where a pool is full a smaller `priority` (when it was
    planned to start) goes first, or a smaller `rank` where priorities of users count; `program` is the run
    that the call is part of.
    It takes a unit of `pool` while it runs, and `holds` besides.
    `discipline`: a staircase round writes until the next chunks are there, or its even share of the answer.
    """

    name: str
    prompt_tokens: float = 0.0
    output_tokens: int = 0
    overhead_s: float = 0.0
    prefill_tokens_per_s: float = math.inf
    decode_s_per_token: float = 0.0
    fixed_s: float | None = None
    pool: str = ""
    holds: tuple[Hold, ...] = ()
    join: int | None = None
    priority: float = 0.0
    rank: int = 0
    program: str = ""
    cached: bool = False
    cache_block_tokens: int = 1
    discipline: Discipline = "interrupt"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimEdge:
    """Data from one call to another.

    `boundaries` are the producer's cumulative tokens at which it hands over (staircase, overlap, items: the
    last is where the item is complete and `item_tokens` is its size); `in_prompt` is whether the data
    enters the consumer's prompt.
    """

    source: str
    target: str
    kind: EdgeKind = "barrier"
    boundaries: tuple[float, ...] = ()
    item_tokens: float = 0.0
    in_prompt: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTrace:
    """What happened to a call; times from the start of the run, None if it never ran."""

    name: str
    start_s: float | None
    first_token_s: float | None
    end_s: float | None
    prefilled_tokens: float
    num_rounds: int
    longest_pause_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTrace:
    """All calls of a run."""

    calls: tuple[CallTrace, ...]

    def call(self, name: str) -> CallTrace:
        """Return the trace of one call.

        Raises
        ------
        KeyError
            If there is none of that name.
        """
        for call in self.calls:
            if call.name == name:
                return call
        raise KeyError(name)

    @property
    def end_s(self) -> float:
        """End of the last call."""
        return max((c.end_s for c in self.calls if c.end_s is not None), default=0.0)


@dataclass(slots=True, kw_only=True)
class _State:
    """A call while it runs."""

    call: SimCall
    inputs: list[int] = field(default_factory=list[int])
    outputs: list[int] = field(default_factory=list[int])
    version: int = 0
    written: int = 0
    round: int = 0
    num_rounds: int = 0
    warmed: int = 0
    holds_slot: bool = False
    queued: bool = False
    busy: bool = False
    done: bool = False
    final: bool = False
    start_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    end_s: float | None = None
    ready_s: float = 0.0
    written_before: int = 0
    known_tokens: float = 0.0
    prefilled: float = 0.0
    pause_s: float = 0.0


def simulate_agent_job(
    calls: Sequence[SimCall], edges: Sequence[SimEdge], slots: dict[str, int], *, order: Order = "planned"
) -> JobTrace:
    """Run the calls; `slots` bounds how many calls of a pool run at once (pools not named: no bound).

    `order` is who goes first where a pool is full: who was planned first, who came first (fcfs), whose rank
    is least and of those who came first (priority), or whose program has been served least so far (program:
    least attained service, Luo et al. 2025, arXiv 2502.13965).

    Raises
    ------
    ValueError
        If an edge names an unknown call.
    """
    return _Simulation(calls, edges, slots, order).run()


class _Simulation:
    """The event loop. Events are (time, place, number, action, call, version, value).

    What begins at the same time does so in the order of places, after all that ends then.
    """

    def __init__(
        self, calls: Sequence[SimCall], edges: Sequence[SimEdge], slots: dict[str, int], order: Order
    ) -> None:
        self.order: Order = order
        self.attained: dict[str, float] = {}
        self.states = {c.name: _State(call=c) for c in calls}
        self.edges = list(edges)
        self.delivered = [0] * len(self.edges)
        self.pools = Pools(slots)
        self.timed: list[Hold] = []
        self.events: list[tuple[float, float, int, str, str, int, int]] = []
        self.count = 0
        for i, edge in enumerate(self.edges):
            if edge.source not in self.states or edge.target not in self.states:
                raise ValueError(f"edge {edge.source!r} -> {edge.target!r} ends at an unknown call")
            self.states[edge.source].outputs.append(i)
            self.states[edge.target].inputs.append(i)

    def run(self) -> JobTrace:
        """Process events until none is left."""
        for name in self.states:
            self._consider(name, 0.0)
        while self.events:
            now, _, _, action, name, version, value = heapq.heappop(self.events)
            if action == "give":
                self._give(self.timed[value], now)
                continue
            state = self.states[name]
            if version != state.version:
                continue
            if action == "tokens":
                self._tokens(state, value, now)
            elif action == "begin":
                state.queued = False
                self._begin(state, now)
            elif action == "idle":
                state.busy = False
                self._consider(name, now)
            else:
                self._finish(state, now)
        return JobTrace(calls=tuple(_trace(s) for s in self.states.values()))

    def _push(self, time: float, action: str, state: _State, value: int = 0) -> None:
        self.count += 1
        place = self._place(state.call) if action == "begin" else -math.inf
        heapq.heappush(self.events, (time, place, self.count, action, state.call.name, state.version, value))

    # -- readiness -------------------------------------------------------------------------------

    def _rounds_ready(self, index: int) -> int:
        """How many hand-overs of an edge have arrived; a barrier counts as all or nothing."""
        edge = self.edges[index]
        return (
            self.delivered[index] if edge.kind in ("staircase", "overlap") else int(self.delivered[index] > 0)
        )

    def _ready_round(self, state: _State) -> int:
        """Return the newest round that enough producers have reached; 0 if the call cannot start."""
        need = len(state.inputs) if state.call.join is None else min(state.call.join, len(state.inputs))
        if need == 0:
            return 1
        streams = [i for i in state.inputs if self.edges[i].kind == "staircase"]
        plain = [i for i in state.inputs if self.edges[i].kind != "staircase"]
        ready_plain = sum(self._complete(i) for i in plain)
        reached = sorted((self._rounds_ready(i) for i in streams), reverse=True)
        missing = need - ready_plain
        if missing <= 0:
            return max(reached[0] if reached else 1, 1)
        return reached[missing - 1] if missing <= len(reached) else 0

    def _complete(self, index: int) -> bool:
        edge = self.edges[index]
        return self.delivered[index] >= max(len(edge.boundaries), 1)

    def _last_round(self, state: _State) -> int:
        return max(
            [1, *(len(self.edges[i].boundaries) for i in state.inputs if self.edges[i].kind == "staircase")]
        )

    def _consider(self, name: str, now: float) -> None:
        """Start the call, its next round or a warming prefill, if it may."""
        state = self.states[name]
        if state.done or state.queued or state.busy:
            return
        if self._next_round(state) > state.round:
            if state.round:
                self._begin(state, now)
            else:
                state.queued = True
                self._push(now, "begin", state)
        elif not state.round:
            self._warm(state, now)

    def _begin(self, state: _State, now: float) -> None:
        if self._slot(state, now):
            self._start_round(state, self._next_round(state), now)

    def _next_round(self, state: _State) -> int:
        """Return the round that a call may go on with; that of now if it has to wait."""
        newest = self._ready_round(state)
        if state.call.discipline == "quota":
            return min(newest, state.round + 1)
        # the last token is written on the whole input
        is_done = state.written >= state.call.output_tokens - 1
        return state.round if is_done and newest < self._last_round(state) else newest

    def _slot(self, state: _State, now: float) -> bool:
        if state.holds_slot:
            return True
        if not self.pools.take(state.call.name, _holds(state.call), self._place(state.call)):
            state.queued = True
            return False
        state.holds_slot = True
        for hold in _holds(state.call):
            if hold.for_s is not None:
                self.timed.append(hold)
                self._push(now + hold.for_s, "give", state, len(self.timed) - 1)
        return True

    def _place(self, call: SimCall) -> float:
        """Return the place of a call in a queue; smaller is served first, equal ones as they come."""
        if self.order == "planned":
            return call.priority
        if self.order == "program":
            return self.attained.get(call.program, 0.0)
        return float(call.rank) if self.order == "priority" else 0.0

    # -- rounds ----------------------------------------------------------------------------------

    def _input_tokens(self, state: _State) -> float:
        """Tokens of the producers that are in the prompt by now."""
        total = 0.0
        for i in state.inputs:
            edge, count = self.edges[i], self.delivered[i]
            if not edge.in_prompt or count == 0:
                continue
            if edge.kind == "items":
                total += edge.item_tokens
            elif edge.boundaries:
                limit = (
                    state.round if state.call.discipline == "quota" and edge.kind == "staircase" else count
                )
                written = edge.boundaries[min(count, limit, len(edge.boundaries)) - 1]
                total += min(written, self.states[edge.source].call.output_tokens)
            else:
                total += self.states[edge.source].call.output_tokens
        return total

    def _new_tokens(self, state: _State) -> float:
        """Prompt tokens that must be computed now, and remember the rest."""
        prompt = state.call.prompt_tokens + self._input_tokens(state) + state.written
        block = max(state.call.cache_block_tokens, 1)
        overlapping = any(self.edges[i].kind == "overlap" for i in state.inputs)
        reuse = state.call.cached or overlapping
        kept = math.floor(min(state.known_tokens, prompt) / block) * block if reuse else 0.0
        state.known_tokens = prompt
        state.prefilled += prompt - kept
        return prompt - kept

    def _warm(self, state: _State, now: float) -> None:
        """Prefill what has arrived over overlapping edges; such requests are short and hold no slot here."""
        streams = [i for i in state.inputs if self.edges[i].kind == "overlap"]
        if len(streams) < len(state.inputs) or all(self._complete(i) for i in streams):
            return
        reached = min((self.delivered[i] for i in streams), default=0)
        if reached > state.warmed:
            state.warmed = reached
            state.version += 1
            state.busy = True
            tokens = self._new_tokens(state)
            done = now + state.call.overhead_s + tokens / state.call.prefill_tokens_per_s
            self._push(done, "idle", state)

    def _start_round(self, state: _State, newest: int, now: float) -> None:
        call = state.call
        state.round = newest
        state.num_rounds += 1
        state.version += 1
        state.start_s = now if state.start_s is None else state.start_s
        state.final = newest >= self._last_round(state)
        if call.fixed_s is not None:
            state.busy = True
            self._push(now + call.fixed_s, "finish", state)
            return
        ready = now + call.overhead_s + self._new_tokens(state) / call.prefill_tokens_per_s
        target = self._target(state)
        marks = {state.written + 1, target}
        for i in state.outputs:
            marks.update(math.ceil(b - 1e-9) for b in self.edges[i].boundaries)
        for mark in sorted(m for m in marks if state.written < m <= target):
            self._push(ready + (mark - state.written) * call.decode_s_per_token, "tokens", state, mark)
        # tokens between the marks are counted from the rate when they matter
        state.busy = True
        state.ready_s, state.written_before = ready, state.written
        if target <= state.written:
            self._push(ready, "finish" if state.final and target >= call.output_tokens else "idle", state)

    def _target(self, state: _State) -> int:
        """How much of the answer this round may write."""
        total = state.call.output_tokens
        if state.final:
            return total
        if state.call.discipline == "interrupt":
            return total - 1
        return min(total, math.ceil(total * state.round / self._last_round(state) - 1e-9))

    def _tokens(self, state: _State, mark: int, now: float) -> None:
        """Note that the call has written `mark` tokens."""
        if state.first_token_s is None:
            state.first_token_s = now
        elif mark == state.written_before + 1 and state.last_token_s is not None:
            state.pause_s = max(state.pause_s, now - state.last_token_s)
        state.written, state.last_token_s = mark, now
        self._hand_over(state, now)
        if mark >= state.call.output_tokens:
            self._finish(state, now)
        elif mark >= self._target(state):
            state.known_tokens += mark - state.written_before
            state.busy = False
            self._consider(state.call.name, now)
        else:
            self._interrupt(state, now)

    def _interrupt(self, state: _State, now: float) -> None:
        """Restart with newer chunks, if there are any and this round has written something."""
        if state.call.discipline != "interrupt" or self._ready_round(state) <= state.round:
            return
        ready, before = state.ready_s, state.written_before
        step = state.call.decode_s_per_token
        fits = math.floor((now - ready) / step + 1e-9) if step > 0 else 0
        written = before + fits
        if written <= before:
            return
        state.written = min(written, state.call.output_tokens)
        state.last_token_s = ready + fits * step
        state.known_tokens += fits
        state.busy = False
        self._consider(state.call.name, now)

    # -- endings ---------------------------------------------------------------------------------

    def _hand_over(self, state: _State, now: float) -> None:
        for i in state.outputs:
            edge = self.edges[i]
            if edge.kind == "barrier":
                continue
            if edge.kind == "items":
                count = len(edge.boundaries) if state.written >= edge.boundaries[-1] - 1e-9 else 0
            else:
                count = sum(b <= state.written + 1e-9 for b in edge.boundaries)
            if count > self.delivered[i]:
                self.delivered[i] = count
                self._arrived(edge.target, now)

    def _arrived(self, name: str, now: float) -> None:
        target = self.states[name]
        if target.busy and target.round and not target.done:
            self._interrupt(target, now)
        else:
            self._consider(name, now)

    def _finish(self, state: _State, now: float) -> None:
        if state.done:
            return
        state.done, state.busy, state.end_s = True, False, now
        state.version += 1
        if state.holds_slot:
            state.holds_slot = False
            if state.call.pool and state.start_s is not None:
                program = state.call.program
                self.attained[program] = self.attained.get(program, 0.0) + now - state.start_s
            for hold in _holds(state.call):
                if hold.for_s is None:
                    self._give(hold, now)
        for i in state.outputs:
            self.delivered[i] = max(len(self.edges[i].boundaries), 1)
            self._arrived(self.edges[i].target, now)

    def _give(self, hold: Hold, now: float) -> None:
        self.pools.give(hold)
        while (name := self.pools.next_in(hold.pool)) is not None:
            state = self.states[name]
            state.queued = False
            # who waited goes before what gets ready just now
            if self._next_round(state) > state.round:
                self._begin(state, now)
            else:
                self._consider(name, now)


def _holds(call: SimCall) -> tuple[Hold, ...]:
    return (*((Hold(pool=call.pool),) if call.pool else ()), *call.holds)


def _trace(state: _State) -> CallTrace:
    return CallTrace(
        name=state.call.name,
        start_s=state.start_s,
        first_token_s=state.first_token_s if state.first_token_s is not None else state.end_s,
        end_s=state.end_s,
        prefilled_tokens=state.prefilled,
        num_rounds=state.num_rounds,
        longest_pause_s=state.pause_s,
    )
