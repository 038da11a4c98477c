"""Decoder of events, limits, conditions, lists, priorities, spans."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.ir.agent_graph import Condition, TextTest
from planner.plan.schema import Plan
from planner.runtime import RunOptions, Runtime, bind, execute
from planner.runtime.clients import sse
from planner.runtime.clients.sse import EventTooLargeError, SseDecoder
from planner.runtime.fake_endpoint import FakeEndpoint
from planner.runtime.limits import Limiter
from planner.runtime.prompts import items_of
from planner.runtime.routing import holds

from .beside import MODELS, beside

PlanOf = Callable[[str], Plan]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    data=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1), max_size=5),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
)
def test_events_come_out_whole_however_they_are_cut(data: list[str], end: str, cuts: list[int]) -> None:
    stream = "".join(f": note{end}id: 1{end}data: {d}{end}{end}" for d in data).encode() + b"\n"
    decoder, found, at, i = SseDecoder(), list[bytes](), 0, 0
    while at < len(stream):
        size = cuts[i % len(cuts)]
        found += decoder.feed(stream[at : at + size])
        at, i = at + size, i + 1
    assert [f.decode() for f in found] == data


def test_events_of_several_lines_and_endless_events(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SseDecoder().feed(b"data:a\ndata: b\n\n") == [b"a\nb"]
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    with pytest.raises(EventTooLargeError):
        SseDecoder().feed(b"data: " + b"x" * 200)


def test_limits_serve_by_priority_and_survive_cancellation() -> None:
    async def work() -> list[str]:
        limiter, order = Limiter(1), list[str]()

        async def call(name: str, priority: float) -> None:
            await limiter.acquire(priority)
            order.append(name)
            await asyncio.sleep(0.01)
            limiter.release()

        tasks = [
            asyncio.create_task(call(n, p)) for n, p in (("first", 9), ("late", 5), ("gone", 0), ("soon", 1))
        ]
        await asyncio.sleep(0.001)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(limiter.acquire(0), 1)
        return order

    assert asyncio.run(work()) == ["first", "soon", "late"]


def test_rates_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.runtime.limits.RATE_WINDOW_S", 0.2)

    async def work() -> list[float]:
        limiter, times = Limiter(None, 2), list[float]()
        loop = asyncio.get_running_loop()

        async def call() -> None:
            await limiter.acquire(0)
            times.append(loop.time())

        await asyncio.gather(*(call() for _ in range(5)))
        return times

    times = asyncio.run(work())
    assert all(times[i + 2] - times[i] >= 0.2 for i in range(3))
    assert times[-1] - times[0] < 0.7


def test_rates_of_tokens_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.runtime.limits.RATE_WINDOW_S", 0.2)

    async def work() -> list[float]:
        limiter, times = Limiter(None, None, 100), list[float]()
        loop = asyncio.get_running_loop()

        async def call(tokens: float) -> None:
            await limiter.acquire(0, tokens)
            times.append(loop.time())

        # two of 50 fit, the one of more than a whole window goes alone
        await asyncio.gather(*(call(t) for t in (50, 50, 50, 900)))
        return times

    times = asyncio.run(work())
    assert times[1] - times[0] < 0.1
    assert times[2] - times[0] >= 0.2
    assert times[3] - times[2] >= 0.2


@pytest.mark.parametrize(
    ("test", "value", "text", "expected"),
    [
        ("contains", "yes", "oh yes", True),
        ("contains", "yes", "Yes", False),
        ("matches", r"(?i)^score: [6-9]", "Score: 7", True),
        ("equals", "done", " done\n", True),
        ("longer_than", "3", "abc", False),
        ("longer_than", "3", "abcd", True),
        ("at_least", "0.8", "score 0.3, no: 0.85", True),
        ("at_least", "0.8", "no number", False),
        ("at_most", "2", "it is -3.5e0", True),
    ],
)
def test_conditions(test: TextTest, value: str, text: str, *, expected: bool) -> None:
    assert holds(Condition(test=test, value=value), text) is expected
    assert holds(Condition(test=test, value=value, negate=True), text) is not expected


def test_lists_are_lines_or_json() -> None:
    assert items_of("a\n\n b \nc", whole=True) == ["a", "b", "c"]
    assert items_of("a\nb\nc", whole=False) == ["a", "b"]
    assert items_of('["a", {"b": 1}]', whole=True) == ["a", '{"b": 1}']
    assert items_of('["a",\n', whole=False) == []
    assert items_of("[not json\nx", whole=True) == ["[not json", "x"]


def test_dynamo_gets_priority_and_expected_length(plan_of: PlanOf) -> None:
    plan = plan_of(f"""
kind: agents
{MODELS}
nodes:
  short: {{model: m, prompt: [input], output: 10}}
  long: {{model: m, prompt: [input], output: 100}}
  z: {{model: m, prompt: [{{from: short}}, {{from: long}}], output: 20}}
