"""What starts when, what is taken, what is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest

from planner.errors import InputError
from planner.plan.schema import Plan
from planner.runtime import Event, RunOptions, Runtime, ToolRequest, bind, execute
from planner.runtime.compiled import compile_plan
from planner.runtime.fake_endpoint import FakeEndpoint, Pace

from .beside import MODELS, beside, record, statuses

PlanOf = Callable[[str], Plan]


def last_user(messages: list[dict[str, str]]) -> str:
    return messages[-1]["content"]


def test_calls_run_beside_each_other_and_prompts_are_filled(plan_of: PlanOf) -> None:
    plan = plan_of(f"""
kind: agents
{MODELS}
nodes:
  a:
    model: m
    prompt: [{{text: be brief, role: system}}, {{text: A}}, input]
    output: {{mean: 8, limit: 8}}
  b: {{model: m, prompt: [{{text: B}}, input], output: {{mean: 8, limit: 8}}}}
  c: {{model: m, prompt: [input, {{from: a}}, {{from: b}}], output: {{mean: 4, limit: 4}}}}
""")

    async def work(endpoint: FakeEndpoint) -> None:
        result = await execute(plan, "why?", {"m": endpoint.url})
        assert result.status == "done"
        assert result.text == "w0 w1 w2 w3 "
        assert endpoint.most_running == 2
        first = endpoint.seen[0].body
        assert first["messages"] == [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "A\n\nwhy?"},
        ]
        assert first["max_tokens"] == 8
        words = "".join(f"w{i} " for i in range(8))
        assert last_user(endpoint.seen[2].messages) == f"why?\n\n{words}\n\n{words}"
        c = record(result, "c")
        assert (c.prompt_tokens > 0, c.output_tokens, c.counted, c.num_attempts) == (True, 4, True, 1)

    beside(work)


def test_a_slow_branch_does_not_hold_up_another(plan_of: PlanOf) -> None:
    """slow (200 ms) and quick (10 ms) are on one level; what follows quick starts when quick ends."""
    plan = plan_of("""
kind: agents
nodes:
  slow: {kind: tool, latency_s: 0.2}
  quick: {kind: tool, latency_s: 0.01}
  after: {kind: tool, latency_s: 0.01}
  last: {kind: tool, latency_s: 0.01}
edges: [quick -> after, after -> last, slow -> last]
""")

    async def tool(request: ToolRequest) -> str:
        await asyncio.sleep(0.2 if request.node == "slow" else 0.01)
        return request.node

    names = ("slow", "quick", "after", "last")
    result = asyncio.run(execute(plan, "", {}, tools=dict.fromkeys(names, tool)))
    assert (record(result, "after").end_s or 9) < 0.1
    for call in result.calls:
        needed = {"after": ["quick"], "last": ["after", "slow"]}.get(call.name, [])
        ready = max((record(result, n).end_s or 0.0 for n in needed), default=0.0)
        assert (call.start_s or 0.0) - ready < 0.05


def test_staircase_starts_on_first_chunks_and_ends_with_all(plan_of: PlanOf) -> None:
    plan = plan_of("""
kind: agents
goal: min_ttft
streaming: {min_first_chunk: 8, e2e_slack: 1}
models: {m: {prefill_tokens_per_s: 1e6, decode_s_per_token: 0.004, overhead_s: 0.001, slots: 9}}
nodes:
  a: {model: m, prompt: [input], output: {mean: 64, limit: 64}}
  b: {model: m, prompt: [input], output: {mean: 64, limit: 64}}
  z: {model: m, prompt: [input, {from: a}, {from: b}], output: {mean: 64, limit: 64}, partial_inputs: true}
""")
    assert {e["kind"] for e in plan.details["edges"]} == {"staircase"}  # pyright: ignore

    async def work(endpoint: FakeEndpoint) -> None:
        result = await execute(plan, "why?", {"m": endpoint.url})
        z, a = record(result, "z"), record(result, "a")
        assert (z.first_s or 9) < (a.end_s or 0) / 2
        assert (z.end_s or 0) > (a.end_s or 9)
        assert z.num_rounds > 1
        assert 0 < (z.evidence or 0) < 0.5
        rounds = endpoint.seen[2:]
        assert all(r.aborted for r in rounds[:-1])
        assert not rounds[-1].aborted
        # append-only: what was sent before stays in front, so that a prefix cache holds it
        for before, after in pairwise(rounds):
            assert after.messages[: len(before.messages)] == before.messages
            assert after.messages[len(before.messages)]["role"] == "assistant"
        sent = "".join(m["content"] for m in rounds[-1].messages)
        assert "w63" in sent

    beside(work, Pace(overhead_s=0.001, decode_s_per_token=0.004))


def test_prefilled_staircase_rebuilds_the_prompt(plan_of: PlanOf) -> None:
    plan = plan_of("""
