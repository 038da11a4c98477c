"""Performs single calls of a run: model calls with growing prompts, tools, people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf

from planner.ir.agent_graph import AgentModel, Human, LlmCall, ToolCall
from planner.runtime.bindings import Hints, ToolBinding, ToolRequest
from planner.runtime.clients.chat import ChatClient, Completion
from planner.runtime.compiled import CallPlan
from planner.runtime.execution import Execution
from planner.runtime.failures import CallError
from planner.runtime.inputs import earlier_texts, given_to, question_of
from planner.runtime.limits import Limiter
from planner.runtime.pool import Asked, Caller, ModelPool
from planner.runtime.prompts import GrowingPrompt, Message, arguments_of, joined, messages_of
from planner.runtime.records import CallRecord, RequestRecord, record_data
from planner.runtime.spans import Tracer
from planner.runtime.state import CallState
from planner.runtime.tools import run_tool

_MAX_URGENCY = 100
_CONTINUED: dict[str, object] = {"continue_final_message": True, "add_generation_prompt": False}


class CallWorker:
    """Makes the calls of all runs of a runtime."""

    def __init__(
        self,
        pools: Mapping[str, ModelPool],
        tools: Mapping[str, tuple[ToolBinding, Limiter]],
        client: ChatClient,
        tracer: Tracer,
    ) -> None:
        self._pools = pools
        self._tools = tools
        self._client = client
        self._tracer = tracer

    async def perform(self, run: Execution, state: CallState) -> None:
        """Make a call; its text is in the state afterwards.

        Raises
        ------
        CallError
            If it fails for good.
        """
        name = state.plan.flat.name
        if run.journal is not None:
            run.journal.begin(name)
        with self._tracer.call(run.inputs.run, state.record) as span:
            if isinstance(state.plan.flat.work, LlmCall):
                await self._model(run, state)
            else:
                await self._tool(run, state)
            span.done(state.record)
        if run.journal is not None:
            await run.journal.finish(name, _journal_entry(state))

    # -- models ----------------------------------------------------------------------------------

    async def _model(self, run: Execution, state: CallState) -> None:
        """Call the planned model, then, if its servers fail for good, the others that the node allows."""
        work = state.plan.flat.work
        assert isinstance(work, LlmCall)
        names = [state.plan.model, *(m for m in work.models if m != state.plan.model)]
        pools = [self._pools[n] for n in names if n in self._pools and _is_good_enough(run, n)]
        for i, pool in enumerate(pools):
            try:
                await self._rounds(run, state, pool)
                return
            except CallError as error:
                if i + 1 == len(pools) or not (error.again or error.down):
                    raise
                other = pools[i + 1].name
                run.notes.append(
                    f"{state.plan.flat.name}: {pool.name} failed ({error.reason}); {other} stands in"
                )

    async def _rounds(self, run: Execution, state: CallState, pool: ModelPool) -> None:
        """Ask for the answer; as long as inputs grow, interrupt and go on with what is new."""
        prompt = GrowingPrompt(turns=pool.endpoint.continuation == "turns")
        streaming = any(run.edges[i].plan.kind == "staircase" for i in state.plan.inputs)
        state.begin_attempt()
        written, rounds = 0.0, 0
        while True:
            whole = run.inputs_whole(state)
            state.round = run.newest_round(state)
            if state.news is not None:
                state.news.clear()
            messages = self._messages(run, state, prompt, whole=whole) if streaming else _plain(run, state)
            limit = _left(state, written)
            if not rounds and not whole:
                state.record.evidence = _evidence(run, state)
            completion = await self._ask(run, state, pool, (messages, limit, rounds))
            rounds += 1
            state.record.num_rounds = rounds
            written += _tokens(pool, completion)
            if whole and not completion.interrupted:
                break
            if completion.finish == "length" and not completion.interrupted:
                # nothing may be written any more, so later inputs cannot count
                break
            if _left(state, written) == 0:
                break
            while not run.inputs_whole(state) and run.newest_round(state) <= state.round:
                if state.news is not None:
                    await state.news.wait()
                    state.news.clear()
        state.end_attempt()

    def _messages(
        self, run: Execution, state: CallState, prompt: GrowingPrompt, *, whole: bool
    ) -> list[Message]:
        given = given_to(run, state)
        return prompt.next_round(lambda: _plain(run, state), given, "".join(state.attempt), whole=whole)

    async def _ask(
        self,
        run: Execution,
        state: CallState,
        pool: ModelPool,
        what: tuple[list[Message], int | None, int],
    ) -> Completion:
        """Make one request of a call and account for it."""
        messages, limit, rounds = what
        plan, record = state.plan, state.record
        model = run.plan.models[pool.name]
        expected_usd = _expected_usd(model, state)
        _reserve(run, expected_usd)
        kept = (list(state.attempt), state.tokens)

        def on_attempt() -> None:
            now = run.now_s()
            if record.start_s is None:
                record.start_s = now
                record.framework_s += max(now - (record.ready_s or 0.0) - record.waited_s, 0.0)
            if rounds:
                _restore(state, kept)
            else:
                state.begin_attempt()

        def on_text(text: str) -> bool:
            run.add_text(state, text, pool.tokens_per_piece)
            return self._has_news(run, state)

        asked = Asked(
            messages=messages,
            fields=_fields(
                pool, state, limit, continued=bool(rounds), graph_priority=run.plan.graph.priority
            ),
            priority=run.began_s + plan.start_s,
            record=record,
            tokens=plan.prompt_tokens + plan.output_tokens,
        )
        caller = Caller(self._client, run.generator)
        try:
            completion = await caller.call(pool, asked, on_text, on_attempt)
        finally:
            run.committed_usd -= expected_usd
        record.end_s = completion.end_s - run.began_s
        _account(run, state, model, pool, completion)
        _note_request(run, state, pool, messages, completion)
        return completion

    @staticmethod
    def _has_news(run: Execution, state: CallState) -> bool:
        """Whether a staircase has got further since the round began."""
        news = state.news
        return news is not None and news.is_set() and run.newest_round(state) > state.round

    async def warm(self, run: Execution, state: CallState) -> None:
        """Let the server compute the beginning of a prompt while the rest is still written.

        An ordinary endpoint cannot be given half a prompt, so each growth is sent with one token asked for;
        the answer is thrown away and only the prefix cache remembers.
        """
        pool = self._pools[state.plan.model]
        sent = 0
        try:
            while True:
                messages = _known_prefix(run, state)
                size = sum(len(m["content"]) for m in messages)
                if size > sent:
                    sent = size
                    await self._warm_once(run, state, pool, messages)
                if state.news is None:
                    return
                await state.news.wait()
                state.news.clear()
        except CallError as error:
            run.notes.append(f"{state.plan.flat.name}: prefill ahead failed ({error.reason})")

    async def _warm_once(
        self, run: Execution, state: CallState, pool: ModelPool, messages: list[Message]
    ) -> None:
        record = CallRecord(name=state.plan.flat.name, node=state.plan.flat.node, kind="warm")
        asked = Asked(messages=messages, fields={"max_tokens": 1}, priority=inf, record=record)
        completion = await Caller(self._client, run.generator).call(
            pool, asked, lambda _: False, lambda: None
        )
        model = run.plan.models[pool.name]
        run.spent_usd += (completion.prompt_tokens or 0) * model.usd_per_input_token

    # -- tools and people ------------------------------------------------------------------------

    async def _tool(self, run: Execution, state: CallState) -> None:
        work = state.plan.flat.work
        assert isinstance(work, ToolCall | Human)
        name = work.tool if isinstance(work, ToolCall) else state.plan.base
        binding, limiter = self._tools[name]
        given = given_to(run, state)
        inputs: dict[str, list[str]] = {}
        for g in given:
            inputs.setdefault(g.node, []).append(g.text)
        question = question_of(run, state)
        request = ToolRequest(
            tool=name,
            node=state.plan.flat.name,
            arguments=arguments_of(state.plan, question, given) if isinstance(work, ToolCall) else question,
            input=question,
            inputs={node: joined(texts) for node, texts in inputs.items()},
        )
        again = binding.num_retries if not (isinstance(work, ToolCall) and work.side_effects) else 0
        while True:
            try:
                await self._tool_once(run, state, (binding, limiter), request)
                return
            except CallError as error:
                if not error.again or again <= 0:
                    raise
                again -= 1

    async def _tool_once(
        self, run: Execution, state: CallState, how: tuple[ToolBinding, Limiter], request: ToolRequest
    ) -> None:
        binding, limiter = how
        record = state.record
        before = run.now_s()
        await limiter.acquire(run.began_s + state.plan.start_s)
        try:
            now = run.now_s()
            record.waited_s += now - before
            record.num_attempts += 1
            if record.start_s is None:
                record.start_s = now
                record.framework_s += max(now - (record.ready_s or 0.0) - record.waited_s, 0.0)
            text = await run_tool(binding, request, self._client)
            record.end_s = run.now_s()
            state.begin_attempt()
            run.add_text(state, text, 0.0)
            state.end_attempt()
        finally:
            limiter.release()


def _is_good_enough(run: Execution, model: str) -> bool:
    floor, quality = run.plan.graph.min_quality, run.plan.models[model].quality
    return floor is None or (quality is not None and quality >= floor)


def _messages_from(run: Execution, state: CallState, plan: CallPlan) -> list[Message]:
    question, given = question_of(run, state), given_to(run, state)
    return messages_of(plan, question, given, lambda node: earlier_texts(run, node))


def _plain(run: Execution, state: CallState) -> list[Message]:
    return _messages_from(run, state, state.plan)


def _known_prefix(run: Execution, state: CallState) -> list[Message]:
    """Return the messages up to the first part that is still being written, that part included."""
    work = state.plan.flat.work
    assert isinstance(work, LlmCall)
    nodes = {run.calls[run.edges[i].plan.source].plan.base for i in state.plan.inputs if _is_open(run, i)}
    kept: list[int] = []
    for i, part in enumerate(work.prompt):
        kept.append(i)
        if part.kind == "node" and part.source in nodes:
            break
    cut = replace(work, prompt=tuple(work.prompt[i] for i in kept))
    plan = replace(state.plan, flat=replace(state.plan.flat, work=cut))
    return _messages_from(run, state, plan)


def _is_open(run: Execution, number: int) -> bool:
    return run.edges[number].outcome == "pending"


def _restore(state: CallState, kept: tuple[list[str], float]) -> None:
    """Go back to what earlier rounds wrote, before a round is tried again."""
    state.attempt, state.tokens = list(kept[0]), kept[1]
    state.attempt_chars = sum(map(len, state.attempt))


def _left(state: CallState, written: float) -> int | None:
    work = state.plan.flat.work
    limit = work.output.limit if isinstance(work, LlmCall) else None
    return None if limit is None else max(limit - round(written), 0)


def _tokens(pool: ModelPool, completion: Completion) -> float:
    if completion.output_tokens is not None:
        return float(completion.output_tokens)
    return completion.num_pieces * pool.tokens_per_piece


def _evidence(run: Execution, state: CallState) -> float:
    """Return the share of the planned inputs that the first round saw."""
    expected = seen = 0.0
    for i in state.plan.inputs:
        edge = run.edges[i]
        source = run.calls[edge.plan.source]
        expected += source.plan.output_tokens
        seen += min(source.tokens, source.plan.output_tokens)
    return seen / expected if expected else 1.0


def _fields(
    pool: ModelPool, state: CallState, limit: int | None, *, continued: bool, graph_priority: int
) -> dict[str, object]:
    fields: dict[str, object] = {} if limit is None else {"max_tokens": limit}
    if continued and pool.endpoint.continuation == "prefill":
        fields |= _CONTINUED
    return fields | _hints(pool.endpoint.hints, state.plan, graph_priority)


def _hints(hints: Hints, plan: CallPlan, graph_priority: int) -> dict[str, object]:
    """Return the fields that tell a server how urgent a call is: first its graph's priority, then its slack.

    vLLM serves smaller numbers first, SGLang larger ones; Dynamo has a tier of its own for whole programs,
    without a sign.
    """
    if not hints:
        return {}
    urgency = round(_MAX_URGENCY * (1.0 - min(plan.slack_s / max(plan.end_s, 1e-9), 1.0)))
    both = graph_priority * (_MAX_URGENCY + 1) + urgency
    if hints != "dynamo":
        return {"priority": -both if hints == "vllm" else both}
    told: dict[str, object] = {"priority": both}
    if graph_priority > 0:
        told["strict_priority"] = graph_priority
    if plan.output_tokens > 0:
        told["osl"] = max(round(plan.output_tokens), 1)
    return {"nvext": {"agent_hints": told}}


def _expected_usd(model: AgentModel, state: CallState) -> float:
    plan = state.plan
    return plan.prompt_tokens * model.usd_per_input_token + plan.output_tokens * model.usd_per_output_token


def _reserve(run: Execution, usd: float) -> None:
    """Set money aside for a call.

    Raises
    ------
    CallError
        If the budget does not hold it.
    """
    budget = run.plan.graph.budget_usd
    if budget is not None and run.spent_usd + run.committed_usd + usd > budget * (1 + 1e-9):
        raise CallError(
            f"the budget of {budget:g} usd does not hold this call: {run.spent_usd:.6g} usd spent, "
            f"{run.committed_usd:.6g} usd committed, {usd:.6g} usd expected",
            again=False,
        )
    run.committed_usd += usd


def _account(
    run: Execution, state: CallState, model: AgentModel, pool: ModelPool, completion: Completion
) -> None:
    record = state.record
    prompt = completion.prompt_tokens
    output = round(_tokens(pool, completion))
    record.counted = completion.output_tokens is not None
    record.prompt_tokens += prompt if prompt is not None else round(state.plan.prompt_tokens)
    record.output_tokens += output
    record.cached_tokens += completion.cached_tokens
    record.num_pieces += completion.num_pieces
    record.finish = completion.finish or ("interrupted" if completion.interrupted else "")
    usd = (prompt or state.plan.prompt_tokens) * model.usd_per_input_token
    usd += output * model.usd_per_output_token
    record.usd += usd
    run.spent_usd += usd
    record.error = ""


def _note_request(
    run: Execution, state: CallState, pool: ModelPool, messages: list[Message], completion: Completion
) -> None:
    end = completion.end_s
    first = completion.first_s if completion.first_s is not None else end
    state.record.requests.append(
        RequestRecord(
            model=pool.name,
            start_s=completion.sent_s - run.began_s,
            first_s=first - run.began_s,
            end_s=end - run.began_s,
            prompt_tokens=completion.prompt_tokens,
            prompt_chars=sum(len(m["content"]) for m in messages),
            output_tokens=round(_tokens(pool, completion)),
        )
    )


def _journal_entry(state: CallState) -> dict[str, object]:
    return {"text": state.text, "record": record_data(state.record)}
