"""A runtime: one plan's servers and tools, shared by as many runs at once as are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import cast
from uuid import uuid4

from planner.errors import InputError
from planner.ir.agent_graph import Human, LlmCall, ToolCall
from planner.plan.schema import Plan
from planner.runtime.bindings import ANY_MODEL, Bindings, Endpoint, ToolBinding
from planner.runtime.clients.chat import ChatClient
from planner.runtime.compiled import CompiledPlan, compile_plan
from planner.runtime.execution import Event, Execution, RunInputs
from planner.runtime.failures import RunFailedError
from planner.runtime.journal import Entry, Journal, Sync, open_journal
from planner.runtime.limits import Limiter
from planner.runtime.pool import ModelPool, pools_of
from planner.runtime.prompts import textless
from planner.runtime.records import CallRecord, RunResult
from planner.runtime.routing import Routing
from planner.runtime.spans import Tracer, tracer_of
from planner.runtime.work import CallWorker

_URL_STARTS = ("http://", "https://")
_MAX_QUESTION_CHARS = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run.

    `journal` is a file to write to and to go on from; `sync` its policy. `run` names the run (default: a new
    name). `on_event` is told what happens; `seed` is that of drawn branches and of the spread of retries.
    """

    run: str = ""
    journal: Path | None = None
    sync: Sync = "batch"
    seed: int = 0
    on_event: Callable[[Event], None] | None = None


class Runtime:
    """Runs one plan, many times at once. Open it with ``async with``; its limits hold over all its runs.

    Raises
    ------
    InputError
        If the plan cannot run, or a model, tool or branch has nothing behind it.
    """

    def __init__(self, plan: Plan | CompiledPlan, bindings: Bindings, *, spans: bool = False) -> None:
        self.plan = plan if isinstance(plan, CompiledPlan) else compile_plan(plan)
        self._endpoints = _endpoints(self.plan, bindings)
        self._tools = _tools(self.plan, bindings)
        routes = self.plan.routes or ((1.0, self.plan),)
        self._routes = [(share, route, Routing(route, bindings)) for share, route in routes]
        self._due = [0.0] * len(routes)
        self._tracer: Tracer = tracer_of(spans)
        self._worker: CallWorker | None = None
        self._pools: dict[str, ModelPool] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Runtime:
        client = await self._stack.enter_async_context(ChatClient())
        self._pools = pools_of(self.plan.graph.models, self._endpoints)
        limited = {name: (b, Limiter(_tool_limit(self.plan, name))) for name, b in self._tools.items()}
        self._worker = CallWorker(self._pools, limited, client, self._tracer)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._worker = None
        await self._stack.aclose()

    async def run(self, question: str, options: RunOptions | None = None) -> RunResult:
        """Run the plan on a question.

        Raises
        ------
        RunFailedError
            If there is no answer; it holds what there is.
        InputError
            If the journal belongs to something else or cannot be written.
        """
        how = options or RunOptions()
        if self._worker is None:
            raise RuntimeError("the runtime is not open: use `async with Runtime(...) as runtime`")
        if len(question) > _MAX_QUESTION_CHARS:
            raise InputError("the input is too long", allowed=f"{_MAX_QUESTION_CHARS} characters")
        inputs = RunInputs(
            run=how.run or uuid4().hex[:12], question=question, seed=how.seed, on_event=how.on_event
        )
        journal = self._journal(question, how)
        self._tracer.begin_run(inputs.run, self.plan.name)
        result = None
        try:
            route, routing = self._route(None if journal is None else question)
            execution = Execution(route, inputs, self._worker, routing, journal)
            if journal is not None:
                _resume(execution, journal)
            _tell_textless(execution)
            result = found = await execution.run()
        finally:
            self._tracer.end_run(inputs.run, result)
            if journal is not None:
                journal.close()
        if found.status == "failed":
            raise RunFailedError(f"the run failed: {found.error}", found)
        return found

    def _route(self, question: str | None) -> tuple[CompiledPlan, Routing]:
        """Return the route of the next run, each in turn as often as its share says.

        A run with a journal may be gone on with by another process: the question decides on its route.
        """
        if question is not None:
            mark = int.from_bytes(sha256(question.encode()).digest()[:8], "big") / 2**64
            ends = accumulate(share for share, _, _ in self._routes)
            chosen = next((i for i, end in enumerate(ends) if mark < end), 0)
        else:
            self._due = [due + share for due, (share, _, _) in zip(self._due, self._routes, strict=True)]
            chosen = max(range(len(self._due)), key=lambda i: (self._due[i], -i))
            self._due[chosen] -= 1.0
        _, route, routing = self._routes[chosen]
        return route, routing

    def _journal(self, question: str, how: RunOptions) -> Journal | None:
        if how.journal is None:
            return None
        return open_journal(how.journal, plan=self.plan.digest, question=question, sync=how.sync)


async def execute(
    plan: Plan | CompiledPlan | str | Path,
    question: str,
    endpoints: Mapping[str, object] | Bindings,
    *,
    tools: Mapping[str, object] | None = None,
    predicates: Mapping[str, Callable[[str], bool]] | None = None,
    options: RunOptions | None = None,
) -> RunResult:
    """Run a plan once. To run it more often, keep a `Runtime` open: it shares connections and limits.

    Parameters
    ----------
    plan
        A plan of an agent graph, or its file.
    question
        The input of the run.
    endpoints
        By model: an `Endpoint`, an address, or a mapping as in a file of endpoints; or `Bindings`.
    tools
        By tool: a function (of a `ToolRequest`, plain or async), a `ToolBinding` or a mapping.
    predicates
        By ``source -> target``: a function of the source's text that says whether the edge is taken.
    options
        Journal, name, seed and who is told what happens.

    Raises
    ------
    RunFailedError
        If there is no answer; it holds what there is.
    InputError
        If the plan cannot run, or a model, tool or branch has nothing behind it.
    """
    if isinstance(plan, str | Path):
        from planner.plan.serialize import read_plan

        plan = read_plan(Path(plan))
    async with Runtime(plan, bind(endpoints, tools, predicates)) as runtime:
        return await runtime.run(question, options)


