"""From flat calls to a scheduling problem: durations, prices, slots, rates, lags of streaming edges.

The bridge from the agent graph to cost models. Expectations stand for distributions: a call's duration
is that of its mean lengths times the probability of being made; of a join of m the m producers that
can be ready first are waited for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil

from cost_models.agents.calls import CallSpeed
from cost_models.agents.lengths import mean_below
from planner.ir.agent_graph import AgentGraph, AgentModel, Human, LlmCall, Tokens, ToolCall
from planner.ir.scheduling_problem import Demand, Lag, Mode, Resource, SchedulingProblem, Task
from planner.space.agent_eased import Ease, Spell, eased
from planner.space.agent_flat import FlatCall, FlatEdge, FlatGraph, Flow
from planner.space.agent_gates import gated
from planner.space.agent_streams import Stream

RATE_WINDOW_S = 60.0
NANO_USD = 1_000_000_000
_MOST_NANO_USD = 2**53
_ROUND = re.compile(r"@+\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """A scheduling problem, with what its tasks stand for.

    Task t is call t; behind the calls there may be gates (see `planner.space.agent_gates`). `first_token_s`
    is per task and mode the time from start to first token.
    """

    problem: SchedulingProblem
    first_token_s: tuple[tuple[float, ...], ...]
    usd: tuple[tuple[float, ...], ...]
    prompt_tokens: tuple[float, ...]
    output_tokens: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A way to stream: on `model` (none for a tool), if the producers run on the models in `needs`."""

    model: str
    needs: dict[str, str]
    stream: Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is left open of streams.

    `variants` are the ways in which consumers may stream instead of waiting. With `eases` the problem is a
    relaxation: its optimum is below that of any models and streams; each consumer named there takes the least
    that any way would, and a join of some producers waits for none.
    """

    variants: dict[str, tuple[Variant, ...]] = field(default_factory=dict[str, tuple[Variant, ...]])
    eases: dict[str, Ease] | None = None


def speed_of(model: AgentModel) -> CallSpeed:
    """Return the speed of calls to a model."""
    return CallSpeed(
        prefill_tokens_per_s=model.prefill_tokens_per_s,
        decode_s_per_token=model.decode_s_per_token,
        overhead_s=model.overhead_s,
    )


def expected(tokens: Tokens) -> float:
    """Return the mean number of tokens, cut at the limit."""
    return mean_below(tokens.mean, tokens.sigma_log, tokens.limit)


def output_tokens(call: FlatCall) -> float:
    """Return the mean output of a call, tokens."""
    work = call.work
    return expected(work.output) if isinstance(work, LlmCall | ToolCall | Human) else 0.0


def usable_models(graph: AgentGraph, call: LlmCall) -> tuple[AgentModel, ...]:
    """Return the models that a call may use and that reach the least quality."""
    floor = graph.min_quality
    known = {m.name: m for m in graph.models}
    found = [known[name] for name in call.models if name in known]
    return tuple(m for m in found if floor is None or (m.quality is not None and m.quality >= floor))


def prompt_tokens(graph: AgentGraph, flow: Flow, call: FlatCall) -> float:
    """Return the mean prompt of a call: its own text, the input and what its producers wrote."""
    if not isinstance(call.work, LlmCall):
        return 0.0
    return own_tokens(graph, call) + sum(producer_tokens(flow, call, e) for e in flow.producers(call))


def own_tokens(graph: AgentGraph, call: FlatCall) -> float:
    """Return the tokens of a prompt that no producer writes."""
    if not isinstance(call.work, LlmCall):
        return 0.0
    total = 0.0
    for part in call.work.prompt:
        if part.kind == "static":
            total += expected(part.tokens) if part.tokens else 0.0
        elif part.kind == "input":
            total += expected(part.tokens or graph.input_tokens)
    return total


def producer_tokens(flow: Flow, call: FlatCall, edge: FlatEdge) -> float:
    """Return the tokens that one edge brings into the consumer's prompt."""
    if not isinstance(call.work, LlmCall):
        return 0.0
    source = flow.calls[edge.source]
    base = _ROUND.sub("", source.node)
    for part in call.work.prompt:
        if part.kind == "node" and _ROUND.sub("", part.source) == base:
            likely = min(source.probability / call.probability, 1.0) if call.probability > 0 else 0.0
            return _written(flow, source, part.tokens) * edge.part * likely
    return 0.0