kind: agents
goal: min_ttft
streaming: {min_first_chunk: 8, e2e_slack: 1}
models: {m: {prefill_tokens_per_s: 1e6, decode_s_per_token: 0.004, overhead_s: 0.001, slots: 9}}
nodes:
  a: {model: m, prompt: [input], output: {mean: 48, limit: 48}}
  z: {model: m, prompt: [input, {from: a}], output: {mean: 64, limit: 64}, partial_inputs: true}
""")

    async def work(endpoint: FakeEndpoint) -> None:
        await execute(plan, "why?", {"m": {"url": endpoint.url, "continuation": "prefill"}})
        last = endpoint.seen[-1]
        assert [m["role"] for m in last.messages] == ["user", "assistant"]
        assert last.body["continue_final_message"] is True
        assert "w47" in last.messages[0]["content"]

    beside(work, Pace(overhead_s=0.001, decode_s_per_token=0.004))


def test_overlap_warms_the_prefix_and_answers_once(plan_of: PlanOf) -> None:
    plan = plan_of("""
kind: agents
models:
  m: {prefill_tokens_per_s: 3000, decode_s_per_token: 0.003, overhead_s: 0.0001, slots: 9,
      cache_block_tokens: 16}
nodes:
  a: {model: m, prompt: [{static: 3000}, input], output: {mean: 200, limit: 200}}
  z: {model: m, prompt: [{static: 3000}, input, {from: a}], output: {mean: 4, limit: 4}}
""")
    assert {e["kind"] for e in plan.details["edges"]} == {"overlap"}  # pyright: ignore

    async def work(endpoint: FakeEndpoint) -> None:
        result = await execute(plan, "why?", {"m": endpoint.url})
        warm = [s for s in endpoint.seen if s.body.get("max_tokens") == 1]
        assert warm
        whole = next(s for s in endpoint.seen if s.body.get("max_tokens") == 4).messages[0]["content"]
        assert all(whole.startswith(w.messages[0]["content"]) for w in warm)
        assert record(result, "z").num_attempts == 1
        assert any("3000 tokens of its prompt" in note for note in result.notes)

    beside(work, Pace(decode_s_per_token=0.001))


def test_items_start_copies_one_by_one(plan_of: PlanOf) -> None:
    plan = plan_of("""
kind: agents
models: {m: {prefill_tokens_per_s: 1e6, decode_s_per_token: 0.01, overhead_s: 0.0, slots: 9}}
nodes:
  list: {model: m, prompt: [input], output: 15}
  work: {kind: tool, latency_s: 0.05, copies: 3, limit: 1}
edges: [{from: list, to: work, kinds: [items]}]
""")
    assert "items" in {e["kind"] for e in plan.details["edges"]}  # pyright: ignore
    got: list[str] = []

    async def tool(request: ToolRequest) -> str:
        got.append(request.arguments)
        await asyncio.sleep(0.05)
        return request.arguments.upper()

    async def work(endpoint: FakeEndpoint) -> None:
        result = await execute(plan, "", {"m": endpoint.url}, tools={"work": tool})
        assert got == ["first item", "second item", "third\nfourth"]
        assert (record(result, "work[0]").start_s or 9) < (record(result, "list").end_s or 0)
        assert any("4 items for 3 copies" in n for n in result.notes)

    beside(work, Pace(decode_s_per_token=0.01), reply=lambda _: "first item\nsecond item\nthird\nfourth\n")  # pyright: ignore


def test_fewer_items_than_copies_skips_copies(plan_of: PlanOf) -> None:
    plan = plan_of(f"""
kind: agents
{MODELS}
nodes:
  list: {{model: m, prompt: [input], output: 6}}
  work: {{kind: tool, latency_s: 0, copies: 3}}
  last: {{kind: tool, latency_s: 0}}
edges: [{{from: list, to: work, kinds: [items]}}, work -> last]
""")

    async def work(endpoint: FakeEndpoint) -> None:
        tools = {"work": lambda r: r.arguments, "last": lambda r: r.inputs["work"]}  # pyright: ignore
        result = await execute(plan, "", {"m": endpoint.url}, tools=tools)
        assert statuses(result)["work[2]"] == "skipped"
        assert result.text == "[1] one\n\n[2] two"

    beside(work, reply=lambda _: '["one", "two"]')  # pyright: ignore


def test_best_of_n_stops_early_and_the_losers_are_gone(plan_of: PlanOf) -> None:
    plan = plan_of("""
kind: agents
models: {m: {prefill_tokens_per_s: 1e6, decode_s_per_token: 0.01, overhead_s: 0.0, slots: 9}}
nodes:
  draft: {model: m, prompt: [input], output: {mean: 400, limit: 400}, samples: 4, keep: 1}
  judge: {model: m, prompt: [{from: draft}], output: {mean: 2, limit: 2}}