def bind(
    endpoints: Mapping[str, object] | Bindings,
    tools: Mapping[str, object] | None = None,
    predicates: Mapping[str, Callable[[str], bool]] | None = None,
) -> Bindings:
    """Return bindings from what Python code states (see `execute`).

    Raises
    ------
    InputError
        If anything in it is wrong.
    """
    from planner.runtime.bindings import endpoint_of, tool_of

    if not isinstance(endpoints, Bindings):
        found = {
            name: e if isinstance(e, Endpoint) else endpoint_of(e, f"endpoints.{name}")
            for name, e in endpoints.items()
        }
        endpoints = Bindings(endpoints=found)
    extra = {name: tool_of(t, f"tools.{name}") for name, t in (tools or {}).items()}
    return replace(
        endpoints,
        tools={**endpoints.tools, **extra},
        predicates={**endpoints.predicates, **(predicates or {})},
    )


def _endpoints(plan: CompiledPlan, bindings: Bindings) -> dict[str, Endpoint]:
    """Return the endpoint of every model: the one bound, else the address that the plan states."""
    found: dict[str, Endpoint] = {}
    for model in plan.graph.models:
        endpoint = bindings.endpoint(model.name)
        if endpoint is None and model.endpoint.startswith(_URL_STARTS):
            endpoint = Endpoint(urls=(model.endpoint.rstrip("/"),))
        if endpoint is not None:
            found[model.name] = endpoint
    for call in (call for _, route in plan.routes or ((1.0, plan),) for call in route.calls):
        if isinstance(call.flat.work, LlmCall) and call.model not in found:
            raise InputError(
                f"the model has no endpoint, and node {call.base!r} needs it",
                key=f"endpoints.{call.model}",
                value=call.model,
                allowed=", ".join(sorted(bindings.endpoints)) or "none are named",
                hint=f"Name where it is served: endpoints: {{{call.model}: {{url: http://.../v1}}}}, "
                f"or under {ANY_MODEL!r} one for all models.",
            )
    known = {m.name for m in plan.graph.models} | {ANY_MODEL}
    unknown = sorted(set(bindings.endpoints) - known)
    if unknown:
        raise InputError(
            "an endpoint for a model that the plan does not know",
            key=f"endpoints.{unknown[0]}",
            value=unknown[0],
            allowed=", ".join(sorted(known)),
        )
    return found


def _tools(plan: CompiledPlan, bindings: Bindings) -> dict[str, ToolBinding]:
    found: dict[str, ToolBinding] = {}
    for call in plan.calls:
        work = call.flat.work
        if not isinstance(work, ToolCall | Human):
            continue
        name = work.tool if isinstance(work, ToolCall) else call.base
        if name not in bindings.tools:
            what = "tool" if isinstance(work, ToolCall) else "person"
            raise InputError(
                f"the {what} has nothing behind it, and node {call.base!r} needs it",
                key=f"tools.{name}",
                value=name,
                allowed=", ".join(sorted(bindings.tools)) or "none are named",
                hint=f"Name what runs: tools: {{{name}: {{command: [...]}}}} (or python:, or url:).",
            )
        found[name] = bindings.tools[name]
    return found


def _tool_limit(plan: CompiledPlan, name: str) -> int | None:
    limits = [
        c.flat.work.limit
        for c in plan.calls
        if isinstance(c.flat.work, ToolCall) and c.flat.work.tool == name and c.flat.work.limit is not None
    ]
    return min(limits, default=None)


def _tell_textless(execution: Execution) -> None:
    for node, tokens in textless(execution.plan):
        execution.notes.append(
            f"{node}: {tokens:g} tokens of its prompt are planned but have no text, so they are not sent"
        )


def _resume(execution: Execution, journal: Journal) -> None:
    """Take over what an earlier process finished; refuse to repeat what must not happen twice."""
    if journal.torn:
        execution.notes.append("the last line of the journal was cut off: that call counts as not ended")
    for name, entry in journal.finished.items():
        call = execution.plan.by_name.get(name)
        if call is None:
            raise InputError("the journal names a call that the plan does not have", value=name)
        state = execution.calls[call.index]
        state.inherited = str(entry.get("text", ""))
        _take_record(state.record, entry)
        execution.spent_usd += state.record.usd
    for name in sorted(journal.started - set(journal.finished)):
        call = execution.plan.by_name.get(name)
        work = call.flat.work if call is not None else None
        if isinstance(work, ToolCall) and work.side_effects:
            raise InputError(
                "the tool was running when the earlier process ended: whether it took effect is unknown",
                file=str(journal.path),
                value=name,
                hint="Find out, then add what it returned by hand or begin a new journal.",
            )


def _take_record(record: CallRecord, entry: Entry) -> None:
    old = entry.get("record")
    if isinstance(old, dict):
        values = cast("dict[str, object]", old)
        record.usd = _number(values.get("usd"))
        record.prompt_tokens = int(_number(values.get("prompt_tokens")))
        record.output_tokens = int(_number(values.get("output_tokens")))
        record.server, record.model = str(values.get("server", "")), str(values.get("model", ""))
    record.reused = True


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
