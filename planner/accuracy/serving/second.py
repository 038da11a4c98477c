"""What a simulation says of measured runs, beside what the cost model says of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from planner.accuracy.score import Errors, errors
from planner.accuracy.serving.predict import measured_values
from planner.accuracy.serving.score import ScoredRun
from planner.accuracy.serving.setup import Setup

TARGETS = {"e2e": 10.0, "ttft": 25.0}
"""Percent within which the end-to-end time and the time to first token of a run are wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondScore:
    """Errors of one metric over the runs of a cell, by the cost model and by the simulation.

    `statistic` is what of the requests of a run is compared: of a log the mean or the 90th percentile, else
    what the row states. `within` are the shares of runs, percent, that lie within the target.
    """

    source: str
    device: str
    engine: str
    mode: str
    metric: str
    statistic: str
    num_runs: int
    model: Errors | None
    simulated: Errors
    model_within: float | None
    simulated_within: float


def measured_run(setup: Setup) -> dict[str, float]:
    """Return what was measured in a run, seconds, by metric.

    Without a figure for it the end-to-end time is that to the first token and all steps after it. Of a
    log it is the mean of the end-to-end times, and the 90th percentile of those to first tokens.
    """
    if setup.log is not None:
        return {
            "e2e": float(np.mean(setup.log.e2e_s)),
            "ttft": float(np.percentile(setup.log.ttft_s, 90.0)),
        }
    found = measured_values(setup)
    if "e2e" not in found and "ttft" in found and "tpot" in found:
        found["e2e"] = found["ttft"] + found["tpot"] * (setup.lengths.mean_output - 1.0)
    return {name: value for name, value in found.items() if name in TARGETS}


def second_scores(runs: Iterable[ScoredRun]) -> list[SecondScore]:
    """Return the scores of simulated runs, one per source, device, engine, mode and metric."""
    cells: dict[tuple[str, str, str, str], list[ScoredRun]] = defaultdict(list)
    for run in runs:
        if run.simulated and run.setup is not None:
            row = run.row
            cells[row.source, row.text("gpu"), row.text("framework"), row.mode].append(run)
    return [
        score
        for cell, found in sorted(cells.items())
        for metric in TARGETS
        if (score := _score(cell, metric, found)) is not None
    ]


def second_as_data(runs: Sequence[ScoredRun]) -> dict[str, object]:
    """Return the scores, and every run of a log by itself, as plain data."""
    return {
        "targets": TARGETS,
        "scores": [asdict(score) for score in second_scores(runs)],
        "num_runs": sum(bool(run.simulated) for run in runs),
    }


def _score(cell: tuple[str, str, str, str], metric: str, runs: Sequence[ScoredRun]) -> SecondScore | None:
    told = [t for run in runs if (t := _told(run, metric)) is not None]
    if not told:
        return None
    measured, simulated, modelled = np.array(told).T
    known = np.isfinite(modelled) & (modelled > 0.0)
    source, device, engine, mode = cell
    from_logs = any(run.setup is not None and run.setup.log is not None for run in runs)
    return SecondScore(
        source=source,
        device=device,
        engine=engine,
        mode=mode,
        metric=metric,
        statistic="p90" if from_logs and metric == "ttft" else ("mean" if from_logs else "as stated"),
        num_runs=len(told),
        model=errors(modelled[known], measured[known]) if known.any() else None,
        simulated=errors(simulated, measured),
        model_within=_within(modelled[known], measured[known], metric),
        simulated_within=_within(simulated, measured, metric) or 0.0,
    )


def _within(predicted: np.ndarray, measured: np.ndarray, metric: str) -> float | None:
    if not measured.size:
        return None
    return round(100.0 * float(np.mean(np.abs(predicted / measured - 1.0) <= TARGETS[metric] / 100.0)), 1)


def _told(run: ScoredRun, metric: str) -> tuple[float, float, float] | None:
    """Return what was measured, simulated and predicted (NaN where nothing was)."""
    if run.setup is None or metric not in run.simulated:
        return None
    measured = measured_run(run.setup).get(metric)
    values: Mapping[str, float] = run.prediction.values if run.prediction is not None else {}
    key = "ttft_p90" if run.setup.log is not None and metric == "ttft" else metric
    return None if measured is None else (measured, run.simulated[metric], values.get(key, float("nan")))
