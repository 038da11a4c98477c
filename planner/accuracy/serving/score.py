"""Errors of predicted serving runs, per source, device, engine and mode, and what choosing by them costs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from planner.accuracy.score import Errors, errors
from planner.accuracy.serving.predict import METRICS, RunPrediction, measured_values, roofline_values
from planner.accuracy.serving.rows import ServingRow
from planner.accuracy.serving.setup import Setup
from planner.accuracy.table import FloatArray

_NORMAL_90 = 1.6449
_MIN_ALTERNATIVES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRun:
    """A row with its prediction and what was measured, or with the reason why it was refused.

    `simulated` is what a simulation says of the run, by metric, where one was asked for.
    """

    row: ServingRow
    setup: Setup | None
    prediction: RunPrediction | None
    refusal: str = ""
    simulated: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingScore:
    """How the runs of one source on one device under one engine in one mode were predicted.

    `num_rows` counts the rows that state the metric, refused ones included. `constant` multiplies the
    roofline by the one factor that fits these very rows best. `coverage_90` is the share of rows inside the
    90 % interval, percent. Errors are None where every row was refused.
    """

    source: str
    device: str
    engine: str
    mode: str
    metric: str
    num_rows: int = 0
    num_refused: int = 0
    model: Errors | None = None
    roofline: Errors | None = None
    constant: Errors | None = None
    coverage_90: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A group of alternatives: configurations of one model on one kind of device under one load.

    `spearman` is the rank correlation of predicted and measured throughput per device; `regret` how much
    slower, in percent, the configuration that we rank first is than the best measured one.
    """

    source: str
    device: str
    engine: str
    model: str
    load: str
    num_alternatives: int
    spearman: float
    regret: float
    chosen: str
    best: str


def score_runs(runs: Iterable[ScoredRun]) -> list[ServingScore]:
    """Return the scores of runs, one per source, device, engine, mode and metric."""
    cells: dict[tuple[str, str, str, str], list[ScoredRun]] = defaultdict(list)
    for run in runs:
        row = run.row
        cells[row.source, row.text("gpu"), row.text("framework"), row.mode].append(run)
    scores: list[ServingScore] = []
    for (source, device, engine, mode), found in sorted(cells.items()):
        for metric in METRICS:
            if any(_states(run.row, metric) for run in found):
                blank = ServingScore(source=source, device=device, engine=engine, mode=mode, metric=metric)
                scores.append(_score(blank, found))
    return scores


