"""What a call is given: texts of its producers by now, of earlier rounds, and the input of its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.runtime.prompts import Given

if TYPE_CHECKING:
    from planner.runtime.execution import Execution
    from planner.runtime.state import CallState


def given_to(run: Execution, state: CallState) -> list[Given]:
    """Return what the producers of a call have given it by now, in the order of the edges.

    Of the rounds of a loop only the latest counts.
    """
    found: list[tuple[str, Given]] = []
    latest: dict[str, str] = {}
    for i in state.plan.inputs:
        edge = run.edges[i]
        source = run.calls[edge.plan.source]
        if edge.outcome == "live" or (edge.outcome == "pending" and edge.offsets):
            text = source.text if edge.text is None else edge.text
            if edge.outcome == "pending":
                text = text[: edge.offsets[-1]]
            latest[source.plan.base] = source.plan.flat.node
            given = Given(source=edge.plan.source, node=source.plan.base, text=text)
            found.append((source.plan.flat.node, given))
    return [given for node, given in found if latest[given.node] == node]


def earlier_texts(run: Execution, node: str) -> list[str]:
    """Return the texts of a node's latest round that is done."""
    rounds: dict[str, list[str]] = {}
    for state in run.calls:
        if state.plan.base == node and state.record.status == "done" and not state.plan.is_joint:
            rounds.setdefault(state.plan.flat.node, []).append(state.text)
    return list(rounds.values())[-1] if rounds else []


def question_of(run: Execution, state: CallState) -> str:
    """Return the input of a call: inside a body what the body was given, else the run's."""
    name = state.plan.flat.name
    while "/" in name:
        name = name.rpartition("/")[0]
        enter = run.plan.by_name.get(f"{name}/enter")
        if enter is not None and (text := run.calls[enter.index].text):
            return text
    return run.inputs.question
