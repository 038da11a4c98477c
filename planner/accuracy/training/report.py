"""A training report as plain data for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from planner.accuracy.training.predict import Prediction
from planner.accuracy.training.score import TrainingReport


def report_as_data(report: TrainingReport) -> dict[str, object]:
    """Return the report: scores, groups, every prediction and every refusal."""
    return {
        "scores": [asdict(score) for score in report.scores],
        "groups": [asdict(group) for group in report.groups],
        "summary": summary(report),
        "rows": [_row(prediction) for prediction in report.predictions],
        "refusals": [asdict(refusal) for refusal in report.refusals],
    }


def summary(report: TrainingReport) -> Mapping[str, float | int | None]:
    """Return what all sources have together: interval coverage, regret, memory."""
    timed = [p for p in report.predictions if p.measured_s is not None]
    inside = sum(p.low_s <= (p.measured_s or 0.0) <= p.high_s for p in timed)
    regrets = [group.regret_pct for group in report.groups]
    return {
        "num_rows": len(report.predictions) + len(report.refusals),
        "num_refused": len(report.refusals),
        "coverage_90": round(100.0 * inside / len(timed), 1) if timed else None,
        "mean_regret_pct": round(sum(regrets) / len(regrets), 2) if regrets else None,
        "worst_regret_pct": max(regrets, default=None),
        "out_of_memory": sum(score.num_out_of_memory for score in report.scores),
        "wrongly_feasible": sum(score.wrongly_feasible for score in report.scores),
    }


def _row(p: Prediction) -> dict[str, object]:
    strategy = p.strategy
    return {
        "line": p.row.line,
        "source": p.row.source,
        "model": p.row.text("model"),
        "device": p.device,
        "num_devices": p.row.gpus,
        "software": p.software,
        "metric": p.row.metric,
        "value": p.row.value,
        "step_time_s": p.step_s,
        "step_time_low_s": p.low_s,
        "step_time_high_s": p.high_s,
        "measured_step_time_s": p.measured_s,
        "mfu": p.mfu,
        "tokens_per_s": p.tokens_per_s,
        "allocated_bytes": p.allocated_bytes,
        "peak_bytes": p.peak_bytes,
        "measured_bytes": p.measured_bytes,
        "fits": p.fits,
        "strategy": {
            "tp": strategy.tp,
            "pp": strategy.pp,
            "dp": strategy.dp,
            "cp": strategy.cp,
            "ep": strategy.ep,
            "num_chunks": strategy.num_chunks,
            "micro_batch": strategy.micro_batch,
            "zero": strategy.zero,
            "recompute": strategy.recompute,
            "sequence_parallel": strategy.sequence_parallel,
            "schedule": strategy.schedule,
        },
        "terms_s": dict(p.terms),
        "assumed": list(p.assumed),
    }
