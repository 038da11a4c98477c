"""Serving side of ``newel calibrate tune``."""

from __future__ import annotations

from pathlib import Path

from planner.cli.terminal import emit, emit_json, say


def tune_serving(runs: Path, software: str, output: Path | None, *, as_json: bool) -> None:
    """Tune an engine's profile to the runs of a file, and write or print it."""
    from datetime import UTC, datetime

    from planner.accuracy.calibrate import write_text
    from planner.accuracy.serving.tune import profile_text, told, tune_software
    from planner.cli._accuracy_serving import find_group, find_model

    day = datetime.now(UTC).date()
    result = tune_software(runs, software, find_model, find_group, day=day)
    text = profile_text(result.profile)
    if as_json:
        emit_json(
            {
                "profile": result.profile.model_dump(mode="json"),
                "constants": result.tuned.constants,
                "error_before": result.tuned.error_before,
                "error_after": result.tuned.error_after,
                "error_left_out": result.tuned.error_left_out,
                "num_runs": result.num_runs,
                "refused": list(result.refused),
            }
        )
    if output is not None:
        write_text(output, text)
    elif not as_json:
        emit(text)
    for line in told(result):
        say(line)
