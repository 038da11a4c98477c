"""``newel simulate`` for plans of agent graphs: one run, or many at once on shared models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from planner.cli.terminal import emit_json, say
from planner.errors import InputError

if TYPE_CHECKING:
    from planner.plan.schema import Plan
    from planner.simulate.agent_job import Order
    from planner.simulate.agent_load import Program

_MAX_DRAWN = 500
_ORDERS = ("fcfs", "priority", "program")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """What the command was given: `beside` are other plans as FILE@RATE, `refused` flags not meant here."""

    requests: int | None
    rate: float | None
    seed: int
    policy: str
    beside: list[str]
    refused: Mapping[str, object]


def simulate_agents(loaded: Plan, file: str, options: AgentOptions, *, as_json: bool) -> None:
    """Show one run beside its predictions, or many where runs are planned per second or a rate is given.

    Raises
    ------
    InputError
        If an option does not apply to agent graphs.
    """
    for name, value in options.refused.items():
        if value:
            raise InputError("agent graphs are simulated without it", key=name, value=value)
    if "routes" in loaded.details or options.rate is not None or options.beside:
        _simulate_load(loaded, file, options, as_json=as_json)
        return
    from planner.simulate.agent_plan import agent_report
    from planner.verify import problem_of

    payload = problem_of(loaded, file=file).payload
    predicted = {name: q.value for name, q in loaded.predicted.items()}
    num_runs = min(options.requests or _MAX_DRAWN, _MAX_DRAWN)
    report = agent_report(payload.graph, loaded.details, predicted, num_runs=num_runs, seed=options.seed)
    _show({"": report}, as_json=as_json)


def _simulate_load(loaded: Plan, file: str, options: AgentOptions, *, as_json: bool) -> None:
    from planner.simulate.agent_load import LoadOptions, load_report

    if options.policy not in _ORDERS:
        raise InputError(
            "not an order for agent graphs", key="--policy", value=options.policy, allowed=", ".join(_ORDERS)
        )
    programs = [_program(loaded, file, options.rate), *(_beside(text) for text in options.beside)]
    chosen = LoadOptions(
        num_runs=options.requests or _MAX_DRAWN, seed=options.seed, order=cast("Order", options.policy)
    )
    predicted = {
        programs[0].name: {
            name: q.value
            for name, q in loaded.predicted.items()
            if options.rate is None or name != "runs_per_s"
        }
    }
    reports = load_report(programs, predicted, chosen)
    _show(reports if len(programs) > 1 else {"": reports[programs[0].name]}, as_json=as_json)


def _program(loaded: Plan, file: str, rate: float | None, name: str | None = None) -> Program:
    from planner.simulate.agent_load import Program
    from planner.verify import problem_of

    if not loaded.details.get("calls"):
        raise InputError("the plan has no calls to simulate", file=file, key="details.calls")
    planned = loaded.predicted.get("runs_per_s")
    runs_per_s = rate if rate is not None else planned.value if planned is not None else None
    if runs_per_s is None:
        raise InputError("how many runs begin per second is not known", key="--rate")
    graph = problem_of(loaded, file=file).payload.graph
    return Program(name=name or loaded.name, graph=graph, details=loaded.details, runs_per_s=runs_per_s)


def _beside(text: str) -> Program:
    """Return the plan that FILE or FILE@RATE names."""
    from planner.plan.serialize import read_plan

    file, at, rate = text.rpartition("@")
    if not at:
        file, rate = text, ""
    try:
        number = float(rate) if rate else None
    except ValueError:
        raise InputError("a plan beside is FILE@RATE", key="--beside", value=text) from None
    if number is not None and not 0.0 < number < 1e9:
        raise InputError("not a rate", key="--beside", value=text, allowed="above 0 per second")
    loaded = read_plan(Path(file))
    if loaded.kind != "agents":
        raise InputError("only plans of agent graphs share models", key="--beside", value=loaded.kind)
    return _program(loaded, file, number, name=file)


def _show(reports: Mapping[str, Mapping[str, Mapping[str, float]]], *, as_json: bool) -> None:
    if as_json:
        emit_json(reports.get("", reports))
        return
    for plan, report in reports.items():
        if plan:
            say(plan)
        for name, figures in report.items():
            say(f"{name:16}" + "".join(f"  {key} {value:.4g}" for key, value in figures.items()))
