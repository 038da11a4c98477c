"""``newel simulate``: requests through a served plan, runs of an agent graph, a step of a training plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli._simulate_agents import AgentOptions, simulate_agents
from planner.cli._simulate_fleet import simulate_fleet
from planner.cli._simulate_options import failure, straggler
from planner.cli._simulate_options import tier as tier_of
from planner.cli._simulate_shown import show_reports
from planner.cli.terminal import emit_json, new_diagnostics, say, show_diagnostics
from planner.errors import InputError

if TYPE_CHECKING:
    from planner.plan.schema import Plan
    from planner.simulate.serving import Simulation
    from planner.simulate.serving_options import SimulationOptions

_Fail = Annotated[
    list[str] | None, typer.Option("--fail", help="A replica goes down: POOL/REPLICA@TIME+TIME.")
]
_Slow = Annotated[
    list[str] | None, typer.Option("--slow", help="A replica takes longer: POOL/REPLICA=FACTOR.")
]
_Tier = Annotated[
    list[str] | None,
    typer.Option("--tier", help="Cache below the devices of a replica: NAME=BYTES@BANDWIDTH."),
]
_Beside = Annotated[
    list[str] | None,
    typer.Option("--beside", help="Another plan of an agent graph on the same models: FILE@RATE."),
]
_Policy = Annotated[
    str, typer.Option("--policy", help="Order of waiting requests: fcfs, priority, fair-share, ...")
]
_Routing = Annotated[
    str, typer.Option("--routing", help="Choice of a replica: least-loaded, prefix-aware, ...")
]
_Trace = Annotated[
    list[str] | None,
    typer.Option("--trace", help="Requests to replay, a CSV; for a fleet MODEL=FILE, once per model."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate")(simulate)


def simulate(  # noqa: PLR0913, PLR0917 - one parameter per option of the command
    plan: Annotated[Path, typer.Argument(help="The plan, a JSON file.")],
    trace: _Trace = None,
    requests: Annotated[
        int | None,
        typer.Option("--requests", min=10, max=10_000_000, help="How many (all of a trace, else 5000)."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=1e-9, max=1e9, help="Requests per second, instead of the plan's."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of arrivals and lengths.")] = 0,
    policy: _Policy = "fcfs",
    routing: _Routing = "least-loaded",
    fail: _Fail = None,
    slow: _Slow = None,
    tier: _Tier = None,
    beside: _Beside = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for report.json, requests.csv and trace.json (Perfetto)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier folder of --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Simulate a plan and compare what happens with what it predicts."""
    from planner.plan.serialize import read_plan

    loaded = read_plan(plan)
    if loaded.kind == "agents":
        given = AgentOptions(
            requests=requests,
            rate=rate,
            seed=seed,
            policy=policy,
            beside=beside or [],
            refused={"--trace": trace, "--fail": fail, "--slow": slow, "--tier": tier, "--out": out},
        )
        simulate_agents(loaded, str(plan), given, as_json=as_json)
        return
    if beside:
        raise InputError("only plans of agent graphs are run beside each other", key="--beside")
    if loaded.kind == "training":
        _simulate_training(loaded, str(plan), as_json=as_json)
        return
    from planner.simulate.serving_options import SimulationOptions

    events = (fail or [], slow or [], tier or [])
    plain = SimulationOptions(num_requests=requests, rate_rps=rate, seed=seed, policy=policy, routing=routing)
    options = _with_events(plain, events)
    if loaded.kind == "fleet":
        simulations = simulate_fleet(loaded, str(plan), options, trace or [])
    else:
        simulations = {"": _simulate_serving(loaded, str(plan), options, _only(trace))}
    if out is not None:
        _record(simulations, out, force=force)
    show_reports({name: one.report for name, one in simulations.items()}, as_json=as_json)


def _only(traces: list[str] | None) -> Path | None:
    """Return the trace of a plan that serves one model."""
    if traces and len(traces) > 1:
        raise InputError(
            "a plan of one model replays one trace",
            key="--trace",
            value=", ".join(traces),
            allowed="one file",
        )
    return Path(traces[0]) if traces else None


def _with_events(
    options: SimulationOptions, events: tuple[list[str], list[str], list[str]]
) -> SimulationOptions:
    """Return the options with failures, stragglers and tiers as they were written."""
    fail, slow, tier = events
    return replace(
        options,
        failures=tuple(failure(text) for text in fail),
        stragglers=tuple(straggler(text) for text in slow),
        tiers=tuple(tier_of(text) for text in tier),
    )


def _simulate_serving(loaded: Plan, file: str, options: SimulationOptions, trace: Path | None) -> Simulation:
    """Run requests through a served plan; what reading the trace remarked is shown."""
    from planner.frontend.traces import read_trace
    from planner.simulate.serving import run_simulation
    from planner.verify import problem_of

    diagnostics = new_diagnostics()
    replayed = read_trace(trace, diagnostics) if trace is not None else None
    simulation = run_simulation(loaded, problem_of(loaded, file=file), options, replayed)
    show_diagnostics(diagnostics)
    return simulation


def _record(simulations: Mapping[str, Simulation], folder: Path, *, force: bool) -> None:
    """Write the record of simulations, the whole folder or nothing; those of a fleet's models in folders."""
    from planner.backends import ExportedFile, write_folder
    from planner.simulate.serving_record import record_files

    texts = {
        f"{name}/{path}" if name else path: text
        for name, simulation in simulations.items()
        for path, text in record_files(simulation).items()
    }
    write_folder(folder, tuple(ExportedFile(path=p, text=t) for p, t in texts.items()), force=force)
    say(f"wrote {', '.join(texts)} to {folder}; open trace.json in https://ui.perfetto.dev")


def _simulate_training(loaded: Plan, file: str, *, as_json: bool) -> None:
    """Show the replayed step of a training plan beside its prediction."""
    from planner.simulate.training import TOLERANCE, replay_plan
    from planner.verify import problem_of

    report = replay_plan(loaded, problem_of(loaded, file=file))
    if as_json:
        emit_json(report.as_dict())
        return
    say(f"replayed step {report.step_s:.4g} s, predicted {report.predicted_step_s:.4g} s")
    within = "within" if abs(report.apart) <= TOLERANCE else "outside"
    say(f"apart {report.apart:+.2%}, {within} the tolerance of {TOLERANCE:.0%}")
    say(f"the pipeline takes {report.pipeline_s:.4g} s and idles {report.bubble:.1%} of the devices' time")
