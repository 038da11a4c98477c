"""An agent graph under construction by an importer: what the source does not say is guessed, by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from planner.errors import InputError
from planner.frontend.agent_graphs import with_implied_edges
from planner.ir.agent_graph import (
    END,
    START,
    AgentGraph,
    AgentModel,
    Edge,
    Latency,
    LlmCall,
    Node,
    PromptPart,
    Tokens,
    ToolCall,
    Work,
)
from planner.ir.agent_graph_check import graph_faults

DEFAULT_MODEL = "default"
GUESSED_PROMPT = Tokens(mean=300.0, guessed=True)
GUESSED_OUTPUT = Tokens(mean=512.0, guessed=True)
GUESSED_TOOL = Latency(mean_s=1.0, guessed=True)
GUESSED_ROUNDS = 5
GUESSED_CHARS_PER_TOKEN = 4.0


def guessed_model(name: str) -> AgentModel:
    """Return a model of a usual hosted speed, marked as a guess."""
    return AgentModel(
        name=name,
        prefill_tokens_per_s=8000.0,
        decode_s_per_token=0.02,
        overhead_s=0.05,
        slots=64,
        guessed=True,
    )


@dataclass(slots=True, kw_only=True)
class Draft:
    """Nodes, edges and models so far; `guesses` says in words what was assumed."""

    name: str
    file: str
    nodes: dict[str, Node] = field(default_factory=dict[str, Node])
    edges: dict[tuple[str, str], Edge] = field(default_factory=dict[tuple[str, str], Edge])
    models: dict[str, AgentModel] = field(default_factory=dict[str, AgentModel])
    guesses: list[str] = field(default_factory=list[str])

    def guess(self, text: str) -> None:
        """Remember an assumption, once."""
        if text not in self.guesses:
            self.guesses.append(text)

    def use_model(self, name: str, **known: object) -> str:
        """Return the name of a model, adding it with guessed speeds if it is new."""
        name = name or DEFAULT_MODEL
        if name not in self.models:
            self.models[name] = guessed_model(name)
            self.guess(f"speed and price of model {name!r} are not in the source: fill them in")
        if known.get("endpoint"):
            self.models[name] = replace(self.models[name], endpoint=str(known["endpoint"]))
        return name

    def add(self, name: str, work: Work, **properties: int) -> str:
        """Add a node under a free name and return that name."""
        free, number = name or "node", 2
        while free in self.nodes or free in (START, END, "start", "end"):
            free, number = f"{name or 'node'}#{number}", number + 1
        self.nodes[free] = replace(Node(name=free, work=work), **properties)
        return free

    def add_call(
        self,
        name: str,
        *,
        model: str = "",
        output: Tokens | None = None,
        prompt: Tokens | None = None,
        reads_input: bool = True,
    ) -> str:
        """Add a model call with guessed lengths where none are given."""
        if output is None or prompt is None:
            self.guess("lengths of prompts and outputs are not in the source: 300 and 512 tokens assumed")
        parts = [PromptPart(kind="static", tokens=prompt or GUESSED_PROMPT)]
        parts += [PromptPart(kind="input")] if reads_input else []
        call = LlmCall(models=(self.use_model(model),), prompt=tuple(parts), output=output or GUESSED_OUTPUT)
        return self.add(name, call)

    def add_tool(
        self, name: str, *, tool: str = "", latency: Latency | None = None, arguments: str = ""
    ) -> str:
        """Add a tool, with a guessed latency where none is given."""
        if latency is None:
            self.guess("latencies of tools are not in the source: 1 s assumed")
        work = ToolCall(
            tool=tool or name,
            latency=latency or GUESSED_TOOL,
            output=Tokens(mean=200.0, guessed=True),
            arguments=arguments,
        )
        return self.add(name, work)

    def connect(self, source: str, target: str, *, probability: float = 1.0) -> None:
        """Add an edge; of two between the same ends the likelier stays."""
        known = self.edges.get((source, target))
        if known is None or known.probability < probability:
            self.edges[source, target] = Edge(source=source, target=target, probability=probability)

    def feed_prompts(self) -> None:
        """Let every call read the outputs of its producers, after its own text."""
        for name, node in self.nodes.items():
            if not isinstance(node.work, LlmCall):
                continue
            there = {part.source for part in node.work.prompt}
            sources = [s for s, t in self.edges if t == name and s in self.nodes and s not in there]
            parts = tuple(PromptPart(kind="node", source=s) for s in sources)
            self.nodes[name] = replace(node, work=replace(node.work, prompt=node.work.prompt + parts))

    def take_outputs_out_of_prompts(self) -> None:
        """Make recorded prompts, which hold the producers' outputs, count them once."""
        for name, node in self.nodes.items():
            if not isinstance(node.work, LlmCall) or len(node.work.prompt) < 2:
                continue
            own, *taken = node.work.prompt
            recorded = own.tokens.mean if own.tokens else 0.0
            outputs = sum(_output_tokens(self.nodes[part.source].work) for part in taken)
            if recorded >= outputs and own.tokens is not None:
                own = replace(own, tokens=replace(own.tokens, mean=recorded - outputs, sigma_log=0.0))
            else:
                self.guess(
                    f"the recorded prompt of {name!r} is shorter than its producers' outputs: "
                    "they count nothing"
                )
                taken = [replace(part, tokens=Tokens(mean=0.0)) for part in taken]
            self.nodes[name] = replace(node, work=replace(node.work, prompt=(own, *taken)))

    def bound_cycles(self) -> None:
        """Turn the edges that close a cycle, seen from the start, into loops of a guessed bound."""
        after: dict[str, list[str]] = {name: [] for name in self.nodes}
        targets = {t for s, t in self.edges if s != START}
        for source, target in self.edges:
            if source in after and target in after:
                after[source].append(target)
        roots = [t for s, t in self.edges if s == START and t in after]
        roots += [n for n in self.nodes if n not in targets]
        for source, target in _back_edges(after, [*roots, *self.nodes]):
            self.edges[source, target] = replace(self.edges[source, target], max_rounds=GUESSED_ROUNDS)
            self.guess(
                f"the loop {source} -> {target} has no bound in the source: {GUESSED_ROUNDS} rounds assumed"
            )

    def reduce(self) -> None:
        """Drop edges that a longer path implies; only for graphs without branches and loops."""
        order = {name: i for i, name in enumerate(self.nodes)}
        after: dict[str, set[str]] = {name: set() for name in self.nodes}
        for source, target in self.edges:
            if source in after and target in after:
                after[source].add(target)
        reach: dict[str, set[str]] = {}
        for name in sorted(self.nodes, key=lambda n: -order[n]):
            direct = after[name]
            beyond = {far for near in direct for far in reach.get(near, set())}
            reach[name] = direct | beyond
            for target in direct & beyond:
                del self.edges[name, target]

    def graph(self, *, input_tokens: Tokens | None = None) -> AgentGraph:
        """Return the graph, its ends connected.

        Raises
        ------
        InputError
            If what the source describes is malformed.
        """
        sources = {s for s, _ in self.edges}
        targets = {t for (_, t), e in self.edges.items() if e.max_rounds is None}
        ends = [Edge(source=START, target=n) for n in self.nodes if n not in targets]
        ends += [Edge(source=n, target=END) for n in self.nodes if n not in sources]
        nodes = tuple(self.nodes.values())
        graph = AgentGraph(
            name=self.name,
            nodes=nodes,
            edges=with_implied_edges(nodes, (*self.edges.values(), *ends)),
            models=tuple(self.models.values()),
            input_tokens=input_tokens or Tokens(mean=100.0, guessed=True),
            guesses=tuple(self.guesses),
        )
        for fault in graph_faults(graph):
            key = ".".join(map(str, fault.path))
            raise InputError(
                fault.message, file=self.file, key=key, value=fault.value, hint=fault.hint or None
            )
        return graph


def _back_edges(after: dict[str, list[str]], roots: Iterable[str]) -> list[tuple[str, str]]:
    """Edges to a node that is still open in a depth-first walk from the roots, without recursion."""
    found: list[tuple[str, str]] = []
    state: dict[str, int] = {}
    for root in roots:
        if root in state:
            continue
        stack = [(root, iter(after[root]))]
        state[root] = 1
        while stack:
            name, rest = stack[-1]
            for target in rest:
                if state.get(target) == 1:
                    found.append((name, target))
                elif target not in state:
                    state[target] = 1
                    stack.append((target, iter(after[target])))
                    break
            else:
                state[name] = 2
                stack.pop()
    return found


def _output_tokens(work: Work) -> float:
    return work.output.mean if isinstance(work, LlmCall | ToolCall) else 0.0