def _written(flow: Flow, source: FlatCall, given: Tokens | None) -> float:
    """Return the tokens of a producer; a joint passes on those of the copies it waits for."""
    if not source.name.endswith("/done"):
        return output_tokens(source) if given is None else expected(given)
    copies = [c for c in flow.copies[source.node] if c.name != source.name]
    count = source.join or len(copies)
    one = output_tokens(copies[0]) if copies and given is None else expected(given or Tokens(mean=0.0))
    return count * one


@dataclass(kw_only=True)
class _Lowering:
    """State of one lowering."""

    graph: AgentGraph
    flow: Flow
    streams: dict[str, Stream]
    fixed: dict[str, str]
    eases: dict[str, Ease] | None
    variants: dict[str, tuple[Variant, ...]]
    resources: list[Resource] = field(default_factory=list[Resource])
    index: dict[str, int] = field(default_factory=dict[str, int])
    earliest: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def flat(self) -> FlatGraph:
        """The calls and edges."""
        return self.flow.flat

    @cached_property
    def number(self) -> dict[str, int]:
        """The index of each call's task."""
        return {c.name: i for i, c in enumerate(self.flat.calls)}

    def resource(self, name: str, capacity: int, *, renewable: bool = True) -> int:
        """Return the number of a resource, adding it if it is new."""
        if name not in self.index:
            self.index[name] = len(self.resources)
            self.resources.append(Resource(name=name, capacity=capacity, renewable=renewable))
        return self.index[name]


def lower(
    graph: AgentGraph,
    flow: Flow,
    streams: dict[str, Stream],
    fixed: dict[str, str],
    choice: Choice | None = None,
) -> Lowered:
    """Return the scheduling problem of a flat graph.

    Parameters
    ----------
    graph
        The graph, for models, limits and the goal.
    flow
        Its calls.
    streams
        Streaming consumers by name; every other edge waits.
    fixed
        Models that are decided, by call.
    choice
        What is left open of streams, see there.
    """
    flat = flow.flat
    eases = None if choice is None else choice.eases
    low = _Lowering(
        graph=graph,
        flow=flow,
        streams=streams,
        fixed=fixed,
        eases=eases,
        variants={} if choice is None else choice.variants,
    )
    prompts = tuple(_awaited_prompt(low, c, _awaited(low, c)) for c in flat.calls)
    tasks: list[Task] = []
    firsts: list[tuple[float, ...]] = []
    prices: list[tuple[float, ...]] = []
    for call, prompt in zip(flat.calls, prompts, strict=True):
        rows = _modes(low, call, prompt)
        firsts.append(tuple(first for _, first, _ in rows))
        prices.append(tuple(usd for _, _, usd in rows))
        tasks.append(_task(low, call, rows))
    tasks = [_with_needs(low, task) for task in tasks]
    gates, few = gated(*_timed(low, tasks))
    problem = SchedulingProblem(
        name=graph.name,
        tasks=gates,
        resources=tuple(low.resources),
        lags=few,
        period_s=graph.period_s,
        makespan_weight=1.0 if graph.goal == "min_latency" and not _has_early_joins(flat) else 0.0,
    )
    return Lowered(
        problem=problem,
        first_token_s=tuple(firsts),
        usd=tuple(prices),
        prompt_tokens=prompts,
        output_tokens=tuple(output_tokens(c) for c in flat.calls),
    )


def _timed(low: _Lowering, tasks: list[Task]) -> tuple[list[Task], list[Lag]]:
    """Return the lags between calls, and the calls' tasks with what a relaxation adds to them."""
    if low.eases is None:
        return tasks, _lags(low, tasks)
    edges = {c.name: [e.source for e in _awaited(low, c)] for c in low.flat.calls}
    return eased(low.number, edges, low.eases, tasks)


def _has_early_joins(flat: FlatGraph) -> bool:
    return any(c.join is not None for c in flat.calls)


def _task(low: _Lowering, call: FlatCall, rows: list[tuple[Mode, float, float]]) -> Task:
    final = call.name in low.flat.finals
    deadlines = [d for d in (call.deadline_s, low.graph.deadline_s if final else None) if d is not None]
    weight = 1.0 / len(low.flat.finals) if final and _weighs_finals(low) else 0.0
    return Task(
        name=call.name,
        modes=tuple(mode for mode, _, _ in rows),
        deadline_s=min(deadlines, default=None),
        weight=weight,
    )


def _weighs_finals(low: _Lowering) -> bool:
    goal = low.graph.goal
    return goal == "min_ttft" or (goal == "min_latency" and _has_early_joins(low.flat))


