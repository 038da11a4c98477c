"""Importers of agent graphs: what comes over, what is guessed and said, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.errors import InputError
from planner.frontend.agent_graph_text import agent_graph_text
from planner.frontend.agent_graphs import parse_agent_graph
from planner.frontend.agent_imports import AGENT_IMPORTERS, import_agent_graph, import_agent_text
from planner.ir.agent_graph import END, START, AgentGraph, LlmCall, Tokens, ToolCall

DATA = Path(__file__).resolve().parents[1] / "data" / "agent_graphs"


def _ends(graph: AgentGraph) -> set[tuple[str, str]]:
    return {(e.source, e.target) for e in graph.edges}


def _same_after_text(graph: AgentGraph) -> bool:
    return parse_agent_graph(agent_graph_text(graph)) == graph


@pytest.mark.parametrize("path", sorted(DATA.glob("*.graph.json")) + sorted(DATA.glob("[ad]*.json")), ids=str)
def test_every_sample_is_recognised_and_round_trips(path: Path) -> None:
    assert _same_after_text(import_agent_graph(path))


class TestLangGraph:
    def test_flattened_join_waits_for_all_by_the_internals(self) -> None:
        graph = import_agent_graph(DATA / "fanout_static_join.graph.json")
        assert graph.node("aggregate").join is None
        assert not any("waits for all" in g for g in graph.guesses)

    def test_without_internals_the_join_is_a_stated_guess(self) -> None:
        text = (DATA / "fanout_static_join.graph.json").read_text()
        graph = import_agent_text(text, file="g.json")
        assert graph.node("aggregate").join is None
        assert any("whether 'aggregate' waits for all" in g for g in graph.guesses)

    def test_separate_edges_from_different_supersteps_fire_on_the_first(self) -> None:
        nodes = [{"id": n} for n in ("__start__", "a", "b", "c", "z", "__end__")]
        pairs = [("__start__", "a"), ("__start__", "b"), ("b", "c"), ("a", "z"), ("c", "z"), ("z", "__end__")]
        text = json.dumps({"nodes": nodes, "edges": [{"source": s, "target": t} for s, t in pairs]})
        internals = json.dumps({"builder": {"waiting_edges": []}})
        graph = import_agent_text(text, file="g.json", companion=internals)
        assert graph.node("z").join == 1
        waiting = json.dumps({"builder": {"waiting_edges": [[["a", "c"], "z"]]}})
        assert import_agent_text(text, file="g.json", companion=waiting).node("z").join is None

    def test_send_of_unknown_degree(self) -> None:
        graph = import_agent_graph(DATA / "fanout_send_moa.graph.json")
        proposer = graph.node("proposer")
        assert proposer.copies == 3
        assert isinstance(proposer.work, LlmCall)
        assert (proposer.work.models, proposer.work.output.mean) == (("qwen2.5-7b",), 512)
        assert any("unknown degree" in g for g in graph.guesses)

    def test_loop_gets_a_bound(self) -> None:
        graph = import_agent_graph(DATA / "loop_agent_tools.graph.json")
        loops = [e for e in graph.edges if e.max_rounds is not None]
        assert [(e.source, e.target) for e in loops] == [("tools", "agent")]
        assert isinstance(graph.node("tools").work, ToolCall)
        assert any("no bound in the source" in g for g in graph.guesses)

    def test_undeclared_branch_is_taken_from_the_only_node_that_ends(self) -> None:
        graph = import_agent_graph(DATA / "conditional_undeclared.graph.json")
        assert {("a", "b"), ("a", "c"), ("a", END)} <= _ends(graph)
        assert any("undeclared branches of 'a'" in g for g in graph.guesses)

    def test_orphans_with_no_certain_source_are_refused(self) -> None:
        nodes = [{"id": n} for n in ("__start__", "a", "b", "lost", "__end__")]
        pairs = [
            ("__start__", "a"),
            ("__start__", "b"),
            ("a", "__end__"),
            ("b", "__end__"),
            ("lost", "__end__"),
        ]
        text = json.dumps({"nodes": nodes, "edges": [{"source": s, "target": t} for s, t in pairs]})
        with pytest.raises(InputError, match="undeclared targets") as caught:
            import_agent_text(text, file="g.json")
        assert caught.value.value == "lost"

    def test_edge_to_nowhere_is_refused(self) -> None:
        text = (
            (DATA / "fanout_static_join.graph.json")
            .read_text()
            .replace('"target": "proposer_b"', '"target": "x"')
        )
        with pytest.raises(InputError, match="unknown node"):
            import_agent_text(text, file="g.json")


PLAN = """\
Thought: two look-ups, then arithmetic.
1. search("Scott Derrickson (director")   # unbalanced on purpose
2. search('Ed Wood')
3. math('age difference', ["$1", "${2}"])
Thought: done
4. join()<END_OF_PLAN>
"""


class TestLlmCompiler:
    def test_references_become_edges_and_the_join_reads_everything(self) -> None:
        graph = import_agent_text(PLAN, file="p.txt")
        tools = {n.name for n in graph.nodes if isinstance(n.work, ToolCall)}
        assert tools == {"1.search", "2.search", "3.math"}
        math = graph.node("3.math").work
        assert isinstance(math, ToolCall)
        assert math.arguments == """'age difference', ["${1.search}", "${2.search}"]"""
        assert {
            (START, "1.search"),
            (START, "2.search"),
            ("1.search", "3.math"),
            ("2.search", "3.math"),
            ("3.math", "join"),
            ("1.search", "join"),
            ("join", END),
        } <= _ends(graph)
        assert _same_after_text(graph)

    @pytest.mark.parametrize(
        ("old", "new", "line", "words"),
        [
            ("$1", "$7", 4, "does not come before"),
            ("2. search", "1. search", 3, "stands twice"),
        ],
    )
    def test_wrong_numbers_are_refused(self, old: str, new: str, line: int, words: str) -> None:
        with pytest.raises(InputError, match=words) as caught:
            import_agent_text(PLAN.replace(old, new), file="p.txt")
        assert caught.value.line == line


def _archon(*layers: list[dict[str, object]]) -> str:
    return json.dumps({"name": "a", "layers": [list(layer) for layer in layers]})


class TestArchon:
    def test_branches_of_the_older_form_multiply_what_makes_candidates(self) -> None:
        generator = {"type": "generator", "model": "a"}
        layers = [
            {"branches": 1, "models": [generator]},
            {"branches": 2, "models": [{"type": "fuser", "model": "b"}]},
            {"branches": 1, "models": [{"type": "verifier", "model": "c"}]},
        ]
        graph = import_agent_text(json.dumps({"name": "x", "layers": layers}), file="a.json")
        assert [n.copies for n in graph.nodes] == [1, 2, 2]
        layers[1]["branches"] = 0
        with pytest.raises(InputError, match="branches"):
            import_agent_text(json.dumps({"name": "x", "layers": layers}), file="a.json")

    def test_layers_are_fully_connected_and_counted(self) -> None:
        text = _archon(
            [{"type": "generator", "model": "m1", "samples": 5}, {"type": "generator", "model": "m2"}],
            [{"type": "ranker", "model": "m1", "top_k": 3}],
            [{"type": "verifier", "model": "m1", "max_tokens": 100}],
            [{"type": "fuser", "model": "m2"}],
        )
        graph = import_agent_text(text, file="a.json")
        assert [n.copies for n in graph.nodes] == [5, 1, 1, 3, 1]
        names = [n.name for n in graph.nodes]
        assert {
            (names[0], names[2]),
            (names[1], names[2]),
            (names[2], names[3]),
            (names[3], names[4]),
        } <= _ends(graph)
        verifier = graph.nodes[3].work
        assert isinstance(verifier, LlmCall)
        assert (verifier.output.mean, verifier.output.limit) == (100, 100)
        assert _same_after_text(graph)

    def test_layers_with_branches_and_models(self) -> None:
        text = json.dumps({"layers": [{"branches": 1, "models": [{"type": "generator", "model": "m"}]}]})
        assert len(import_agent_text(text, file="a.json").nodes) == 1

    def test_unknown_component_and_bad_samples_are_refused(self) -> None:
        with pytest.raises(InputError, match="unknown component type"):
            import_agent_text(_archon([{"type": "generater", "model": "m"}]), file="a.json")
        with pytest.raises(InputError, match="samples"):
            import_agent_text(_archon([{"type": "generator", "model": "m", "samples": 0}]), file="a.json")


class TestAutoGen:
    def _digraph(self, activation: str, condition: str | None = None) -> str:
        def edge(target: str) -> dict[str, object]:
            return {"target": target, "condition": condition}

        nodes = {
            "w": {"edges": [edge("x"), edge("y")], "activation": "all"},
            "x": {"edges": [{"target": "z", "condition": None}], "activation": "all"},
            "y": {"edges": [{"target": "z", "condition": None}], "activation": "all"},
            "z": {"edges": [], "activation": activation},
        }
        return json.dumps({"nodes": nodes, "default_start_node": "w"})

    def test_activation_is_the_join(self) -> None:
        assert import_agent_text(self._digraph("all"), file="g.json").node("z").join is None
        assert import_agent_text(self._digraph("any"), file="g.json").node("z").join == 1

    def test_conditions_are_branches(self) -> None:
        graph = import_agent_text(self._digraph("any", "APPROVE"), file="g.json")
        assert {e.probability for e in graph.edges if e.source == "w"} == {0.5}

    def test_component_brings_models_and_endpoints(self) -> None:
        client = {"config": {"model": "gpt-x", "base_url": "http://host/v1"}}
        component = {
            "config": {
                "name": "Flow",
                "participants": [{"config": {"name": n, "model_client": client}} for n in "wxyz"],
                "graph": json.loads(self._digraph("all")),
            }
        }
        graph = import_agent_text(json.dumps(component), file="g.json")
        assert graph.model("gpt-x").endpoint == "http://host/v1"


class TestDspy:
    def test_values_become_edges(self) -> None:
        graph = import_agent_graph(DATA / "dspy_trace.json")
        assert ("q.predict", "a.predict") in _ends(graph)

    def test_saved_program_is_refused_with_the_way_out(self) -> None:
        text = json.dumps({"q.predict": {"demos": [], "signature": {"fields": []}}})
        with pytest.raises(InputError, match=r"trace=\[\]"):
            import_agent_text(text, file="p.json")

    def test_usage_is_read_by_language_model_too_and_outputs_count_once(self) -> None:
        rows = [
            {
                "predictor": "ask",
                "inputs": {"question": "who?"},
                "outputs": {"query": "ceiling painter"},
                "usage": {"openai/a": {"prompt_tokens": 150, "completion_tokens": 22}},
            },
            {
                "predictor": "tell",
                "inputs": {"context": ["ceiling painter", None]},
                "outputs": {"answer": "nobody"},
                "usage": {"openai/a": {"input_tokens": 100}, "openai/b": {"input_tokens": 80}},
            },
        ]
        graph = import_agent_text(json.dumps(rows), file="t.json")
        ask, tell = graph.node("ask").work, graph.node("tell").work
        assert isinstance(ask, LlmCall)
        assert isinstance(tell, LlmCall)
        assert (ask.output, ask.prompt[0].tokens) == (Tokens(mean=22.0), Tokens(mean=150.0))
        # 180 tokens recorded, of which 22 were written by the first
        assert [(p.kind, p.tokens) for p in tell.prompt] == [("static", Tokens(mean=158.0)), ("node", None)]
        # what nobody counted stays marked as a guess
        assert tell.output == Tokens(mean=1.5, guessed=True)

    def test_the_history_of_a_language_model(self) -> None:
        graph = import_agent_text(json.dumps(DSPY_HISTORY), file="h.json")
        inner = {e for e in _ends(graph) if START not in e and END not in e}
        assert inner == {("query", "answer"), ("answer", "grade")}
        answer, grade = graph.node("answer").work, graph.node("grade").work
        assert isinstance(answer, LlmCall)
        assert isinstance(grade, LlmCall)
        assert answer.models == ("openai/gpt-4o-mini",)
        assert [p.tokens for p in answer.prompt] == [Tokens(mean=158.0), None]
        # without usage, as after a hit in the cache, lengths are counted from text and said to be guesses
        assert grade.output.guessed
        assert any("does not name predictors" in g for g in graph.guesses)
        assert _same_after_text(graph)

    @pytest.mark.parametrize(
        "change",
        [{"messages": 3}, {"messages": ["x"]}, {"outputs": "text"}, {"outputs": None}, {"messages": {}}],
    )
    def test_wrong_histories_are_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(InputError, match=r"\[0\]"):
            import_agent_text(json.dumps([{**DSPY_HISTORY[0], **change}]), file="h.json")


def _entry(field: str, asked: str, outputs: list[object], usage: dict[str, int]) -> dict[str, object]:
    return {
        "prompt": None,
        "messages": [
            {"role": "system", "content": "Your output fields are given."},
            {"role": "user", "content": [{"type": "text", "text": f"[[ ## {field} ## ]]\n{asked}\n"}]},
        ],
        "kwargs": {},
        "outputs": outputs,
        "usage": usage,
        "cost": None,
        "uuid": "u",
        "model": "openai/gpt-4o-mini",
        "model_type": "chat",
    }


DSPY_HISTORY = [
    _entry(
        "question",
        "Who painted it?",
        ["[[ ## reasoning ## ]]\nsearch\n\n[[ ## query ## ]]\nmural\n\n[[ ## completed ## ]]"],
        {"prompt_tokens": 150, "completion_tokens": 22},
    ),
    _entry(
        "context",
        "mural",
        [{"text": '{"answer": "Nobody."}'}],
        {"prompt_tokens": 180, "completion_tokens": 18},
    ),
    _entry("answer", "Nobody.", ["[[ ## grade ## ]]\n5\n"], {}),
]

CREW = """\
agents:
  researcher: {role: r, llm: openai/small}
  writer: {role: w, llm: {model: openai/large}}
