"""Endpoints that fail, tools that hang, budgets and deadlines: recovery or a clear error."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from planner.errors import InputError
from planner.plan.schema import Plan
from planner.runtime import RunFailedError, Runtime, ToolBinding, bind, execute
from planner.runtime.fake_endpoint import FakeEndpoint, Pace

from .beside import MODELS, beside, record, statuses

PlanOf = Callable[[str], Plan]
ONE = f"kind: agents\n{MODELS}\nnodes: {{a: {{model: m, prompt: [input], output: {{mean: 8, limit: 8}}}}}}\n"
WHOLE = "".join(f"w{i} " for i in range(8))


def dead_url() -> str:
    """An address on which nothing listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{s.getsockname()[1]}/v1"


@pytest.mark.parametrize("fault", ["429", "500", "reset", "half", "garbage", "not_json", "hang"])
def test_each_fault_is_survived_and_the_answer_is_whole(plan_of: PlanOf, fault: str) -> None:
    async def work(endpoint: FakeEndpoint) -> None:
        how = {"url": endpoint.url, "backoff_s": 0.01, "stall_s": 0.1}
        result = await execute(plan_of(ONE), "q", {"m": how})
        assert result.text == WHOLE
        assert record(result, "a").num_attempts == 2
        await asyncio.sleep(0.05)
        assert endpoint.num_running == 0

    beside(work, faults=(fault,))


@pytest.mark.parametrize("fault", ["500", "garbage", "half", "reset"])
def test_faults_that_stay_end_with_a_clear_error(plan_of: PlanOf, fault: str) -> None:
    async def work(endpoint: FakeEndpoint) -> None:
        with pytest.raises(RunFailedError, match=r"the run failed: a: ") as caught:
            await execute(plan_of(ONE), "q", {"m": {"url": endpoint.url, "backoff_s": 0.01, "retries": 2}})
        assert len(endpoint.seen) == 3
        assert caught.value.result.status == "failed"
        assert record(caught.value.result, "a").status == "failed"

    beside(work, faults=(fault,) * 9)


def test_a_body_that_never_ends_does_not_hold_up_a_whole_answer(plan_of: PlanOf) -> None:
    async def work(endpoint: FakeEndpoint) -> None:
        result = await execute(plan_of(ONE), "q", {"m": endpoint.url})
        a = record(result, "a")
        assert (result.text, a.num_attempts, a.output_tokens) == (WHOLE, 1, 8)
        assert result.latency_s < 1.5

    beside(work, faults=("open",))


def test_a_refusal_is_not_tried_again(plan_of: PlanOf) -> None:
    async def work(endpoint: FakeEndpoint) -> None:
        with pytest.raises(RunFailedError, match=r"400 Refused: .*asked to answer 400"):
            await execute(plan_of(ONE), "q", {"m": endpoint.url})
        assert len(endpoint.seen) == 1

    beside(work, faults=("400",))


def test_retry_after_is_kept_by_all_calls_to_the_server(plan_of: PlanOf) -> None:
    plan = plan_of(ONE.replace("limit: 8}", "limit: 8}, copies: 3, parallel: 1"))

    async def work(endpoint: FakeEndpoint) -> None:
        endpoint.retry_after_s = 0.3
        await execute(plan, "q", {"m": {"url": endpoint.url, "backoff_s": 0.01}})
        times = [s.at_s for s in endpoint.seen]
        assert times[1] - times[0] >= 0.3

    beside(work, faults=("429",))


def test_a_dead_server_is_passed_over(plan_of: PlanOf) -> None:
    async def work(endpoint: FakeEndpoint) -> None:
        how = {"url": [dead_url(), endpoint.url], "backoff_s": 5}
        async with Runtime(plan_of(ONE), bind({"m": how})) as runtime:
            results = [await runtime.run(f"q{i}") for i in range(3)]
        assert [r.text for r in results] == [WHOLE] * 3
        assert [record(r, "a").num_attempts for r in results] == [2, 1, 1]

    beside(work)


