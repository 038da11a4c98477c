"""The text form of agent graphs: what is read, that it round-trips, and how faults are reported."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import InputError
from planner.frontend.agent_graph_text import agent_graph_text
from planner.frontend.agent_graphs import parse_agent_graph
from planner.ir.agent_graph import (
    END,
    START,
    AgentGraph,
    AgentModel,
    Edge,
    Human,
    Latency,
    LlmCall,
    Nested,
    Node,
    PromptPart,
    Router,
    Tokens,
    ToolCall,
)

TEXT = """\
kind: agents
name: research
goal: min_ttft
input_tokens: 120
deadline_s: 30
budget_usd: 0.5
models:
  small: {prefill_tokens_per_s: 8000, decode_s_per_token: 0.02, overhead_s: 0.05, slots: 8, quality: 0.6}
  large: {prefill_tokens_per_s: 4000, decode_s_per_token: 0.04, overhead_s: 0.05, quality: 0.9,
          usd_per_million_input: 3, usd_per_million_output: 15, calls_per_minute: 600}
nodes:
  plan: {model: small, prompt: [{static: 200, share: system}, input],
         output: {mean: 80, sigma_log: 0.3, limit: 256}}
  search: {kind: tool, tool: web, latency_s: {mean_s: 0.8, sigma_log: 0.5}, output: 400,
           limit: 4, copies: 3, parallel: 2}
  check: {kind: router}
  ask: {kind: human, latency_s: 60}
  draft: {models: [small, large], prompt: [{static: 200, share: system}, {from: search}],
          output: 512, samples: 4, keep: 2}
  merge: {model: large, prompt: [{from: draft}, {from: plan}], output: 300, partial_inputs: true, join: any}
  sub:
    kind: graph
    graph:
      nodes:
        one: {model: small, prompt: [input], output: 20}
      edges: [one -> end]
edges:
  - start -> plan
  - plan -> search
  - search -> check
  - {from: check, to: draft, probability: 0.8}
  - {from: check, to: ask, probability: 0.2}
  - {from: draft, to: plan, max_rounds: 3, probability: 0.25}
  - {from: draft, to: merge, kinds: [barrier, staircase]}
  - merge -> sub
  - sub -> end
