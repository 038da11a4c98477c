"""The agent graph: model calls, tools and control between them, before any decision.

A graph is nodes and edges. Joins are a property of the consumer, probabilities of an edge, loops are
edges that point back with a bound, fan-out is a property of the node, nesting is a node with a body.
Nothing here knows where a call runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

EdgeKind = Literal["barrier", "overlap", "staircase", "items"]
EDGE_KINDS: tuple[EdgeKind, ...] = ("barrier", "overlap", "staircase", "items")
LOSSLESS_KINDS: tuple[EdgeKind, ...] = ("barrier", "overlap")
PromptSource = Literal["static", "input", "node"]
Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
FailurePolicy = Literal["fail", "skip"]
FAILURE_POLICIES: tuple[FailurePolicy, ...] = ("fail", "skip")
TextTest = Literal["contains", "matches", "equals", "longer_than", "at_least", "at_most"]
TEXT_TESTS: tuple[TextTest, ...] = ("contains", "matches", "equals", "longer_than", "at_least", "at_most")
NUMBER_TESTS: tuple[TextTest, ...] = ("longer_than", "at_least", "at_most")
DraftMode = Literal["serial", "overlapped", "layer_parallel"]
DRAFT_MODES: tuple[DraftMode, ...] = ("serial", "overlapped", "layer_parallel")
AgentGoal = Literal["min_ttft", "min_latency", "min_cost", "max_throughput"]
START = "__start__"
END = "__end__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A number of tokens: log-normal with the given mean; `sigma_log` 0 is a fixed number.

    `limit` truncates (max_tokens); None is no limit. `guessed` marks a value that no source gave.
    """

    mean: float
    sigma_log: float = 0.0
    limit: int | None = None
    guessed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """A duration in seconds: log-normal with the given mean; `sigma_log` 0 is a fixed time."""

    mean_s: float
    sigma_log: float = 0.0
    guessed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPart:
    """One piece of a prompt, in order.

    static: text that is the same in every run; input: the user's; node: the output of node `source`.
    `share` names a prefix that other calls have too, so that a cache may hold it. `text` is a static part's
    own text, needed to run the graph but not to plan it; `role` is whose message the part belongs to.
    """

    kind: PromptSource
    tokens: Tokens | None = None
    source: str = ""
    share: str = ""
    text: str = ""
    role: Role = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A way to draft tokens that a model checks in one step.

    `acceptance` is the chance that a drafted token is kept, given those before it; `decode_s_per_token` is
    that of the draft. serial: the model waits for the draft; overlapped: it checks while the next tokens are
    drafted; layer_parallel: serial, with `layers_at_once` layers of the draft run side by side. A check of
    k tokens takes 1 + k `check_growth` steps. `slots` are what the draft's memory leaves (None: all).
    """

    name: str
    mode: DraftMode
    acceptance: float
    decode_s_per_token: float
    max_tokens: int = 16
    layers_at_once: int = 1
    check_growth: float = 0.0
    slots: int | None = None
    usd_per_output_token: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentModel:
    """A model that calls may use, as served: speed, price, quality and limits.

    `slots` calls run at once on each of `replicas`; `calls_per_minute` and `tokens_per_minute` (prompt
    and answer) are rate limits (None: none).
    `quality` is any score in which more is better. `cache_block_tokens` is the granularity of the prefix
    cache, 0 without one. `guessed` marks speeds that no source gave. `drafts` are ways of speculative
    decoding that the planner may use.
    """

    name: str
    prefill_tokens_per_s: float
    decode_s_per_token: float
    overhead_s: float
    usd_per_input_token: float = 0.0
    usd_per_output_token: float = 0.0
    quality: float | None = None
    slots: int = 1
    replicas: int = 1
    calls_per_minute: int | None = None
    tokens_per_minute: int | None = None
    cache_block_tokens: int = 0
    endpoint: str = ""
    guessed: bool = False
    drafts: tuple[Draft, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmCall:
    """A model call. `models` are the allowed choices.

    `samples` calls run side by side and the first `keep` that end are enough (best-of-n with early stop
    when keep < samples). `partial_inputs`: the user allows that it starts on partial outputs of its
    producers, which may change its answer.
    """

    models: tuple[str, ...]
    prompt: tuple[PromptPart, ...]
    output: Tokens
    samples: int = 1
    keep: int = 1
    partial_inputs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool. At most `limit` run at once over all nodes of the same `tool`; `output` is what it returns.

    `arguments` is the text that the tool is given; ``${node}`` in it stands for what that node wrote.
    """

    tool: str
    latency: Latency
    output: Tokens
    limit: int | None = None
    side_effects: bool = False
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """A decision in code that takes no time to speak of; its out-edges carry the probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Human:
    """A person who answers."""

    latency: Latency
    output: Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Nested:
    """A graph inside a node."""

    graph: AgentGraph


Work = LlmCall | ToolCall | Router | Human | Nested


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node. `join` is how many of its producers must be done: None is all of them, 1 is any.

    `copies` is a fan-out: the node runs that many times side by side, at most `parallel` at once (None: all).
    `on_failure`: whether a failure ends the run, or consumers go on without the node's output.
    """

    name: str
    work: Work
    join: int | None = None
    copies: int = 1
    parallel: int | None = None
    deadline_s: float | None = None
    on_failure: FailurePolicy = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A test of what a node wrote; text tests read `value` as it is, number tests as a number.

    contains, matches (a regular expression found anywhere), equals (both ends stripped), longer_than
    (characters), at_least and at_most (the last number in the text). `negate` turns the outcome around.
    """

    test: TextTest
    value: str
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """Data or control from `source` to `target`; START and END stand for the graph's own ends.

    `probability` is taken given that the source ran. `max_rounds` makes it a loop: it points back, and
    its body runs at most that often. `kinds` are the ways the user allows data to flow. `when` decides at
    run time whether the edge is taken; beside edges that have one, a branch without one is taken if none of
    them is. `repeats` marks an edge that starts another round of a loop that has been unrolled.
    """

    source: str
    target: str
    kinds: tuple[EdgeKind, ...] = LOSSLESS_KINDS
    probability: float = 1.0
    max_rounds: int | None = None
    when: Condition | None = None
    repeats: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentGraph:
    """A graph of calls.

    `input_tokens` is the user's input. `deadline_s` and `budget_usd` bound one run; `period_s` starts a run
    every so many seconds; `min_quality` is the least quality of any chosen model. Where several graphs share
    a model, calls of the one with the larger `priority` go first. `guesses` say what an
    importer had to assume.
    """

    name: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    models: tuple[AgentModel, ...] = ()
    input_tokens: Tokens = field(default_factory=lambda: Tokens(mean=0.0))
    deadline_s: float | None = None
    budget_usd: float | None = None
    period_s: float | None = None
    min_quality: float | None = None
    goal: AgentGoal = "min_latency"
    priority: int = 0
    guesses: tuple[str, ...] = ()

    def node(self, name: str) -> Node:
        """Return the node of that name.

        Raises
        ------
        KeyError
            If there is none.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def model(self, name: str) -> AgentModel:
        """Return the model of that name.

        Raises
        ------
        KeyError
            If there is none.
        """
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentProblem:
    """The agent payload of a problem: the graph, and how edges may stream.

    `min_first_chunk_tokens` is the least evidence a staircase consumer starts on; `e2e_slack` how much longer
    than the quickest choice a streaming schedule may take to win time to first token (0.1 is 10 %).
    """

    graph: AgentGraph
    min_first_chunk_tokens: int = 16
    e2e_slack: float = 0.1
