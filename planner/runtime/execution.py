"""One run of a plan: what starts when, driven by events alone.

A call starts the moment the last input it needs is there; nothing waits for a level of the graph. What is no
longer needed (the losers of a join, of best-of-n) is cancelled, except tools with side effects.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Literal, Protocol

from planner.errors import NewelError
from planner.ir.agent_graph import Human, LlmCall, ToolCall
from planner.runtime.compiled import CallPlan, CompiledPlan
from planner.runtime.failures import CallError
from planner.runtime.inputs import given_to
from planner.runtime.journal import Journal
from planner.runtime.prompts import items_of, joined
from planner.runtime.records import CallRecord, CallStatus, RunResult
from planner.runtime.routing import Routing
from planner.runtime.state import CallState, EdgeOutcome, EdgeState

_KINDS: dict[type, str] = {LlmCall: "llm", ToolCall: "tool", Human: "human"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened: a call changed its status, or wrote `text` of the answer.

    `restart`: the text before it does not count any more.
    """

    kind: Literal["status", "text"]
    call: str
    at_s: float
    status: CallStatus = "running"
    text: str = ""
    restart: bool = False


class Worker(Protocol):
    """Performs single calls."""

    async def perform(self, run: Execution, state: CallState) -> None:
        """Make a call; its text is in the state afterwards.

        Raises
        ------
        CallError
            If it fails for good.
        """
        ...

    async def warm(self, run: Execution, state: CallState) -> None:
        """Let the server compute the beginning of a prompt while the rest is still written."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInputs:
    """What one run is given besides the plan."""

    run: str
    question: str
    seed: int = 0
    on_event: Callable[[Event], None] | None = None


class Execution:
    """The state of one run."""

    def __init__(
        self,
        plan: CompiledPlan,
        inputs: RunInputs,
        worker: Worker,
        routing: Routing,
        journal: Journal | None = None,
    ) -> None:
        self.plan = plan
        self.inputs = inputs
        self.journal = journal
        self.generator = random.Random(f"{inputs.seed}/{inputs.run}")
        self.spent_usd = 0.0
        self.committed_usd = 0.0
        self.notes: list[str] = []
        self.began_s = 0.0
        self._worker = worker
        self._routing = routing
        self._loop = asyncio.get_running_loop()
        self._error: BaseException | None = None
        self._unsettled = len(plan.calls)
        self._due: deque[tuple[Literal["consider", "review"], int]] = deque()
        self._is_working = False
        self._finished = asyncio.Event()
        self.calls = [_call_state(c) for c in plan.calls]
        self.edges = [EdgeState(plan=e) for e in plan.edges]
        self._group_done: dict[str, int] = {}
        self._branches: dict[str, tuple[int, int]] = {}
        self._gates: dict[str, asyncio.Semaphore] = {
            c.flat.group: asyncio.Semaphore(c.flat.parallel)
            for c in plan.calls
            if c.flat.group and c.flat.parallel is not None
        }

    # -- the run ---------------------------------------------------------------------------------

    def now_s(self) -> float:
        """Seconds since the start of the run."""
        return self._loop.time() - self.began_s

    async def run(self) -> RunResult:
        """Run to the end and return what came of it, failed or not."""
        self.began_s = self._loop.time()
        deadline = self.plan.graph.deadline_s
        self._do("consider", (s.plan.index for s in self.calls if not s.plan.inputs))
        try:
            async with asyncio.timeout(deadline):
                await self._finished.wait()
        except TimeoutError:
            self._fail(CallError(f"the deadline of {deadline:g} s passed", again=False), None)
        finally:
            await self._stop_everything()
        return self._result()

    async def _stop_everything(self) -> None:
        tasks = [t for s in self.calls for t in (s.task, s.warming) if t is not None and not t.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        now = self.now_s()
        for state in self.calls:
            if not state.is_settled:
                state.record.status = "cancelled"
                if state.record.start_s is not None:
                    state.record.end_s = now

    def _fail(self, error: BaseException, state: CallState | None) -> None:
        if self._error is None:
            if state is not None and isinstance(error, CallError):
                error = CallError(f"{state.plan.flat.name}: {error.reason}", again=False)
            self._error = error
        self._finished.set()

    def _result(self) -> RunResult:
        if self._error is not None and not isinstance(self._error, CallError | NewelError):
            raise self._error
        finals = [s for s in self.calls if s.plan.final and s.record.status == "done"]
        firsts = [s.record.first_s for s in finals if s.record.first_s is not None]
        ends = [s.record.end_s for s in finals if s.record.end_s is not None]
        reason = self._error.reason if isinstance(self._error, CallError) else str(self._error or "")
        return RunResult(
            plan=self.plan.digest,
            run=self.inputs.run,
            status="done" if self._error is None else "failed",
            error=reason,
            answers={s.plan.flat.name: s.text for s in finals},
            calls=tuple(s.record for s in self.calls),
            notes=tuple(dict.fromkeys(self.notes)),
            ttft_s=sum(firsts) / len(firsts) if firsts else None,
            latency_s=max(ends) if ends and self._error is None else self.now_s(),
            usd=self.spent_usd,
            predicted=self.plan.predicted,
            branches=self._branches,
        )

    # -- readiness -------------------------------------------------------------------------------

    def newest_round(self, state: CallState) -> int:
        """Return how many hand-overs all staircase producers of a call have made; a finished one all."""
        rounds = [
            len(self.edges[i].offsets) if self.edges[i].outcome == "pending" else inf
            for i in state.plan.inputs
            if self.edges[i].is_stream
        ]
        newest = min(rounds, default=inf)
        return 1 << 30 if newest == inf else int(newest)

    def inputs_whole(self, state: CallState) -> bool:
        """Whether every producer of a call is done."""
        return state.pending == 0

    def _do(self, what: Literal["consider", "review"], numbers: Iterable[int]) -> None:
        """Consider calls for a start, or review whether they are needed, and all that follows from it.

        One thing leads to another through a queue, not by recursion: a chain of calls may be long.
        """
        self._due.extend((what, number) for number in numbers)
        if self._is_working:
            return
        self._is_working = True
        try:
            while self._due:
                kind, number = self._due.popleft()
                state = self.calls[number]
                if kind == "consider":
                    self._consider(state)
                else:
                    self._review(state)
        finally:
            self._is_working = False

    def _consider(self, state: CallState) -> None:
        """Start a call if it may start, tell a running one that there is news, skip one that cannot start."""
        if state.record.status == "running":
            if state.news is not None:
                state.news.set()
            return
        if state.record.status != "waiting":
            return
        join = state.plan.flat.join
        enough = state.pending == 0 or (join is not None and state.live >= join)
        if state.pending == 0 and state.plan.inputs and not state.live and not state.void:
            self._settle(state, "skipped")
        elif enough or self._streams_ready(state):
            self._start(state)
        else:
            self._consider_warming(state)

    def _streams_ready(self, state: CallState) -> bool:
        """Whether all that misses are staircases that have handed over their first chunk."""
        if state.plan.flat.join is not None:
            return False
        pending = [e for i in state.plan.inputs if (e := self.edges[i]).outcome == "pending"]
        return all(e.plan.kind == "staircase" and e.offsets for e in pending)

    def _consider_warming(self, state: CallState) -> None:
        streams = [e for i in state.plan.inputs if (e := self.edges[i]).plan.kind == "overlap"]
        if not streams or not all(e.outcome != "pending" or e.offsets for e in streams):
            return
        if state.news is None:
            state.news = asyncio.Event()
        state.news.set()
        if state.warming is None:
            state.warming = self._loop.create_task(self._worker.warm(self, state))

    def _start(self, state: CallState) -> None:
        if state.warming is not None:
            state.warming.cancel()
        state.ready_at_s = self._loop.time()
        state.record.status, state.record.ready_s = "running", state.ready_at_s - self.began_s
        self._tell(state)
        self._do("review", (self.edges[i].plan.source for i in state.plan.inputs))
        if state.inherited is not None or state.plan.is_joint:
            state.record.start_s = state.record.first_s = state.record.ready_s
            self._finish(state)
            return
        state.news = asyncio.Event()
        state.next_mark = self._next_mark(state)
        state.task = self._loop.create_task(self._perform(state))

    async def _perform(self, state: CallState) -> None:
        gate = self._gates.get(state.plan.flat.group)
        try:
            if gate is None:
                await self._limited(state)
            else:
                before = self._loop.time()
                async with gate:
                    state.record.waited_s += self._loop.time() - before
                    await self._limited(state)
        except CallError as error:
            self._failed(state, error)
        except Exception as error:  # noqa: BLE001 - the run ends and hands it on
            self._fail(error, state)

    async def _limited(self, state: CallState) -> None:
        """Perform a call within its node's deadline."""
        deadline = state.plan.flat.deadline_s
        if deadline is None:
            await self._worker.perform(self, state)
        else:
            try:
                async with asyncio.timeout_at(self.began_s + deadline):
                    await self._worker.perform(self, state)
            except TimeoutError:
                raise CallError(f"its deadline of {deadline:g} s passed", again=False) from None
        if not state.is_settled:
            self._finish(state)

    # -- pieces of text --------------------------------------------------------------------------

    def add_text(self, state: CallState, text: str, tokens: float) -> None:
        """Take in a piece of what a call writes, and hand it over where somebody waits for it."""
        if not state.add(text, tokens):
            return
        record = state.record
        if record.first_s is None:
            record.first_s = self.now_s()
        if state.plan.final and not state.plan.early:
            self._tell_text(state)
        if state.tokens >= state.next_mark:
            self._hand_over(state)
        if "\n" in text:
            self._hand_over_items(state, whole=False)

    def _next_mark(self, state: CallState) -> float:
        streams = (e for i in state.plan.outputs if (e := self.edges[i]).is_stream)
        return min((e.next_mark() for e in streams), default=inf)

    def _hand_over(self, state: CallState) -> None:
        for i in state.plan.outputs:
            edge = self.edges[i]
            if edge.is_stream and edge.outcome == "pending" and state.tokens >= edge.next_mark():
                edge.offsets.append(state.visible_chars)
                self._do("consider", (edge.plan.target,))
        state.next_mark = self._next_mark(state)

    def _hand_over_items(self, state: CallState, *, whole: bool) -> None:
        """Resolve item-wise edges whose item is complete; the last copy takes all that is left."""
        edges = [e for i in state.plan.outputs if (e := self.edges[i]).plan.item is not None]
        edges = [e for e in edges if e.outcome == "pending" and (whole or e.plan.kind == "items")]
        if not edges:
            return
        items = items_of(state.text, whole=whole)
        for edge in edges:
            number, count = edge.plan.item or 0, edge.plan.num_items
            if number < len(items) and (whole or number < count - 1):
                edge.text = items[number] if number < count - 1 else "\n".join(items[number:])
                self._resolve(edge, "live")
            elif whole:
                self._resolve(edge, "dead")
        if whole and len(items) > max(e.plan.num_items for e in edges):
            self.notes.append(
                f"{state.plan.flat.name} wrote {len(items)} items for {edges[0].plan.num_items} copies: "
                "the last copy got all that were left"
            )

    # -- endings ---------------------------------------------------------------------------------

    def _finish(self, state: CallState) -> None:
        """Note that a call is done, and start what waits for it."""
        if state.inherited is not None:
            state.visible, state.visible_chars = [state.inherited], len(state.inherited)
        elif state.plan.is_joint:
            text = joined([g.text for g in given_to(self, state)])
            state.visible, state.visible_chars = [text], len(text)
        now = self._loop.time()
        record = state.record
        record.end_s = now - self.began_s if record.end_s is None else record.end_s
        record.first_s = record.end_s if record.first_s is None else record.first_s
        early = state.plan.early
        if early:
            done = self._group_done[state.plan.flat.node] = self._group_done.get(state.plan.flat.node, 0) + 1
            if done <= early and state.plan.final:
                self._tell_text(state)
        self._settle(state, "done")
        record.framework_s += max(self._loop.time() - self.began_s - record.end_s, 0.0)

    def _failed(self, state: CallState, error: CallError) -> None:
        state.record.error = error.reason
        state.record.end_s = self.now_s()
        if state.plan.flat.on_failure == "skip":
            self.notes.append(f"{state.plan.flat.name} failed and was done without: {error.reason}")
            self._settle(state, "failed", void=True)
        elif self._others_do(state):
            self.notes.append(f"{state.plan.flat.name} failed, others stand in for it: {error.reason}")
            self._settle(state, "failed")
        else:
            self._settle(state, "failed")
            self._fail(error, state)

    def _others_do(self, state: CallState) -> bool:
        """Whether every consumer still gets as many inputs as it needs without this call."""
        early = state.plan.early
        if early:
            done = self._group_done.get(state.plan.flat.node, 0)
            group = self.plan.by_node[state.plan.flat.node]
            left = sum(not self.calls[c.index].is_settled for c in group if c.index != state.plan.index)
            return done + left >= early
        targets = [self.calls[self.edges[i].plan.target] for i in state.plan.outputs]
        return bool(targets) and all(
            t.is_settled
            or t.record.status == "running"
            or (t.plan.flat.join is not None and t.live + t.pending - 1 >= t.plan.flat.join)
            for t in targets
        )

    def _settle(self, state: CallState, status: CallStatus, *, void: bool = False) -> None:
        """Give a call its last status, resolve its edges, and cancel what nobody needs any more."""
        if state.is_settled:
            return
        state.record.status = status
        self._unsettled -= 1
        self._tell(state)
        if status == "done":
            self._hand_over_items(state, whole=True)
            taken = self._routing.taken(state.plan, state.text, self.generator)
            for name, numbers in self._routing.decided(state.plan).items():
                before = self._branches.get(name, (0, 0))
                self._branches[name] = (before[0] + (not taken.isdisjoint(numbers)), before[1] + 1)
        else:
            taken = set[int]()
        for i in state.plan.outputs:
            outcome: EdgeOutcome = "void" if void else "live" if i in taken else "dead"
            self._resolve(self.edges[i], outcome)
        if state.plan.early and self._group_done.get(state.plan.flat.node, 0) >= state.plan.early:
            self._do("review", (c.index for c in self.plan.by_node[state.plan.flat.node]))
        if status == "cancelled":
            self._do("review", (self.edges[i].plan.source for i in state.plan.inputs))
        if self._unsettled == 0:
            self._finished.set()

    def _resolve(self, edge: EdgeState, outcome: EdgeOutcome) -> None:
        if edge.outcome != "pending":
            return
        edge.outcome = outcome
        target = self.calls[edge.plan.target]
        target.pending -= 1
        target.live += outcome == "live"
        target.void += outcome == "void"
        self._do("consider", (edge.plan.target,))

    def _review(self, state: CallState) -> None:
        """Cancel a call that nobody needs any more."""
        if state.is_settled or self._is_needed(state):
            return
        for task in (state.task, state.warming):
            if task is not None:
                task.cancel()
        if state.record.start_s is not None:
            state.record.end_s = self.now_s()
        self._settle(state, "cancelled")

    def _is_needed(self, state: CallState) -> bool:
        plan = state.plan
        if isinstance(plan.flat.work, ToolCall) and plan.flat.work.side_effects:
            return True
        if plan.early and self._group_done.get(plan.flat.node, 0) >= plan.early:
            return False
        if plan.final:
            return True
        for i in plan.outputs:
            edge, target = self.edges[i], self.calls[self.edges[i].plan.target]
            if target.record.status == "waiting" and edge.outcome == "pending":
                return True
            if target.record.status == "running" and edge.outcome == "pending" and edge.is_stream:
                return True
        return False

    # -- telling ---------------------------------------------------------------------------------

    def _tell(self, state: CallState) -> None:
        if self.inputs.on_event is not None:
            self.inputs.on_event(
                Event(
                    kind="status",
                    call=state.plan.flat.name,
                    at_s=self.now_s(),
                    status=state.record.status,
                )
            )

    def _tell_text(self, state: CallState) -> None:
        if self.inputs.on_event is None:
            return
        restart = state.restarted
        if restart:
            state.told_chars, state.restarted = 0, False
        if (
            len(state.visible)
            and not restart
            and state.visible_chars - state.told_chars == len(state.visible[-1])
        ):
            text = state.visible[-1]
        else:
            text = state.text[state.told_chars :]
        state.told_chars = state.visible_chars
        self.inputs.on_event(
            Event(kind="text", call=state.plan.flat.name, at_s=self.now_s(), text=text, restart=restart)
        )


def _call_state(plan: CallPlan) -> CallState:
    record = CallRecord(
        name=plan.flat.name,
        node=plan.flat.node,
        kind=_KINDS.get(type(plan.flat.work), "router"),
        model=plan.model,
    )
    return CallState(plan=plan, record=record, pending=len(plan.inputs))
