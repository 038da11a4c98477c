"""Details of an agent plan: what the graph asks for; calls and edges come from the search."""

from __future__ import annotations

from planner.ir.agent_graph import AgentProblem
from planner.ir.problem import Problem


def details(problem: Problem[AgentProblem]) -> dict[str, object]:
    """Return the facts that stand under `details`."""
    graph = problem.payload.graph
    return {
        "deadline_s": graph.deadline_s,
        "budget_usd": graph.budget_usd,
        "min_quality": graph.min_quality,
        "guesses": list(graph.guesses),
        "endpoints": {m.name: m.endpoint for m in graph.models},
    }