def _modes(low: _Lowering, call: FlatCall, prompt: float) -> list[tuple[Mode, float, float]]:
    """Return (mode, first token, price) of each way to run a call."""
    demands = _shared_demands(low, call)
    work = call.work
    if isinstance(work, LlmCall):
        models = usable_models(low.graph, work)
        if call.name in low.fixed:
            models = tuple(m for m in models if m.name == low.fixed[call.name])
        ease = low.eases.get(call.name) if low.eases else None
        known = {} if ease is None else ease.spells
        spells = [known.get(m.name) or _spell(low, call, m, prompt) for m in models]
        rows = [_llm_mode(low, call, m, s, demands) for m, s in zip(models, spells, strict=True)]
        if ease is not None and ease.held_s:
            rows = [(_held(mode, ease.held_s[mode.name]), first, usd) for mode, first, usd in rows]
        rows += _variant_modes(low, call, demands)
        return rows
    duration_s = work.latency.mean_s if isinstance(work, ToolCall | Human) else 0.0
    duration_s *= call.probability
    if isinstance(work, ToolCall) and work.limit is not None:
        tool = low.resource(f"tool {work.tool}", work.limit)
        demands = (*demands, Demand(resource=tool, amount=1))
    waiting = (Mode(name="", duration_s=duration_s, demands=demands), duration_s, 0.0)
    return [waiting, *(waiting for _ in low.variants.get(call.name, ()))]


def _held(mode: Mode, held_s: float) -> Mode:
    """Return a mode that holds what it takes for so long at most."""
    demands = tuple(
        d if d.hold_s is not None else replace(d, hold_s=min(held_s, mode.duration_s)) for d in mode.demands
    )
    return replace(mode, demands=demands)


def _variant_modes(
    low: _Lowering, call: FlatCall, demands: tuple[Demand, ...]
) -> list[tuple[Mode, float, float]]:
    """Return the modes in which a call streams; without its producers' models, see `_with_needs`."""
    prompt = prompt_tokens(low.graph, low.flow, call)
    return [
        _llm_mode(low, call, low.graph.model(v.model), _streamed(v.stream, prompt), demands)
        for v in low.variants.get(call.name, ())
    ]


def _with_needs(low: _Lowering, task: Task) -> Task:
    """Return a task whose streaming modes, the last ones, say on which models producers must run."""
    variants = low.variants.get(task.name, ())
    if not variants:
        return task
    first = len(task.modes) - len(variants)
    modes = [
        replace(mode, needs=tuple((low.number[source], model) for source, model in sorted(v.needs.items())))
        for mode, v in zip(task.modes[first:], variants, strict=True)
    ]
    return replace(task, modes=(*task.modes[:first], *modes))


def _shared_demands(low: _Lowering, call: FlatCall) -> tuple[Demand, ...]:
    if call.parallel is None:
        return ()
    return (Demand(resource=low.resource(f"copies of {call.group}", call.parallel), amount=1),)


def _spell(low: _Lowering, call: FlatCall, model: AgentModel, prompt: float) -> Spell:
    """Return the times of a call as it streams, or on its whole prompt."""
    speed, output = speed_of(model), output_tokens(call)
    stream = low.streams.get(call.name)
    if stream is not None:
        return _streamed(stream, prompt)
    whole_s = speed.whole_s(prompt, output)
    return Spell(
        first_token_s=min(speed.first_token_s(prompt), whole_s),
        duration_s=whole_s,
        prefilled_tokens=prompt,
        prompt_tokens=prompt,
    )


def _streamed(stream: Stream, prompt: float) -> Spell:
    return Spell(
        first_token_s=stream.first_token_s,
        duration_s=stream.duration_s,
        prefilled_tokens=stream.prefilled_tokens,
        prompt_tokens=prompt,
    )


def rate_tokens(tokens: float) -> int:
    """Return what a call counts against a rate of tokens: its prompt and its expected answer, whole."""
    return ceil(tokens - 1e-6)


