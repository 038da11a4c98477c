"""Flattening, probabilities and lowering of agent graphs, against values derived by hand."""

from __future__ import annotations

import pytest

from planner.errors import InputError
from planner.frontend.agent_graphs import parse_agent_graph
from planner.space.agent_flat import FlatGraph, flow_of
from planner.space.agent_flatten import flatten
from planner.space.agent_lower import lower, prompt_tokens

MODELS = "models: {m: {prefill_tokens_per_s: 1000, decode_s_per_token: 0.01, overhead_s: 0.1, slots: 4}}\n"


def _flat(nodes: str, rest: str = "") -> FlatGraph:
    return flatten(parse_agent_graph(f"{MODELS}nodes:\n{nodes}{rest}"))


def _chances(flat: FlatGraph) -> dict[str, float]:
    return {c.name: round(c.probability, 6) for c in flat.calls}


def test_branches_exclude_each_other_and_meet_again() -> None:
    flat = _flat(
        "  r: {kind: router}\n  a: {model: m, output: 10}\n"
        "  b: {model: m, output: 10}\n  z: {model: m, output: 10}\n",
        "edges: [{from: r, to: a, probability: 0.3}, {from: r, to: b, probability: 0.7}, a -> z, b -> z]\n",
    )
    assert _chances(flat) == {"r": 1, "a": 0.3, "b": 0.7, "z": 1}


def test_what_follows_one_branch_twice_counts_once() -> None:
    # b and c run only together, so d runs with 0.3, not 0.6
    flat = _flat(
        "  r: {kind: router}\n  a: {model: m, output: 1}\n  b: {model: m, output: 1}\n"
        "  c: {model: m, output: 1}\n  d: {model: m, output: 1}\n",
        "edges: [{from: r, to: a, probability: 0.3}, a -> b, a -> c, b -> d, c -> d]\n",
    )
    assert _chances(flat)["d"] == 0.3


def test_loop_is_unrolled_with_falling_probabilities() -> None:
    flat = _flat(
        "  w: {model: m, output: 10}\n  c: {model: m, output: 5}\n  end_: {model: m, output: 1}\n",
        "edges: [w -> c, {from: c, to: w, max_rounds: 3, probability: 0.5}, c -> end_]\n",
    )
    chances = _chances(flat)
    assert (chances["w"], chances["w@2"], chances["w@3"], chances["c@3"]) == (1, 0.5, 0.25, 0.25)
    assert "w@4" not in chances
    assert chances["end_"] == 1
    exits = {e.source: e.probability for e in flat.edges if e.target == "end_"}
    assert exits == {"c": 0.5, "c@2": 0.5, "c@3": 1.0}


def test_nested_loops_multiply() -> None:
    flat = _flat(
        "  a: {model: m, output: 1}\n  b: {model: m, output: 1}\n  c: {model: m, output: 1}\n",
        "edges: [a -> b, {from: b, to: b, max_rounds: 2}, b -> c, {from: c, to: a, max_rounds: 2}]\n",
    )
    assert len(flat.calls) == 2 * (1 + 2 + 1)


def test_copies_samples_and_bodies() -> None:
    flat = _flat(
        "  split: {model: m, output: 30}\n"
        "  work: {model: m, output: 10, copies: 3}\n"
        "  best: {model: m, output: 10, samples: 4, keep: 1}\n"
        "  sub: {kind: graph, copies: 2, graph: {nodes: {x: {model: m, output: 1}}}}\n"
        "  last: {model: m, output: 1}\n",
        "edges: [{from: split, to: work, kinds: [barrier, items]}, work -> best, best -> sub, sub -> last]\n",
    )
    names = {c.name for c in flat.calls}
    assert {"work[2]", "best[3]", "sub[0]/x", "sub[1]/x"} <= names
    shares = {e.target: e.share for e in flat.edges if e.source == "split"}
    assert shares == {"work[0]": pytest.approx(1 / 3), "work[1]": pytest.approx(2 / 3), "work[2]": 1.0}
    # best of four: whoever follows waits for one
    joint = next(c for c in flat.calls if c.name == "best/done")
    assert joint.join == 1
    assert flat.finals == ("last",)


def test_too_many_calls_are_refused() -> None:
    with pytest.raises(InputError, match="too many calls"):
        _flat("  a: {model: m, output: 1, copies: 30000}\n")
    with pytest.raises(InputError, match="too many calls"):
        _flat("  a: {model: m, output: 1}\n", "edges: [{from: a, to: a, max_rounds: 1000000}]\n")


def test_prompts_and_durations_by_hand() -> None:
    graph = parse_agent_graph(
        MODELS + "input_tokens: 40\nnodes:\n"
        "  a: {model: m, prompt: [{static: 60}, input], output: 50, copies: 2}\n"
        "  b: {model: m, prompt: [{static: 100}, {from: a}], output: 20}\n"
        "  t: {kind: tool, latency_s: 2, limit: 1}\n"
        "edges: [{from: b, to: t, probability: 0.5}]\n"
    )
    flow = flow_of(flatten(graph))
    assert prompt_tokens(graph, flow, flow.calls["a[0]"]) == 100
    assert prompt_tokens(graph, flow, flow.calls["b"]) == 200
    lowered = lower(graph, flow, {}, {})
    durations = {t.name: t.modes[0].duration_s for t in lowered.problem.tasks}
    # 0.1 + prompt / 1000 + 0.01 per token; the tool runs in half of the cases
    assert durations == pytest.approx({"a[0]": 0.7, "a[1]": 0.7, "b": 0.5, "t": 1.0})
    assert {r.name: r.capacity for r in lowered.problem.resources} == {"slots m": 4, "tool t": 1}


def test_loop_reads_what_the_round_before_wrote() -> None:
    graph = parse_agent_graph(
        MODELS + "nodes:\n"
        "  agent: {model: m, prompt: [{static: 10}, {from: tools}], output: 5}\n"
        "  tools: {kind: tool, latency_s: 1, output: 70}\n"
        "edges: [agent -> tools, {from: tools, to: agent, max_rounds: 2}]\n"
    )
    flow = flow_of(flatten(graph))
    assert prompt_tokens(graph, flow, flow.calls["agent"]) == 10
    assert prompt_tokens(graph, flow, flow.calls["agent@2"]) == 80


def test_an_early_join_reads_only_what_it_waits_for() -> None:
    # quick: 0.1 + 10 * 0.01 s; slow: 0.1 + 500 * 0.01 s; z starts on quick alone and reads its 10 tokens
    graph = parse_agent_graph(
        f"{MODELS}nodes:\n  quick: {{model: m, output: 10}}\n  slow: {{model: m, output: 500}}\n"
        "  z: {model: m, prompt: [{static: 5}, {from: quick}, {from: slow}], output: 1, join: any}\n"
    )
    flow = flow_of(flatten(graph))
    lowered = lower(graph, flow, {}, {})
    assert dict(zip((c.name for c in flow.flat.calls), lowered.prompt_tokens, strict=True))["z"] == 15
