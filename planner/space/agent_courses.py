"""Decisions about a graph's calls, replayed in every outcome of its branches and written as schedules.

The times of a plan are those of `planner.space.agent_replay`: what streams on from call to call starts as
soon as its chunks are there and takes as long as it takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.ir.agent_graph import AgentGraph
from planner.ir.scheduling_problem import Run, Schedule, SchedulingProblem, Task
from planner.space.agent_lower import lower
from planner.space.agent_outcomes import Combined, Part, Worlds
from planner.space.agent_replay import Course, Replay, Replayed
from planner.space.agent_streams import Stream

_SLACK_S = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """The model of every model call, how consumers stream, and who goes first (the smaller), by call."""

    models: dict[str, str]
    streams: dict[str, Stream]
    places: dict[str, float]


class Courses:
    """Replays decisions in all outcomes of a graph."""

    def __init__(self, graph: AgentGraph, worlds: Worlds) -> None:
        self.graph = graph
        self.worlds = worlds
        self.replays = [Replay(graph, w.flow) for w in worlds.worlds]
        self._early = [any(c.join is not None for c in w.flow.flat.calls) for w in worlds.worlds]

    def run(self, decisions: Decisions) -> list[Replayed] | None:
        """Return the courses of every outcome; None if some call never starts."""
        found: list[Replayed] = []
        models = {name: (model,) for name, model in decisions.models.items()}
        for replay in self.replays:
            places = [decisions.places.get(s.call.name, 0.0) for s in replay.stations]
            replayed = replay.run(models, decisions.streams, places)
            if replayed is None:
                return None
            found.append(replayed)
        return found

    def value(self, found: list[Replayed]) -> float:
        """Return the expected time that the goal counts, seconds: to the first tokens or to the end.

        Of `min_cost` it is that to the end.
        """
        total = 0.0
        for world, replay, replayed, early in zip(
            self.worlds.worlds, self.replays, found, self._early, strict=True
        ):
            courses = replayed.courses
            finals = [courses[i] for i in replay.finals]
            if self.graph.goal == "min_ttft":
                time_s = sum(c.first_s for c in finals) / len(finals)
            elif early:
                time_s = sum(c.end_s for c in finals) / len(finals)
            else:
                time_s = max(c.end_s for c in courses)
            total += world.weight * time_s
        return total

    def latency_s(self, found: list[Replayed]) -> float:
        """Return the expected end of a run, seconds."""
        return sum(
            w.weight * max(c.end_s for c in r.courses) for w, r in zip(self.worlds.worlds, found, strict=True)
        )

    def combined(self, decisions: Decisions, found: list[Replayed]) -> tuple[Combined, Schedule]:
        """Return the courses as tasks without a choice, outcome after outcome, and their schedule."""
        parts: list[Part] = []
        tasks: list[Task] = []
        runs: list[Run] = []
        for world, replayed in zip(self.worlds.worlds, found, strict=True):
            courses = replayed.courses
            names = [c.name for c in world.flow.flat.calls]
            streams = {
                name: _timed(decisions.streams[name], course)
                for name, course in zip(names, courses, strict=True)
                if name in decisions.streams
            }
            low = lower(self.graph, world.flow, streams, decisions.models)
            parts.append(Part(world=world, lowered=low, first=len(tasks)))
            tasks += low.problem.tasks[: len(names)]
            runs += [Run(mode=0, start_s=c.start_s, end_s=c.end_s) for c in courses]
        problem = SchedulingProblem(name=self.graph.name, tasks=tuple(tasks))
        return Combined(problem=problem, parts=tuple(parts)), Schedule(runs=tuple(runs))

    def keeps_limits(self, combined: Combined, schedule: Schedule) -> bool:
        """Whether deadlines and the budget are kept."""
        tasks = combined.problem.tasks
        late = any(
            t.deadline_s is not None and r.end_s > t.deadline_s + _SLACK_S
            for t, r in zip(tasks, schedule.runs, strict=True)
        )
        budget = self.graph.budget_usd
        return not late and (budget is None or expected_usd(combined) <= budget * (1.0 + _SLACK_S))


def expected_usd(combined: Combined) -> float:
    """Return the expected price of a run whose calls have one mode each."""
    return sum(p.world.weight * sum(row[0] for row in p.lowered.usd if row) for p in combined.parts)


def _timed(stream: Stream, course: Course) -> Stream:
    return replace(
        stream,
        first_token_s=course.first_s - course.start_s,
        duration_s=course.end_s - course.start_s,
        prefilled_tokens=course.prefilled_tokens,
    )