""")
    lengths = iter([400, 400, 10, 400, 2])

    async def work(endpoint: FakeEndpoint) -> None:
        result = await execute(plan, "why?", {"m": endpoint.url})
        found = statuses(result)
        assert sorted(found[f"draft[{i}]"] for i in range(4)) == ["cancelled"] * 3 + ["done"]
        assert found["judge"] == "done"
        assert result.latency_s < 2
        await asyncio.sleep(0.05)
        assert sum(s.aborted for s in endpoint.seen) == 3
        assert endpoint.num_running == 0

    reply = lambda _: "abcd" * next(lengths)  # pyright: ignore # noqa: E731
    beside(work, Pace(decode_s_per_token=0.01), reply=reply)  # pyright: ignore


def test_any_join_cancels_losers_but_not_side_effects(plan_of: PlanOf) -> None:
    plan = plan_of("""
kind: agents
nodes:
  quick: {kind: tool, latency_s: 0.01}
  slow: {kind: tool, latency_s: 5}
  mail: {kind: tool, latency_s: 0.1, side_effects: true}
  last: {kind: tool, latency_s: 0, join: any}
edges: [quick -> last, slow -> last, mail -> last]
""")
    ended: list[str] = []

    async def tool(request: ToolRequest) -> str:
        await asyncio.sleep({"quick": 0.01, "slow": 5, "mail": 0.1}.get(request.tool, 0))
        ended.append(request.tool)
        return request.tool

    names = ("quick", "slow", "mail", "last")
    result = asyncio.run(execute(plan, "", {}, tools=dict.fromkeys(names, tool)))
    assert statuses(result) == {"quick": "done", "slow": "cancelled", "mail": "done", "last": "done"}
    assert ended == ["quick", "last", "mail"]
    assert result.text == "last"


def test_cascade_takes_the_large_model_only_when_the_small_one_is_unsure(plan_of: PlanOf) -> None:
    plan = plan_of(f"""
kind: agents
{MODELS}
nodes:
  small: {{model: m, prompt: [input], output: 8}}
  check: {{kind: router}}
  large: {{model: m, prompt: [{{text: think}}, input], output: 8}}
  last: {{kind: tool, latency_s: 0}}
edges:
  - small -> check
  - {{from: check, to: large, probability: 0.3, when: {{contains: unsure}}}}
  - {{from: check, to: last, probability: 0.7}}
  - large -> last
""")

    def reply(messages: list[dict[str, str]]) -> str:
        content = messages[0]["content"]
        return "42" if content.startswith("think") else "unsure" if "hard" in content else "7"

    async def work(endpoint: FakeEndpoint) -> None:
        runtime = Runtime(plan, bind({"m": endpoint.url}, {"last": lambda r: r.arguments}))  # pyright: ignore
        async with runtime:
            easy, hard = await asyncio.gather(runtime.run("easy"), runtime.run("hard"))
        assert (easy.text, statuses(easy)["large"]) == ("7", "skipped")
        assert (hard.text, statuses(hard)["large"]) == ("42", "done")

    beside(work, reply=reply)


def test_loops_go_round_while_their_condition_holds_and_never_past_the_bound(plan_of: PlanOf) -> None:
    plan = plan_of(f"""
kind: agents
{MODELS}
nodes:
  draft: {{model: m, prompt: [{{text: draft}}, input, {{from: review}}], output: 8}}
  review: {{model: m, prompt: [{{text: review}}, {{from: draft}}], output: 8}}
  last: {{kind: tool, latency_s: 0}}
edges:
  - draft -> review
  - {{from: review, to: draft, max_rounds: 3, probability: 0.5, when: {{not_contains: fine}}}}
  - review -> last
""")

    def reviewer(fine_after: int) -> Callable[[list[dict[str, str]]], str]:
        count = 0

        def reply(messages: list[dict[str, str]]) -> str:
            nonlocal count
            content = messages[0]["content"]
            if content.startswith("draft"):
                return "draft after " + content.rpartition("\n\n")[2]
            count += 1
            return "fine" if count > fine_after else f"again {count}"

        return reply

    def rounds(fine_after: int) -> tuple[str, list[str]]:
        async def work(endpoint: FakeEndpoint) -> tuple[str, list[str]]:
            result = await execute(plan, "q", {"m": endpoint.url}, tools={"last": lambda r: r.arguments})  # pyright: ignore
            drafts = [s.messages[0]["content"] for s in endpoint.seen if s.messages[0]["content"][0] == "d"]
            return result.text, drafts

        return beside(work, reply=reviewer(fine_after))

    assert rounds(0) == ("fine", ["draft\n\nq"])
    assert rounds(1)[0] == "fine"
    assert rounds(1)[1][1] == "draft\n\nq\n\nagain 1"
    text, drafts = rounds(99)
    assert (text, len(drafts)) == ("again 3", 3)


def test_nested_graphs_get_what_the_node_was_given(plan_of: PlanOf) -> None:
    plan = plan_of(f"""