def test_another_allowed_model_stands_in(plan_of: PlanOf) -> None:
    plan = plan_of("""
kind: agents
models:
  quick: {prefill_tokens_per_s: 1e6, decode_s_per_token: 0.001, overhead_s: 0.0, quality: 1}
  slow: {prefill_tokens_per_s: 1e6, decode_s_per_token: 0.1, overhead_s: 0.0, quality: 1}
nodes: {a: {models: [quick, slow], prompt: [input], output: {mean: 8, limit: 8}}}
""")

    async def work(endpoint: FakeEndpoint) -> None:
        quick = {"url": dead_url(), "retries": 1, "backoff_s": 0.01}
        result = await execute(plan, "q", {"quick": quick, "slow": endpoint.url})
        assert result.text == WHOLE
        assert record(result, "a").model == "slow"
        assert any("slow stands in" in note for note in result.notes)

    beside(work)


def test_a_cut_stream_does_not_repeat_what_was_streamed(plan_of: PlanOf) -> None:
    from planner.runtime import Event, RunOptions

    async def work(endpoint: FakeEndpoint) -> None:
        events: list[Event] = []
        how = {"url": endpoint.url, "backoff_s": 0.01}
        await execute(plan_of(ONE), "q", {"m": how}, options=RunOptions(on_event=events.append))
        assert "".join(e.text for e in events) == WHOLE
        assert not any(e.restart for e in events)

    beside(work, faults=("half",))


def test_an_answer_that_comes_out_differently_is_told_from_its_beginning(plan_of: PlanOf) -> None:
    from planner.runtime import Event, RunOptions

    texts = iter(["old text that is cut", "new text that stays, all of it"])

    async def work(endpoint: FakeEndpoint) -> None:
        events: list[Event] = []
        how = {"url": endpoint.url, "backoff_s": 0.01}
        plan = plan_of(ONE.replace(", limit: 8", ""))
        result = await execute(plan, "q", {"m": how}, options=RunOptions(on_event=events.append))
        restart = max(i for i, e in enumerate(events) if e.restart)
        assert "".join(e.text for e in events[restart:]) == result.text == "new text that stays, all of it"

    beside(work, faults=("half",), reply=lambda _: next(texts))  # pyright: ignore


def test_failure_policies(plan_of: PlanOf) -> None:
    text = f"""
kind: agents
{MODELS}
nodes:
  a: {{kind: tool, latency_s: 0, on_failure: skip}}
  b: {{kind: tool, latency_s: 0}}
  z: {{model: m, prompt: [input, {{from: a}}, {{from: b}}], output: 8}}
"""

    def broken(_: object) -> str:
        raise ValueError("no luck")

    async def work(endpoint: FakeEndpoint) -> None:
        tools = {"a": broken, "b": lambda _: "from b"}
        result = await execute(plan_of(text), "q", {"m": endpoint.url}, tools=tools)
        assert statuses(result) == {"a": "failed", "b": "done", "z": "done"}
        assert endpoint.seen[0].messages[0]["content"] == "q\n\nfrom b"
        assert any("a failed and was done without" in note for note in result.notes)
        with pytest.raises(RunFailedError, match="b: ValueError: no luck"):
            await execute(plan_of(text), "q", {"m": endpoint.url}, tools={"a": broken, "b": broken})

    beside(work)


def test_others_stand_in_where_not_all_are_needed(plan_of: PlanOf) -> None:
    plan = plan_of(f"""
kind: agents
{MODELS}
nodes:
  a: {{kind: tool, latency_s: 0}}
  b: {{kind: tool, latency_s: 0.05}}
  z: {{model: m, prompt: [input, {{from: a}}, {{from: b}}], output: 8, join: 1}}
""")

    def broken(_: object) -> str:
        raise ValueError("no luck")

    async def later(_: object) -> str:
        await asyncio.sleep(0.05)
        return "b"

    async def work(endpoint: FakeEndpoint) -> None:
        result = await execute(plan, "q", {"m": endpoint.url}, tools={"a": broken, "b": later})
        assert statuses(result) == {"a": "failed", "b": "done", "z": "done"}

    beside(work)


def test_a_tool_that_hangs_is_cut(plan_of: PlanOf) -> None:
    import time

    plan = plan_of("kind: agents\nnodes: {t: {kind: tool, latency_s: 0.01}}\n")
    for binding in (
        ToolBinding(function=lambda _: time.sleep(2) or "", timeout_s=0.1),
        ToolBinding(command=("sh", "-c", "sleep 30 & sleep 30"), timeout_s=0.1),
    ):
        begin = time.monotonic()
        with pytest.raises(RunFailedError, match=r"t: the tool did not end within 0\.1 s"):
            asyncio.run(execute(plan, "", {}, tools={"t": binding}))
        assert time.monotonic() - begin < 1.5