tasks:
  gather: {description: d, expected_output: e, agent: researcher, async_execution: true}
  facts: {description: d, expected_output: e, agent: researcher, async_execution: true, context: []}
  outline: {description: d, expected_output: e, agent: writer, context: [gather]}
  report: {description: d, expected_output: e, agent: writer}
"""


class TestCrewAi:
    def test_context_or_everything_before(self) -> None:
        graph = import_agent_text(CREW, file="c.yaml")
        inner = {e for e in _ends(graph) if START not in e and END not in e}
        # gather -> report follows from gather -> outline -> report
        assert inner == {("gather", "outline"), ("facts", "report"), ("outline", "report")}
        writer = graph.node("report").work
        assert isinstance(writer, LlmCall)
        assert writer.models == ("openai/large",)

    def test_unknown_context_is_refused_with_its_line(self) -> None:
        with pytest.raises(InputError, match="no earlier task") as caught:
            import_agent_text(CREW.replace("[gather]", "[gathr]"), file="c.yaml")
        assert caught.value.line == 7


def _otlp_span(name: str, start_s: float, end_s: float, **attributes: object) -> dict[str, object]:
    def typed(value: object) -> dict[str, object]:
        return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": str(value)}

    return {
        "traceId": "t1",
        "spanId": name,
        "name": name,
        "startTimeUnixNano": str(int(start_s * 1e9)),
        "endTimeUnixNano": str(int(end_s * 1e9)),
        "attributes": [{"key": k.replace("__", "."), "value": typed(v)} for k, v in attributes.items()],
    }


class TestTraces:
    def _otlp(self) -> str:
        def chat(name: str, start: float, tokens: int, prompt: int) -> dict[str, object]:
            # overhead 0.1 s, 1000 prompt tokens a second, 10 ms a token
            first = 0.1 + prompt / 1000 + 0.01
            return _otlp_span(
                name,
                start,
                start + first + (tokens - 1) * 0.01,
                gen_ai__operation__name="chat",
                gen_ai__request__model="m",
                gen_ai__usage__input_tokens=prompt,
                gen_ai__usage__output_tokens=tokens,
                gen_ai__response__time_to_first_chunk=first,
            )

        spans = [
            _otlp_span("root", 0, 20, gen_ai__operation__name="invoke_agent"),
            chat("plan", 0, 50, 200),
            _otlp_span("web", 2, 3.5, gen_ai__operation__name="execute_tool", gen_ai__tool__name="search"),
            chat("draft", 2, 100, 400),
            chat("final", 6, 60, 800),
        ]
        return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]})

    def test_speeds_lengths_and_order_are_recovered(self) -> None:
        graph = import_agent_text(self._otlp(), file="t.json")
        model = graph.model("m")
        assert model.decode_s_per_token == pytest.approx(0.01, rel=1e-6)
        assert model.prefill_tokens_per_s == pytest.approx(1000, rel=1e-6)
        assert model.overhead_s == pytest.approx(0.1, rel=1e-6)
        inner = {e for e in _ends(graph) if START not in e and END not in e}
        assert inner == {("plan", "search"), ("plan", "draft"), ("search", "final"), ("draft", "final")}
        draft = graph.node("draft").work
        assert isinstance(draft, LlmCall)
        # 400 recorded, of which 50 are the plan's output
        assert [p.tokens.mean if p.tokens else None for p in draft.prompt] == [350, None]
        assert any("order of calls only" in g for g in graph.guesses)

    def test_text_beats_time(self) -> None:
        def call(name: str, start: float, text: str, out: str) -> dict[str, object]:
            return _otlp_span(
                name,
                start,
                start + 1,
                openinference__span__kind="LLM",
                llm__model_name="m",
                llm__token_count__completion=10,
                input__value=text,
                output__value=out,
            )

        spans = [
            call("a", 0, "question", "first long answer"),
            call("b", 2, "question", "second long answer"),
            call("c", 4, "use: second long answer", "end"),
        ]
        graph = import_agent_text(json.dumps(spans), file="t.json")
        inner = {e for e in _ends(graph) if START not in e and END not in e}
        assert ("b", "c") in inner
        assert ("a", "c") not in inner

    def test_langfuse_observations(self) -> None:
        def row(name: str, kind: str, start: int, end: int, **more: object) -> dict[str, object]:
            times = {"startTime": f"2026-01-01T00:00:{start:02d}Z", "endTime": f"2026-01-01T00:00:{end:02d}Z"}
            return {"id": name, "traceId": "t", "type": kind, "name": name, **times, **more}

        rows = [
            row("agent", "SPAN", 0, 9, parentObservationId=None),
            row("look", "TOOL", 0, 2, parentObservationId="agent"),
            row(
                "answer",
                "GENERATION",
                3,
                9,
                parentObservationId="agent",
                model="gpt",
                usageDetails={"input": 120, "output": 51},
                completionStartTime="2026-01-01T00:00:04Z",
            ),
        ]
        graph = import_agent_text(json.dumps({"observations": rows}), file="l.json")
        assert [n.name for n in graph.nodes] == ["look", "answer"]
        assert graph.model("gpt").decode_s_per_token == pytest.approx(5 / 50)
        assert ("look", "answer") in _ends(graph)

    def test_broken_times_and_empty_traces_are_refused(self) -> None:
        with pytest.raises(InputError, match="later end"):
            import_agent_text(
                self._otlp().replace('"endTimeUnixNano": "', '"endTimeUnixNano": "-'), file="t.json"
            )
        with pytest.raises(InputError, match="no model or tool calls"):
            import_agent_text(
                self._otlp().replace("gen_ai.", "gen_xx.").replace("root", "gen_ai."), file="t.json"
            )


def test_workflow_record_becomes_tools() -> None:
    path = DATA.parent / "scheduling" / "wfformat" / "diamond.json"
    graph = import_agent_graph(path)
    left = graph.node("left").work
    assert isinstance(left, ToolCall)
    assert left.latency.mean_s == 8
    assert ("split", "left") in _ends(graph)


@pytest.mark.parametrize("fmt", AGENT_IMPORTERS.names())
@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", '{"nodes": 1, "edges": []}', '{"layers": 3}', "[[[[", "a: [", "1e999"],
)
def test_garbage_is_an_input_error_for_every_format(fmt: str, text: str) -> None:
    with pytest.raises(InputError):
        import_agent_text(text, file="x", fmt=fmt)


def test_unknown_file_names_the_formats() -> None:
    with pytest.raises(InputError, match="langgraph"):
        import_agent_text("hello", file="x.txt")


def test_spans_of_an_sdk_with_tools_and_first_chunks_in_milliseconds() -> None:
    # times as [seconds, nanoseconds], as a JavaScript exporter writes them
    def span(name: str, begin: float, end: float, attributes: dict[str, object]) -> dict[str, object]:
        times = {
            "startTime": [int(begin), round(begin % 1 * 1e9)],
            "endTime": [int(end), round(end % 1 * 1e9)],
        }
        return {"traceId": "t", "name": name, "attributes": attributes, **times}

    def step(tokens: int, written: int, first_ms: float) -> dict[str, object]:
        return {
            "gen_ai.request.model": "m",
            "gen_ai.usage.input_tokens": tokens,
            "gen_ai.usage.output_tokens": written,
            "ai.response.msToFirstChunk": first_ms,
        }

    spans = [
        span("ai.streamText", 0.0, 3.5, {"ai.usage.inputTokens": 1252}),
        span("ai.streamText.doStream", 0.0, 1.5, step(500, 11, 500.0)),
        span("ai.toolCall", 1.5, 1.75, {"ai.toolCall.name": "calculate"}),
        span("ai.streamText.doStream", 1.75, 3.25, step(700, 11, 500.0)),
    ]
    graph = import_agent_text(json.dumps({"spans": spans}), file="trace.json")
    tools = [n for n in graph.nodes if isinstance(n.work, ToolCall)]
    assert [n.name for n in tools] == ["calculate"]
    assert len(graph.nodes) == 3
    assert graph.models[0].decode_s_per_token == pytest.approx(0.1)