def _llm_mode(
    low: _Lowering, call: FlatCall, model: AgentModel, spell: Spell, shared: tuple[Demand, ...]
) -> tuple[Mode, float, float]:
    first_s, whole_s, prefilled = spell.first_token_s, spell.duration_s, spell.prefilled_tokens
    chance, output = call.probability, output_tokens(call)
    usd = chance * (prefilled * model.usd_per_input_token + output * model.usd_per_output_token)
    demands = [
        *shared,
        Demand(resource=low.resource(f"slots {model.name}", model.slots * model.replicas), amount=1),
    ]
    if model.calls_per_minute is not None:
        rate = low.resource(f"rate {model.name}", model.calls_per_minute)
        demands.append(Demand(resource=rate, amount=1, hold_s=RATE_WINDOW_S))
    if model.tokens_per_minute is not None:
        tokens = low.resource(f"tokens {model.name}", model.tokens_per_minute)
        amount = rate_tokens((spell.prompt_tokens + output) * chance)
        demands.append(Demand(resource=tokens, amount=amount, hold_s=RATE_WINDOW_S))
    if low.graph.budget_usd is not None:
        limit = int(min(low.graph.budget_usd * NANO_USD, _MOST_NANO_USD))
        budget = low.resource("budget", limit, renewable=False)
        demands.append(Demand(resource=budget, amount=ceil(usd * NANO_USD - 1e-6)))
    cost = usd if low.graph.goal == "min_cost" else 0.0
    if call.name in low.flat.finals and low.graph.goal == "min_ttft":
        # the objective weighs ends: take off what lies between first and last token
        cost = -(whole_s - first_s) * chance / len(low.flat.finals)
    mode = Mode(
        name=model.name, duration_s=whole_s * chance, demands=tuple(demands), site=model.name, cost=cost
    )
    return mode, first_s * chance, usd


def _lags(low: _Lowering, tasks: list[Task]) -> list[Lag]:
    number = low.number
    lags: list[Lag] = []
    for call in low.flat.calls:
        edges = _awaited(low, call)
        if call.name in low.variants:
            lags += _variant_lags(low, call, len(tasks[number[call.name]].modes))
            continue
        stream = low.streams.get(call.name)
        for edge in edges:
            ends = number[edge.source], number[edge.target]
            first_s = None if stream is None else stream.starts_s.get(edge.source)
            if stream is None or first_s is None:
                lags.append(Lag(before=ends[0], after=ends[1]))
                continue
            chance = call.probability
            lags.append(Lag(before=ends[0], after=ends[1], kind="start_start", lag_s=first_s * chance))
            if stream.tail_s is not None:
                lags.append(Lag(before=ends[0], after=ends[1], kind="end_end", lag_s=stream.tail_s * chance))
    return lags


def _variant_lags(low: _Lowering, call: FlatCall, num_modes: int) -> list[Lag]:
    """Return the lags of a call that may wait or stream, each under the modes that ask for it."""
    variants, after = low.variants[call.name], low.number[call.name]
    first = num_modes - len(variants)
    lags: list[Lag] = []
    for edge in _awaited(low, call):
        before = low.number[edge.source]
        waits = [*range(first)]
        starts: dict[float, list[int]] = {}
        tails: dict[float, list[int]] = {}
        for mode, variant in enumerate(variants, start=first):
            stream = variant.stream
            if edge.source not in stream.starts_s:
                waits.append(mode)
                continue
            starts.setdefault(stream.starts_s[edge.source] * call.probability, []).append(mode)
            if stream.tail_s is not None:
                tails.setdefault(stream.tail_s * call.probability, []).append(mode)
        lags.append(Lag(before=before, after=after, after_modes=tuple(waits)))
        lags += [
            Lag(before=before, after=after, kind="start_start", lag_s=lag_s, after_modes=tuple(modes))
            for lag_s, modes in starts.items()
        ]
        lags += [
            Lag(before=before, after=after, kind="end_end", lag_s=lag_s, after_modes=tuple(modes))
            for lag_s, modes in tails.items()
        ]
    return lags


def _awaited(low: _Lowering, call: FlatCall) -> Sequence[FlatEdge]:
    """Return the edges that a call waits for: all, or those of the m producers that can be ready first."""
    edges = low.flow.producers(call)
    if call.join is None or call.join >= len(edges):
        return edges
    if low.eases is not None:
        return ()
    ready = low.earliest or _earliest_ends(low)
    return sorted(edges, key=lambda e: (ready[e.source], e.source))[: call.join]


def _awaited_prompt(low: _Lowering, call: FlatCall, edges: Sequence[FlatEdge]) -> float:
    """Return the mean prompt of a call that starts on `edges` alone: what comes later is not in it."""
    if not isinstance(call.work, LlmCall):
        return 0.0
    return own_tokens(low.graph, call) + sum(producer_tokens(low.flow, call, e) for e in edges)


def _earliest_ends(low: _Lowering) -> dict[str, float]:
    """Return when each call could end if nothing were scarce, with its quickest model."""
    ends = low.earliest
    for call in low.flat.calls:
        edges = low.flow.producers(call)
        first = sorted(edges, key=lambda e: (ends[e.source], e.source))[: call.join or len(edges)]
        start = ends[first[-1].source] if first else 0.0
        prompt = _awaited_prompt(low, call, first)
        ends[call.name] = start + min((m.duration_s for m, _, _ in _modes(low, call, prompt)), default=0.0)
    return ends
