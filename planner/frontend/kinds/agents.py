"""``kind: agents``: a graph of model calls and tools, in place or in a file of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, cast

from pydantic import BeforeValidator, Field

from planner.diagnostics import Diagnostics
from planner.frontend.agent_graphs import GRAPH_KEYS, graph_of, read_agent_graph
from planner.frontend.agent_observed import with_observations
from planner.frontend.observed_runs import read_runs
from planner.frontend.spec_tree import SpecTree
from planner.frontend.specs import CommonSpec, SearchSection, Section, Text, validated
from planner.frontend.yaml_source import Document
from planner.ir.agent_graph import AgentGraph, AgentModel, AgentProblem
from planner.ir.agent_graph_check import bypassed_branches, open_branches
from planner.ir.cluster import Cluster
from planner.ir.objective import Objective
from planner.ir.problem import Problem


class StreamingSection(Section):
    """How edges may stream.

    `min_first_chunk` tokens are the least a consumer starts on; `e2e_slack` is the share by which the end may
    be later than the soonest end to win time to first token.
    """

    min_first_chunk: Annotated[int, Field(ge=1, le=10**6)] = 16
    e2e_slack: Annotated[float, Field(ge=0.0, le=10.0)] = 0.1


_MAX_TOLD = 8
DEFAULT_TIME_LIMIT_S = 8.0
"""A graph is planned while somebody waits, so the limit is short unless it is stated."""


def _limited(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {"time_limit": f"{DEFAULT_TIME_LIMIT_S} s", **cast("dict[str, object]", value)}


class AgentsSpec(CommonSpec):
    """A graph: `graph` names its file, or its keys stand in the spec itself.

    `observed` is a folder of records of runs, whose lengths, times and branches replace those stated.
    """

    search: Annotated[SearchSection, BeforeValidator(_limited)] = Field(
        default_factory=lambda: SearchSection.model_validate(_limited({}))
    )
    graph: Text | None = None
    observed: Text | None = None
    streaming: StreamingSection = StreamingSection()
    goal: Text | None = None
    models: dict[str, object] = Field(default_factory=dict[str, object])
    nodes: dict[str, object] = Field(default_factory=dict[str, object])
    edges: list[object] = Field(default_factory=list[object])
    input_tokens: object = None
    deadline_s: float | None = None
    budget_usd: Annotated[float, Field(ge=0)] | None = None
    period_s: float | None = None
    min_quality: float | None = None
    priority: int = 0
    guesses: list[str] = Field(default_factory=list[str])
    serve: object = None


SPEC = AgentsSpec


def read(tree: SpecTree, diagnostics: Diagnostics) -> Problem[AgentProblem]:
    """Return the problem that a spec states.

    Raises
    ------
    InputError
        If anything in the spec or the graph is wrong.
    """
    spec = validated(tree, AgentsSpec)
    if spec.serve is not None:
        raise tree.error(
            "a graph that says how its models are served is planned together with its fleet",
            ("serve",),
            hint="Run newel graph-fleet on it.",
        )
    graph = _graph(tree, spec)
    if spec.observed is not None:
        graph = _observed(tree, graph, spec.observed, diagnostics)
    _tell_open_branches(graph, diagnostics)
    _tell_bypassed_branches(graph, diagnostics)
    payload = AgentProblem(
        graph=graph,
        min_first_chunk_tokens=spec.streaming.min_first_chunk,
        e2e_slack=spec.streaming.e2e_slack,
    )
    return Problem(
        kind="agents",
        name=graph.name or "agents",
        cluster=Cluster(name="endpoints", groups=()),
        objective=Objective(name=graph.goal, robust=spec.objective.robust),
        budget=spec.budget.lowered(),
        options=spec.search.lowered(),
        payload=payload,
        inputs=tuple(tree.digests),
    )


def _tell_open_branches(graph: AgentGraph, diagnostics: Diagnostics) -> None:
    """Say where a run may take none of the branches; of several that is more likely a slip than of one."""
    for name, count, left in open_branches(graph):
        message = (
            f"the branches of {name!r} add up to {1.0 - left:.6g}: in {left:.6g} of its runs none of them is "
            "taken, and what only they lead to is not run"
        )
        if count > 1:
            diagnostics.warn("open-branches", message + "; let them add up to 1 if that is not meant")
        else:
            diagnostics.note("open-branches", message)


def _tell_bypassed_branches(graph: AgentGraph, diagnostics: Diagnostics) -> None:
    """Say where a node behind a branch runs whether or not the branch is taken."""
    for source, target, other in bypassed_branches(graph)[:_MAX_TOLD]:
        diagnostics.warn(
            "branch-bypassed",
            f"{target!r} runs whether or not {source!r} branches to it, since {other!r} leads to it too (a "
            f"prompt that takes from a node is an edge); let only {source!r} lead to it, or give the edge "
            f"from {other!r} the same condition",
        )


def _observed(tree: SpecTree, graph: AgentGraph, folder: str, diagnostics: Diagnostics) -> AgentGraph:
    seen, files = read_runs(tree.path_of(folder, ("observed",)), graph.name)
    for file in files:
        tree.add_file_digest("observed", file)
    found = with_observations(graph, seen, diagnostics)
    models = tuple(
        _measured_as_it_writes(old, new, diagnostics)
        for old, new in zip(graph.models, found.models, strict=True)
    )
    return replace(found, models=models)


def _measured_as_it_writes(stated: AgentModel, seen: AgentModel, diagnostics: Diagnostics) -> AgentModel:
    """Return an observed model; its speed was seen with whatever drafts it had, so none come on top."""
    if not seen.drafts or seen.decode_s_per_token == stated.decode_s_per_token:
        return seen
    diagnostics.warn(
        "agents-observed-drafts",
        f"the speed of {seen.name!r} is taken as observed, and its drafts are left out: runs do not say with "
        "which of them it wrote",
    )
    return replace(seen, drafts=())


def _graph(tree: SpecTree, spec: AgentsSpec) -> AgentGraph:
    if spec.graph is not None:
        inside = [key for key in GRAPH_KEYS if key in tree.data and key not in ("kind", "name")]
        if inside:
            raise tree.error("the graph stands in its own file", (inside[0],), hint="Move the key there.")
        file = tree.path_of(spec.graph, ("graph",))
        graph = read_agent_graph(file)
        tree.add_file_digest("graph", file)
        return graph
    data = {key: value for key, value in tree.data.items() if key in GRAPH_KEYS}
    if spec.objective.name is not None:
        if spec.goal is not None:
            raise tree.error("state either goal or objective", ("objective",))
        data["goal"] = spec.objective.name
    return graph_of(Document(data=data, lines=dict(tree.lines)), file=tree.file or "<spec>")
