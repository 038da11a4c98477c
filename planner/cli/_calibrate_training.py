"""``newel calibrate tune --training``: a training stack tuned to a few runs of the user's own cluster."""

from __future__ import annotations

from pathlib import Path

from planner.cli.terminal import emit, emit_json, say


def tune_training(runs: Path, software: str, output: Path | None, *, as_json: bool) -> None:
    """Tune a shipped stack, print or write the profile, and say what was gained."""
    from datetime import UTC, datetime

    from planner.accuracy.calibrate import write_text
    from planner.accuracy.training.rows import read_training
    from planner.accuracy.training.software import named_profile
    from planner.accuracy.training.tuning import profile_text, tune_trainer

    shipped = named_profile(software)
    name = output.stem if output is not None else f"{shipped.name}-tuned"
    found = tune_trainer(read_training(runs), shipped, name, day=datetime.now(UTC).date())
    tuned = found.tuned
    if as_json:
        emit_json(
            {
                "profile": found.profile.model_dump(mode="json"),
                "constants": dict(tuned.constants),
                "num_runs": found.num_runs,
                "error_before_pct": tuned.error_before,
                "error_after_pct": tuned.error_after,
                "error_left_out_pct": tuned.error_left_out,
                "refused": list(found.refused),
            }
        )
    if output is not None:
        write_text(output, profile_text(found.profile))
    elif not as_json:
        emit(profile_text(found.profile))
    for reason in found.refused:
        say(f"not used: {reason}")
    left_out = "-" if tuned.error_left_out is None else f"{tuned.error_left_out:.1f} %"
    say(
        f"{found.num_runs} runs: error {tuned.error_before:.1f} % before, {tuned.error_after:.1f} % after, "
        f"{left_out} on runs left out"
    )
