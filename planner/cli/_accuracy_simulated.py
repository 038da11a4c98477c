"""``newel accuracy --simulate``: measured runs beside the cost model and the simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from planner.cli.terminal import emit_json, new_diagnostics, say, show_diagnostics, stdout_console
from planner.simulate.fixed import FixedLoad, FixedSimulator

if TYPE_CHECKING:
    from planner.accuracy.score import Errors
    from planner.accuracy.serving.score import ScoredRun
    from planner.accuracy.serving.setup import Setup
    from planner.ir.trace import RequestTrace
    from planner.space.evaluate import Evaluator


@dataclass(slots=True, kw_only=True)
class Simulator:
    """Simulates measured runs, and reads the logs that they name."""

    engines: FixedSimulator = field(default_factory=FixedSimulator)

    def read_log(self, path: Path) -> RequestTrace:
        """Return the requests of a log; what reading it remarked is shown."""
        from planner.frontend.traces import read_trace

        diagnostics = new_diagnostics()
        log = read_trace(path, diagnostics)
        show_diagnostics(diagnostics)
        return log

    def simulate(self, evaluator: Evaluator, setup: Setup) -> Mapping[str, float]:
        """Return the end-to-end time and that to the first token, as the measured figures are meant."""
        from planner.accuracy.serving.predict import percentile_of

        load = _load(setup)
        run = self.engines.run(evaluator, setup.halves, load) if load is not None else None
        if run is None:
            return {}
        first, whole = (90.0, None) if setup.log is not None else (percentile_of(setup),) * 2
        return {"e2e": run.statistic(run.e2e_s, whole), "ttft": run.statistic(run.ttft_s, first)}


def _load(setup: Setup) -> FixedLoad | None:
    """Return the load of a run; None for static batches and for throughput at any latency."""
    from planner.accuracy.serving.predict import transfer_link

    link = transfer_link(setup.group) if len(setup.halves) > 1 else None
    if setup.log is not None:
        return FixedLoad(trace=setup.log, link=link)
    if setup.kind in ("closed", "disaggregated"):
        return FixedLoad(num_clients=max(1, round(setup.load)), link=link)
    return FixedLoad(rate_rps=setup.load) if setup.kind == "open" else None


def simulated_table(path: Path, sample: int | None = None) -> list[ScoredRun]:
    """Return the rows of a table of serving runs with what the cost model and the simulator say of them.

    With a sample at most so many of every source, device, engine and mode.
    """
    from planner.accuracy.serving.run import Asked, score_serving
    from planner.cli._accuracy_serving import find_group, find_model

    asked = Asked(sample=sample, progress=new_diagnostics().progress)
    return score_serving(path, find_model, find_group, second=Simulator(), asked=asked)


def show_simulated(runs: Sequence[ScoredRun], *, as_json: bool) -> None:
    """Print the errors of both, or all as JSON."""
    from planner.accuracy.serving.score import refusals
    from planner.accuracy.serving.second import second_as_data, second_scores

    if as_json:
        emit_json(second_as_data(runs) | {"refusals": refusals(runs)})
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("source", "device", "engine", "mode", "metric", "of"):
        table.add_column(name, overflow="fold")
    for name in (
        "runs",
        "model p50",
        "p90",
        "bias",
        "in target",
        "simulated p50",
        "p90",
        "bias",
        "in target",
    ):
        table.add_column(name, justify="right")
    for score in second_scores(runs):
        table.add_row(
            *(escape(t) for t in (score.source, score.device, score.engine, score.mode)),
            score.metric,
            score.statistic,
            str(score.num_runs),
            *_cells(score.model, score.model_within),
            *_cells(score.simulated, score.simulated_within),
        )
    stdout_console().print(table)
    num_refused = sum(run.prediction is None for run in runs)
    done = sum(bool(run.simulated) for run in runs)
    say(f"{done} runs simulated, {len(runs) - done - num_refused} not, {num_refused} refused")


def _cells(errors: Errors | None, within: float | None) -> tuple[str, str, str, str]:
    if errors is None or within is None:
        return ("-", "-", "-", "-")
    return (f"{errors.p50:.1f}", f"{errors.p90:.1f}", f"{errors.bias:+.1f}", f"{within:.0f} %")