def test_commands_get_json_and_no_shell(plan_of: PlanOf) -> None:
    plan = plan_of("""
kind: agents
nodes:
  a: {kind: tool, latency_s: 0}
  t: {kind: tool, latency_s: 0, arguments: "find ${a} for ${input}; rm -rf /"}
edges: [a -> t]
""")
    script = "import json, sys; r = json.load(sys.stdin); print(r['arguments'] + '|' + r['inputs']['a'])"
    command = {"command": ["python3", "-c", script, "$(touch oops)"]}
    result = asyncio.run(execute(plan, "me", {}, tools={"a": lambda _: "it", "t": command}))
    assert result.text == "find it for me; rm -rf /|it"
    failing = {"command": ["python3", "-c", "import sys; sys.exit('sorry')"]}
    with pytest.raises(RunFailedError, match="ended with code 1: sorry"):
        asyncio.run(execute(plan, "me", {}, tools={"a": failing, "t": failing}))
    with pytest.raises(RunFailedError, match="cannot be started"):
        asyncio.run(execute(plan, "me", {}, tools={"a": {"command": "no-such-program"}, "t": failing}))


def test_budget_and_deadlines_stop_a_run(plan_of: PlanOf) -> None:
    text = """
kind: agents
budget_usd: 0.0012
models:
  m: {prefill_tokens_per_s: 1e6, decode_s_per_token: 0.001, overhead_s: 0, usd_per_million_output: 100}
nodes: {a: {model: m, prompt: [input], output: 5}, b: {model: m, prompt: [{from: a}], output: 5}}
"""

    async def overspend(endpoint: FakeEndpoint) -> None:
        # the first call writes 8 tokens where 5 were planned: 0.0008 usd, and 0.0005 more do not fit
        with pytest.raises(RunFailedError, match=r"b: the budget of 0\.0012 usd does not hold this call"):
            await execute(plan_of(text), "q", {"m": endpoint.url})
        assert len(endpoint.seen) == 1

    beside(overspend)

    async def late(endpoint: FakeEndpoint) -> None:
        with pytest.raises(RunFailedError, match=r"the deadline of 0\.2 s passed"):
            await execute(plan_of(ONE + "deadline_s: 0.2\n"), "q", {"m": endpoint.url})
        await asyncio.sleep(0.05)
        assert endpoint.num_running == 0
        plan = plan_of(ONE.replace("output:", "deadline_s: 0.1, output:"))
        with pytest.raises(RunFailedError, match=r"a: its deadline of 0\.1 s passed"):
            await execute(plan, "q", {"m": endpoint.url})

    beside(late, Pace(overhead_s=5))


def test_what_nothing_stands_behind_is_told_before_anything_runs(plan_of: PlanOf) -> None:
    plan = plan_of(f"""
kind: agents
{MODELS}
nodes:
  a: {{model: m, output: 8}}
  t: {{kind: tool, latency_s: 0}}
  u: {{kind: tool, latency_s: 0}}
edges: [{{from: a, to: t, probability: 0.5}}, {{from: a, to: u, probability: 0.5}}]
""")
    tool = {"t": lambda _: "", "u": lambda _: ""}  # pyright: ignore
    url = "http://127.0.0.1:9/v1"
    for endpoints, tools, words in (
        ({}, tool, "the model has no endpoint, and node 'a' needs it.*endpoints: {m:"),
        ({"m": url}, {}, "the tool has nothing behind it, and node 't' needs it"),
        ({"m": url}, tool, "nothing decides at run time whether this branch is taken.*probability 0.5"),
        ({"m": url, "n": url}, tool, "an endpoint for a model that the plan does not know"),
        ({"m": "ftp://x"}, tool, "not an address"),
        ({"m": {"url": url, "retires": 1}}, tool, "Did you mean 'retries'"),
        ({"m": {"url": url, "stall_s": float("nan")}}, tool, "seconds are expected"),
        ({"m": {"url": url, "headers": {"a": "b\r\nc: d"}}}, tool, "a header is one line"),
        ({"m": {"url": url, "api_key_env": "NO_SUCH_KEY_HERE"}}, tool, "no such environment variable"),
    ):
        with pytest.raises(InputError, match=words):
            asyncio.run(execute(plan, "", endpoints, tools=tools))  # pyright: ignore