"""


def test_everything_is_read() -> None:
    graph = parse_agent_graph(TEXT)
    assert [n.name for n in graph.nodes] == ["plan", "search", "check", "ask", "draft", "merge", "sub"]
    plan = graph.node("plan").work
    assert isinstance(plan, LlmCall)
    assert plan.output == Tokens(mean=80.0, sigma_log=0.3, limit=256)
    assert plan.prompt[0] == PromptPart(kind="static", tokens=Tokens(mean=200.0), share="system")
    assert graph.node("search").copies == 3
    assert graph.node("merge").join == 1
    assert graph.model("large").usd_per_output_token == pytest.approx(15e-6)
    by_ends = {(e.source, e.target): e for e in graph.edges}
    assert by_ends["draft", "plan"].max_rounds == 3
    assert by_ends["draft", "merge"].kinds == ("barrier", "staircase")
    # implied by prompts; streaming only where the node allows partial inputs
    assert by_ends["search", "draft"].kinds == ("barrier", "overlap")
    assert by_ends["plan", "merge"].kinds == ("barrier", "overlap", "staircase")


def test_example_round_trips() -> None:
    graph = parse_agent_graph(TEXT)
    text = agent_graph_text(graph)
    assert parse_agent_graph(text) == graph
    assert agent_graph_text(parse_agent_graph(text)) == text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("max_rounds: 3, ", "", "cycle without a bound"),
        ("plan -> search", "plan -> serach", "unknown node"),
        ("model: small, prompt: [{static", "model: smal, prompt: [{static", "unknown model"),
        ("goal: min_ttft", "goal: fast", "unknown word"),
        ("input_tokens: 120", "input_tokens: many", "not a number"),
        ("deadline_s: 30", "deadline_s: 0", "out of range"),
        ("output: 512", "ouput: 512", "unknown key"),
        ("probability: 0.8", "probability: 1.8", "not a probability"),
        ("probability: 0.2}", "probability: 0.4}", "add up to more than 1"),
        ("keep: 2", "keep: 7", "keep is 1 to 4"),
        ("join: any", "join: 5", "2 producers"),
        ("copies: 3", "copies: three", "whole number"),
        ("- merge -> sub", "- merge sub", "written a -> b"),
        ("{kind: router}", "{kind: rooter}", "unknown word"),
        ("kinds: [barrier, staircase]", "kinds: [stairs]", "not one of the words"),
        ("limit: 4,", "limit: 0,", "whole number"),
        ("one: {model: small", "one: {model: none", "unknown model"),
    ],
)
def test_fault_is_reported_with_its_line(old: str, new: str, words: str) -> None:
    assert old in TEXT
    with pytest.raises(InputError, match=words) as caught:
        parse_agent_graph(TEXT.replace(old, new, 1), file="g.yaml")
    assert caught.value.file == "g.yaml"
    assert caught.value.line == TEXT[: TEXT.index(old)].count("\n") + 1


def test_no_model_good_enough_is_refused() -> None:
    with pytest.raises(InputError, match="reaches the quality"):
        parse_agent_graph(TEXT.replace("goal: min_ttft", "min_quality: 0.7"))


@pytest.mark.parametrize(
    "text", ["", "[]", "nodes: 3", "nodes: {a: 1}", "nodes: {}", "a: b: c", "nodes: [x]"]
)
def test_what_is_no_graph_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError):
        parse_agent_graph(text)


NAMES = st.sampled_from(["a", "b-1", "Ünï", "x y", "null", "a/b"])
TOKENS = st.builds(
    Tokens,
    mean=st.sampled_from([0.0, 1.0, 12.5, 4096.0]),
    sigma_log=st.sampled_from([0.0, 0.4]),
    limit=st.sampled_from([None, 64]),
    guessed=st.booleans(),
)
LATENCIES = st.builds(
    Latency, mean_s=st.sampled_from([0.0, 0.25, 9.0]), sigma_log=st.sampled_from([0.0, 1.0])
)
PARTS = st.builds(
    PromptPart, kind=st.sampled_from(["static", "input"]), tokens=TOKENS, share=st.sampled_from(["", "s"])
)
CALLS = st.integers(1, 4).flatmap(
    lambda samples: st.builds(
        LlmCall,
        models=st.just(("m",)),
        prompt=st.lists(PARTS, max_size=3).map(tuple),
        output=TOKENS,
        samples=st.just(samples),
        keep=st.integers(1, samples),
        partial_inputs=st.booleans(),
    )
)
WORKS = st.one_of(
    CALLS,
    st.builds(
        ToolCall,
        tool=NAMES,
        latency=LATENCIES,
        output=TOKENS,
        limit=st.sampled_from([None, 2]),
        side_effects=st.booleans(),
    ),
    st.just(Router()),
    st.builds(Human, latency=LATENCIES, output=TOKENS),
)
MODEL = AgentModel(
    name="m",
    prefill_tokens_per_s=1e3,
    decode_s_per_token=0.01,
    overhead_s=0.0,
    usd_per_input_token=0.15 / 1e6,
)


@st.composite
def _graphs(draw: st.DrawFn, depth: int = 1) -> AgentGraph:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    inner = st.builds(lambda g: Nested(graph=g), _graphs(depth=depth - 1)) if depth else WORKS
    nodes = tuple(
        Node(
            name=n,
            work=draw(st.one_of(WORKS, inner)),
            copies=draw(st.integers(1, 2)),
            deadline_s=draw(st.sampled_from([None, 2.5])),
        )
        for n in names
    )
    ends = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    edges = tuple(
        Edge(source=a, target=b, kinds=draw(st.sampled_from([("barrier",), ("barrier", "overlap")])))
        for a, b in ends
        if draw(st.booleans())
    )
    edges += (Edge(source=START, target=names[0]), Edge(source=names[-1], target=END, probability=0.5))
    edges += (Edge(source=names[-1], target=names[0], max_rounds=2, probability=0.5),)
    return AgentGraph(
        name=draw(NAMES) if depth else "",
        nodes=nodes,
        edges=edges,
        models=(MODEL,) if depth else (),
        input_tokens=draw(TOKENS),
        deadline_s=draw(st.sampled_from([None, 4.0])),
        goal=draw(st.sampled_from(["min_ttft", "min_latency"])),
        guesses=draw(st.sampled_from([(), ("lengths: guessed",)])),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(_graphs())
def test_any_graph_round_trips(graph: AgentGraph) -> None:
    assert parse_agent_graph(agent_graph_text(graph)) == graph
