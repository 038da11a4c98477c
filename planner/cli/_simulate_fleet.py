"""``newel simulate`` of a fleet: every priced model in a simulation of its own, on its own trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from planner.cli.terminal import new_diagnostics, say, show_diagnostics
from planner.errors import InputError

if TYPE_CHECKING:
    from planner.ir.trace import RequestTrace
    from planner.plan.parts import ModelPart
    from planner.plan.schema import Plan
    from planner.simulate.serving import Simulation
    from planner.simulate.serving_options import SimulationOptions


def simulate_fleet(
    plan: Plan, file: str, options: SimulationOptions, traces: Sequence[str]
) -> dict[str, Simulation]:
    """Return the simulation of every priced model, by name.

    `traces` are MODEL=FILE; models without one get requests as their workloads have them, at the rate at
    which they are served. Failures and stragglers go to the models whose pools they name.

    Raises
    ------
    InputError
        If there is nothing to simulate, or a trace, failure or straggler is for what the fleet does not have.
    """
    from planner.plan.parts import model_parts
    from planner.simulate.serving import run_simulation
    from planner.verify import problem_of

    parts = model_parts(plan, problem_of(plan, file=file))
    if not parts:
        raise InputError(
            "this plan has nothing to simulate: no model of it is priced",
            file=file,
            key="pools",
            hint="Stages with stated rates have no requests to follow.",
        )
    recorded = _traces(traces, [part.name for part in parts])
    _check_pools(parts, options)
    found: dict[str, Simulation] = {}
    without: list[str] = []
    for part in parts:
        trace, served = recorded.get(part.name), part.plan.predicted.get("request_rate_rps")
        if trace is None and options.rate_rps is None and (served is None or served.value <= 0.0):
            without.append(part.name)
            continue
        found[part.name] = run_simulation(part.plan, part.problem, _own(options, part), trace)
    stated = cast("Mapping[str, object]", plan.details.get("models", {}))
    idle = [model for model in stated if model not in found and model not in without]
    if idle:
        say(f"not simulated, as nothing of them is priced: {', '.join(idle)}")
    if without:
        say(f"not simulated, as they have no traffic (--rate gives some): {', '.join(without)}")
    return found


def _traces(texts: Sequence[str], models: Sequence[str]) -> Mapping[str, RequestTrace]:
    from planner.frontend.traces import read_trace

    found: dict[str, RequestTrace] = {}
    for text in texts:
        model, separator, path = text.partition("=")
        if not separator or model not in models:
            raise InputError(
                "a trace of a fleet is for one of its priced models",
                key="--trace",
                value=text,
                allowed=", ".join(f"{name}=FILE" for name in models),
            )
        if model in found:
            raise InputError("this model has a trace already", key="--trace", value=text)
        diagnostics = new_diagnostics()
        found[model] = read_trace(Path(path), diagnostics)
        show_diagnostics(diagnostics)
    return found


def _check_pools(parts: Sequence[ModelPart], options: SimulationOptions) -> None:
    pools = [pool.name for part in parts for pool in part.plan.pools]
    for item in (*options.failures, *options.stragglers):
        if item.pool not in pools:
            raise InputError(
                "the plan has no such pool", key="--fail, --slow", value=item.pool, allowed=", ".join(pools)
            )


def _own(options: SimulationOptions, part: ModelPart) -> SimulationOptions:
    """Return the options with the events of one model's pools."""
    pools = {pool.name for pool in part.plan.pools}
    return replace(
        options,
        failures=tuple(item for item in options.failures if item.pool in pools),
        stragglers=tuple(item for item in options.stragglers if item.pool in pools),
    )
