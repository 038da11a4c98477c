"""Scores of training predictions: errors per source and device, baselines, ranks inside groups, memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from planner.accuracy.score import Errors, errors
from planner.accuracy.table import FloatArray
from planner.accuracy.training.metrics import FEASIBLE_METRIC, PARTIAL_MEMORY
from planner.accuracy.training.predict import Prediction, predict, question_of
from planner.accuracy.training.rows import RowError, TrainingRow, TrainingTable
from planner.space.training.software import TrainingSoftware

_FEWEST_RANKED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A row that was not priced."""

    line: int
    source: str
    device: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingScore:
    """How the runs of one source on one device were predicted; errors in percent of the measured step time.

    `roofline` divides the FLOPs done by the peak, `constant` uses the one utilisation that fits these very
    rows best; `left_out` predicts each row with the utilisation that fits the other rows of its source and
    device best, as a prediction must (None with a single row). `coverage_90` is the share of rows inside the
    90 % interval, percent. `memory` compares peak allocated memory where it was measured. `wrongly_feasible`
    counts runs that ran out of memory and were predicted to fit, `wrongly_infeasible` runs that ran and were
    predicted not to.
    """

    source: str
    device: str
    software: tuple[str, ...]
    num_rows: int
    num_timed: int
    num_refused: int
    model: Errors | None
    roofline: Errors | None
    constant: Errors | None
    left_out: Errors | None
    coverage_90: float | None
    memory: Errors | None
    num_memory: int
    num_out_of_memory: int
    wrongly_feasible: int
    wrongly_infeasible: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Alternatives for one model, batch and number of devices.

    `regret_pct` is how much slower the plan that is predicted fastest is than the fastest measured one;
    `spearman` is None with fewer than three plans.
    """

    source: str
    model: str
    device: str
    num_devices: int
    global_batch: int
    num_plans: int
    spearman: float | None
    regret_pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """All that one table gives."""

    scores: tuple[TrainingScore, ...]
    groups: tuple[Group, ...]
    predictions: tuple[Prediction, ...]
    refusals: tuple[Refusal, ...]


def score_training(table: TrainingTable, forced: TrainingSoftware | None = None) -> TrainingReport:
    """Return the scores of a table; `forced` prices all rows with one training stack."""
    predictions: list[Prediction] = []
    refusals = [Refusal(line=n, source=s, device=d, reason=why) for n, s, d, why in table.refused]
    for row in table.rows:
        try:
            predictions.append(predict(question_of(row, forced)))
        except RowError as error:
            refusals.append(
                Refusal(line=row.line, source=row.source, device=row.text("gpu_type"), reason=str(error))
            )
    cells: dict[tuple[str, str], list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        cells[(prediction.row.source, prediction.row.text("gpu_type"))].append(prediction)
    refused = Counter((refusal.source, refusal.device) for refusal in refusals)
    keys = sorted(set(cells) | set(refused))
    return TrainingReport(
        scores=tuple(_score(key, cells.get(key, []), refused[key]) for key in keys),
        groups=tuple(groups_of(predictions)),
        predictions=tuple(predictions),
        refusals=tuple(sorted(refusals, key=lambda refusal: refusal.line)),
    )


def _score(key: tuple[str, str], found: Sequence[Prediction], num_refused: int) -> TrainingScore:
    timed = [p for p in found if p.measured_s is not None]
    measured = np.array([p.measured_s for p in timed], dtype=np.float64)
    predicted = np.array([p.step_s for p in timed])
    ideal = np.array([p.flops_s for p in timed])
    done = np.array([p.flops_s * (4.0 / 3.0 if p.strategy.recompute == "full" else 1.0) for p in timed])
    inside = [p.low_s <= p.measured_s <= p.high_s for p in timed if p.measured_s is not None]
    sized = [p for p in found if p.measured_bytes is not None]
    memory = (
        np.array([p.predicted_bytes for p in sized]),
        np.array([p.measured_bytes for p in sized], dtype=np.float64),
    )
    failed = [p for p in found if _ran_out(p.row)]
    ran = [p for p in found if not _ran_out(p.row) and p.row.metric.lower() not in PARTIAL_MEMORY]
    return TrainingScore(
        source=key[0],
        device=key[1],
        software=tuple(sorted({p.software for p in found})),
        num_rows=len(found) + num_refused,
        num_timed=len(timed),
        num_refused=num_refused,
        model=errors(predicted, measured) if timed else None,
        roofline=errors(done, measured) if timed else None,
        constant=errors(ideal * best_factor(ideal, measured), measured) if timed else None,
        left_out=errors(ideal * factors_left_out(ideal, measured), measured) if len(timed) > 1 else None,
        coverage_90=round(100.0 * sum(inside) / len(inside), 1) if inside else None,
        memory=errors(*memory) if sized else None,
        num_memory=len(sized),
        num_out_of_memory=len(failed),
        wrongly_feasible=sum(p.fits for p in failed),
        wrongly_infeasible=sum(not p.fits for p in ran),
    )


def _ran_out(row: TrainingRow) -> bool:
    return row.metric.lower() == FEASIBLE_METRIC and row.value == 0.0


def best_factor(ideal: FloatArray, measured: FloatArray) -> float:
    """Return the factor f that minimises mean |f ideal / measured - 1|: a weighted median of the ratios."""
    ratio = ideal / measured
    order = np.argsort(1.0 / ratio)
    weight = np.cumsum(ratio[order])
    return float(1.0 / ratio[order][np.searchsorted(weight, weight[-1] / 2.0)])


def factors_left_out(ideal: FloatArray, measured: FloatArray) -> FloatArray:
    """Return for each of two or more rows the `best_factor` of all other rows."""
    rows = np.arange(len(ideal))
    return np.array([best_factor(ideal[rows != row], measured[rows != row]) for row in rows])


def groups_of(predictions: Iterable[Prediction]) -> list[Group]:
    """Return the groups of alternatives: same source, model, devices, batch, length, format and stack.

    Runs that differ only in what is not modelled are one plan with their mean time.
    """
    cells: dict[tuple[object, ...], list[Prediction]] = defaultdict(list)
    for p in predictions:
        if p.measured_s is not None:
            row = p.row
            shape = tuple(row.text(n) for n in ("layers", "hidden", "heads", "ffn", "vocab", "seq_len"))
            cells[(row.source, shape, p.device, row.gpus, row.global_batch, row.fmt, p.software)].append(p)
    found: list[Group] = []
    for key, members in cells.items():
        plans: dict[tuple[object, ...], list[Prediction]] = defaultdict(list)
        for p in members:
            plans[(p.strategy, p.row.text("schedule"))].append(p)
        if len(plans) < 2:
            continue
        measured = np.array([_mean_s(same) for same in plans.values()])
        predicted = np.array([same[0].step_s for same in plans.values()])
        first = members[0]
        found.append(
            Group(
                source=str(key[0]),
                model=first.row.text("model"),
                device=first.device,
                num_devices=first.row.gpus,
                global_batch=first.row.global_batch or 0,
                num_plans=len(plans),
                spearman=spearman(predicted, measured) if len(plans) >= _FEWEST_RANKED else None,
                regret_pct=round(float(measured[predicted.argmin()] / measured.min() - 1.0) * 100.0, 2),
            )
        )
    return found


def _mean_s(same: Sequence[Prediction]) -> float:
    return sum(p.measured_s or 0.0 for p in same) / len(same)


def spearman(first: FloatArray, second: FloatArray) -> float:
    """Return the rank correlation; ties share their mean rank, a constant gives 0."""
    a, b = (_ranks(values) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return round(float((a * b).sum()) / norm, 3) if norm > 0.0 else 0.0


def _ranks(values: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse.ravel()], dtype=np.float64)