kind: agents
{MODELS}
nodes:
  a: {{model: m, prompt: [input], output: 4}}
  body:
    kind: graph
    graph: {{nodes: {{inner: {{model: m, prompt: [{{text: inner}}, input], output: 4}}}}}}
  z: {{model: m, prompt: [{{from: body}}], output: 4}}
edges: [a -> body, body -> z]
""")

    async def work(endpoint: FakeEndpoint) -> None:
        await execute(plan, "q", {"m": endpoint.url})
        assert [s.messages[0]["content"] for s in endpoint.seen] == ["q", "inner\n\n<q>", "<inner\n\n<q>>"]

    beside(work, reply=lambda messages: f"<{messages[0]['content']}>")  # pyright: ignore


def test_limits_hold_over_all_runs(plan_of: PlanOf) -> None:
    plan = plan_of("""
kind: agents
models: {m: {prefill_tokens_per_s: 1e6, decode_s_per_token: 0.001, overhead_s: 0.0, slots: 3}}
nodes: {w: {model: m, prompt: [input], output: {mean: 5, limit: 5}, copies: 4, parallel: 2}}
""")

    async def work(endpoint: FakeEndpoint) -> None:
        async with Runtime(plan, bind({"m": endpoint.url})) as runtime:
            results = await asyncio.gather(*(runtime.run(f"q{i}") for i in range(5)))
        assert endpoint.most_running == 3
        assert len(endpoint.seen) == 20
        assert any(c.waited_s > 0 for r in results for c in r.calls)

    beside(work)


def test_streams_to_whoever_listens(plan_of: PlanOf) -> None:
    plan = plan_of(f"kind: agents\n{MODELS}\nnodes: {{a: {{model: m, prompt: [input], output: 8}}}}\n")

    async def work(endpoint: FakeEndpoint) -> None:
        events: list[Event] = []
        result = await execute(plan, "q", {"m": endpoint.url}, options=RunOptions(on_event=events.append))
        pieces = [e.text for e in events if e.kind == "text"]
        assert len(pieces) == 8
        assert "".join(pieces) == result.text
        assert [e.status for e in events if e.kind == "status"] == ["running", "done"]

    beside(work)


def test_plans_that_do_not_fit_their_graph_are_refused(plan_of: PlanOf) -> None:
    nodes = "nodes: {a: {model: m, output: 8}, b: {model: m, output: 8}}"
    plan = plan_of(f"kind: agents\n{MODELS}\n{nodes}\n")
    calls: list[dict[str, object]] = plan.details["calls"]  # pyright: ignore
    for changed, words in (
        (calls[:1], "calls are not those of its graph"),
        ([{**c, "model": "other"} for c in calls], "does not allow"),
    ):
        mutant = plan.model_copy(update={"details": {**plan.details, "calls": changed}})
        with pytest.raises(InputError, match=words):
            compile_plan(mutant)


def test_long_chains_of_calls_that_are_not_taken_or_needed(plan_of: PlanOf) -> None:
    """A loop of 300 rounds that ends after one, and a race whose loser has a long way behind it."""
    loop = plan_of("""
kind: agents
search: {time_limit: 0.2s}
nodes: {a: {kind: tool, latency_s: 0}, b: {kind: router}, z: {kind: tool, latency_s: 0}}
edges:
  - a -> b
  - {from: b, to: a, max_rounds: 300, probability: 0.1, when: {contains: again}}
  - b -> z
""")
    tools = {"a": lambda _: "done", "z": lambda r: r.arguments}  # pyright: ignore
    result = asyncio.run(execute(loop, "", {}, tools=tools))
    assert result.text == "done"
    assert sum(c.status == "skipped" for c in result.calls) == 299 * 2
    chain = "".join(f"  c{i}: {{kind: tool, latency_s: 0.001}}\n" for i in range(400))
    edges = ", ".join(f"c{i} -> c{i + 1}" for i in range(399))
    race = plan_of(f"""
kind: agents
search: {{time_limit: 0.2s}}
nodes:
  quick: {{kind: tool, latency_s: 0}}
  z: {{kind: tool, latency_s: 0, join: any}}
{chain}
edges: [{edges}, c399 -> z, quick -> z]
""")

    async def never(_: ToolRequest) -> str:
        await asyncio.sleep(9)
        return ""

    tools = dict.fromkeys((f"c{i}" for i in range(400)), never) | {"quick": lambda _: "q", "z": lambda _: "z"}  # pyright: ignore
    result = asyncio.run(execute(race, "", {}, tools=tools))
    assert result.text == "z"
    assert sum(c.status == "cancelled" for c in result.calls) == 400