""")

    async def work(endpoint: FakeEndpoint) -> None:
        await execute(plan, "q", {"m": {"url": endpoint.url, "hints": "dynamo"}})
        hints = [s.body["nvext"]["agent_hints"] for s in endpoint.seen]
        assert sorted(h["osl"] for h in hints) == [10, 20, 100]
        by_length = {h["osl"]: h["priority"] for h in hints}
        assert by_length[100] == by_length[20] == 100 > by_length[10]

    beside(work)


def test_branches_are_drawn_when_asked_for(plan_of: PlanOf) -> None:
    plan = plan_of("""
kind: agents
nodes: {r: {kind: router}, t: {kind: tool, latency_s: 0}, u: {kind: tool, latency_s: 0}}
edges: [{from: r, to: t, probability: 0.25}, {from: r, to: u, probability: 0.75}]
""")
    tools = {"t": lambda _: "t", "u": lambda _: "u"}  # pyright: ignore

    async def work() -> list[str]:
        from dataclasses import replace

        bindings = replace(bind({}, tools), routes="sample")
        async with Runtime(plan, bindings) as runtime:
            return [(await runtime.run("", RunOptions(run=f"r{i}"))).text for i in range(200)]

    drawn = asyncio.run(work())
    assert 0.15 < drawn.count("t") / 200 < 0.35
    assert asyncio.run(work()) == drawn
    chosen = asyncio.run(
        execute(plan, "", {}, tools=tools, predicates={"r -> t": lambda _: True, "r -> u": lambda _: False})
    )
    assert chosen.text == "t"


def test_spans_carry_the_attributes_of_the_conventions(plan_of: PlanOf) -> None:
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from planner.runtime.spans import OpenTelemetry

    plan = plan_of(f"""
kind: agents
{MODELS}
nodes: {{a: {{model: m, prompt: [input], output: 8}}, t: {{kind: tool, latency_s: 0}}}}
edges: [a -> t]
""")
    exporter, provider = InMemorySpanExporter(), trace.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def work(endpoint: FakeEndpoint) -> None:
        runtime = Runtime(plan, bind({"m": endpoint.url}, {"t": lambda r: r.arguments}), spans=True)  # pyright: ignore
        tracer = runtime._tracer  # pyright: ignore[reportPrivateUsage]
        assert isinstance(tracer, OpenTelemetry)
        tracer._tracer = provider.get_tracer("test")  # pyright: ignore[reportPrivateUsage]
        async with runtime:
            await runtime.run("q", RunOptions(run="r1"))

    beside(work)
    spans = {s.name: s for s in exporter.get_finished_spans()}
    chat, tool, whole = spans["chat m"], spans["execute_tool t"], spans["invoke_workflow graph"]
    assert chat.parent.span_id == tool.parent.span_id == whole.context.span_id
    assert chat.attributes["gen_ai.usage.output_tokens"] == 8
    assert chat.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert chat.attributes["server.address"] == "127.0.0.1"
    assert tool.attributes["gen_ai.tool.name"] == "t"
    assert whole.attributes["gen_ai.conversation.id"] == "r1"


def test_importing_the_runtime_loads_nothing_heavy() -> None:
    heavy = "[m for m in ('aiohttp', 'pydantic', 'numpy') if m in sys.modules]"
    code = f"import planner.runtime, planner.cli.run, sys; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("hints", "sign"), [("vllm", -1), ("sglang", 1)])
def test_priority_of_the_graph_goes_before_that_of_the_call(plan_of: PlanOf, hints: str, sign: int) -> None:
    text = f"""
kind: agents
{MODELS}
nodes:
  short: {{model: m, prompt: [input], output: 10}}
  long: {{model: m, prompt: [input], output: 100}}
  z: {{model: m, prompt: [{{from: short}}, {{from: long}}], output: 20}}
"""

    async def work(endpoint: FakeEndpoint) -> None:
        for plan in (plan_of(text), plan_of(text + "priority: 1\n")):
            await execute(plan, "q", {"m": {"url": endpoint.url, "hints": hints}})
        priorities = [sign * int(s.body["priority"]) for s in endpoint.seen]
        low, high = priorities[:3], priorities[3:]
        assert len(high) == 3
        assert max(low) == 100 > min(low)
        assert min(high) > max(low)

    beside(work)


def test_runs_take_the_routes_of_a_mixture_in_turn(plan_of: PlanOf) -> None:
    plan = plan_of("""
kind: agents
goal: max_throughput
models:
  s: {prefill_tokens_per_s: 1e9, decode_s_per_token: 0.01, overhead_s: 0, slots: 3}
  t: {prefill_tokens_per_s: 1e9, decode_s_per_token: 0.03, overhead_s: 0, slots: 3}
nodes: {a: {models: [s, t], prompt: [input], output: 10}}
""")

    async def work(endpoint: FakeEndpoint) -> None:
        places = {m: {"url": endpoint.url, "model": m} for m in "st"}
        async with Runtime(plan, bind(places)) as runtime:
            for _ in range(8):
                await runtime.run("q")
        used = [str(s.body["model"]) for s in endpoint.seen]
        assert used.count("s") == 6
        assert used[:4].count("s") == 3

    beside(work)