def refusals(runs: Iterable[ScoredRun]) -> dict[str, dict[str, int]]:
    """Return how many rows of each source were refused, by reason."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        if run.prediction is None:
            found[run.row.source][run.refusal] += 1
    return {source: dict(sorted(reasons.items())) for source, reasons in sorted(found.items())}


def errors_of(runs: Iterable[ScoredRun], metric: str) -> Errors | None:
    """Return the errors of one metric over runs, None if none has it."""
    pairs = [pair for run in runs if (pair := compared(run, metric)) is not None]
    if not pairs:
        return None
    predicted, measured = np.array(pairs).T
    return errors(predicted, measured)


def coverage(runs: Iterable[ScoredRun], metric: str) -> float | None:
    """Return the percentage of runs whose measured value lies inside the predicted 90 % interval."""
    inside = [
        abs(np.log(pair[1] / pair[0])) <= _NORMAL_90 * run.prediction.sigma[metric]
        for run in runs
        if run.prediction is not None and (pair := compared(run, metric)) is not None
    ]
    return round(100.0 * float(np.mean(inside)), 1) if inside else None


def choices(runs: Iterable[ScoredRun]) -> list[Choice]:
    """Return the groups of alternatives with at least two measured configurations.

    Alternatives share source, model, formats, device, engine and its version, lengths and load per device:
    each is then a way to serve the same traffic with the same devices, replicated to fill them. Repeated runs
    of one configuration count once, by their geometric mean.
    """
    groups: dict[tuple[str, ...], dict[str, list[tuple[float, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for run in runs:
        pair = compared(run, "throughput")
        if pair is None or run.setup is None:
            continue
        setup = run.setup
        share = setup.load / setup.num_devices
        lengths = f"{run.row.number('isl'):g} in, {run.row.number('osl'):g} out"
        key = (
            run.row.source,
            setup.device,
            f"{setup.engine} {run.row.text('version')}".strip(),
            f"{setup.model_name} {setup.halves[0].weight_fmt}",
            f"{run.row.mode}, {lengths}, {share:g} per device",
        )
        each = (pair[0] / setup.num_devices, pair[1] / setup.num_devices)
        groups[key][_label(setup)].append(each)
    return [_choice(key, found) for key, found in sorted(groups.items()) if len(found) >= _MIN_ALTERNATIVES]


def scores_as_data(runs: Sequence[ScoredRun]) -> dict[str, object]:
    """Return everything as plain data for JSON."""
    found = choices(runs)
    return {
        "num_rows": len(runs),
        "num_refused": sum(run.prediction is None for run in runs),
        "refusals": refusals(runs),
        "scores": [asdict(score) for score in score_runs(runs)],
        "alternatives": [asdict(choice) for choice in found],
        "regret": regret_summary(found),
    }


def regret_summary(found: Sequence[Choice]) -> dict[str, float]:
    """Return the number of groups, mean and worst regret in percent, and the mean rank correlation."""
    if not found:
        return {"num_groups": 0}
    regrets = np.array([choice.regret for choice in found])
    return {
        "num_groups": len(found),
        "mean": round(float(regrets.mean()), 2),
        "p90": round(float(np.percentile(regrets, 90)), 2),
        "worst": round(float(regrets.max()), 2),
        "mean_spearman": round(float(np.mean([choice.spearman for choice in found])), 3),
    }


def rank_correlation(left: FloatArray, right: FloatArray) -> float:
    """Return Spearman's rank correlation with mean ranks for ties; 0 where one side is constant.

    Source: Pearson's correlation of the ranks (Spearman 1904).
    """
    a, b = _ranks(left), _ranks(right)
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread > 0.0 else 0.0


def _ranks(values: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2.0)[inverse]


def compared(run: ScoredRun, metric: str) -> tuple[float, float] | None:
    """Return the predicted and the measured value of a metric, where there are both."""
    if run.prediction is None or run.setup is None:
        return None
    measured = measured_values(run.setup).get(metric)
    predicted = run.prediction.values.get(metric)
    return None if measured is None or predicted is None or predicted <= 0.0 else (predicted, measured)


def _states(row: ServingRow, metric: str) -> bool:
    if metric == "throughput":
        return bool(row.number("out_tok_s_total") or row.number("out_tok_s_per_gpu"))
    return bool(row.number(f"{metric}_ms"))


def _score(blank: ServingScore, runs: Sequence[ScoredRun]) -> ServingScore:
    metric = blank.metric
    stated = [run for run in runs if _states(run.row, metric)]
    priced = [run for run in stated if compared(run, metric) is not None]
    counted = replace(blank, num_rows=len(stated), num_refused=len(stated) - len(priced))
    if not priced:
        return counted
    measured = np.array([pair[1] for run in priced if (pair := compared(run, metric)) is not None])
    roof = np.array([roofline_values(run.setup)[metric] for run in priced if run.setup is not None])
    factor = float(np.exp(np.median(np.log(measured / roof))))
    return replace(
        counted,
        model=errors_of(priced, metric),
        roofline=errors(roof, measured),
        constant=errors(roof * factor, measured),
        coverage_90=coverage(priced, metric),
    )


def _label(setup: Setup) -> str:
    parts: list[str] = []
    for half in setup.halves:
        s = half.strategy
        degrees = (("tp", s.tp), ("pp", s.pp), ("dp", s.attention_dp), ("ep", s.ep))
        parts.append(f"{half.replicas}x" + " ".join(f"{n}{v}" for n, v in degrees if v > 1 or n == "tp"))
    return " + ".join(parts)


def _choice(key: tuple[str, ...], found: Mapping[str, Sequence[tuple[float, float]]]) -> Choice:
    names = sorted(found)
    predicted, measured = (
        np.array([np.exp(np.mean(np.log([run[side] for run in found[name]]))) for name in names])
        for side in (0, 1)
    )
    chosen, best = int(predicted.argmax()), int(measured.argmax())
    return Choice(
        source=key[0],
        device=key[1],
        engine=key[2],
        model=key[3],
        load=key[4],
        num_alternatives=len(names),
        spearman=round(rank_correlation(predicted, measured), 3),
        regret=round((float(measured[best] / measured[chosen]) - 1.0) * 100.0, 2),
        chosen=names[chosen],
        best=names[best],
    )
