"""A training stack tuned to a few runs of one cluster: five constants, pulled towards the shipped ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import yaml

from cost_models.calibration.solver import Constant
from cost_models.calibration.tuning import Tuned, tune
from cost_models.cost import FloatArray
from hardware_profiles.schema import Fact, Source, TrainerProfile
from planner.accuracy.training.predict import Prediction, Question, predict, question_of
from planner.accuracy.training.rows import RowError, TrainingTable
from planner.errors import InputError
from planner.space.training.software import TrainingSoftware

_NOTHING_S = 3e-4
_MEASURED = "tuned"
_TO_SIGMA = 1.25
"""Standard deviation over mean absolute deviation of a normal distribution."""
_LEAST_SIGMA = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedTrainer:
    """A tuned profile, what was gained, and the runs that could not be used with their reasons."""

    profile: TrainerProfile
    tuned: Tuned
    num_runs: int
    refused: tuple[str, ...]


def tune_trainer(table: TrainingTable, profile: TrainerProfile, name: str, *, day: date) -> TunedTrainer:
    """Return `profile` tuned to the step times of the runs in `table`.

    Raises
    ------
    InputError
        If no run can be priced.
    """
    software = TrainingSoftware.of(profile)
    questions, measured, refused = _usable(table, software)
    if not questions:
        raise InputError(
            "no run with a step time that can be priced",
            file=table.file,
            value="; ".join(refused[:5]) or None,
            hint="See `newel accuracy --training` for the reason of every row.",
        )

    def steps(constants: Mapping[str, float]) -> FloatArray:
        return np.array([_step_s(question, constants) for question in questions])

    tuned = tune(_spec(software), steps, np.array(measured))
    return TunedTrainer(
        profile=_profile(profile, tuned, name, table.file, len(measured), day),
        tuned=tuned,
        num_runs=len(measured),
        refused=refused,
    )


def _usable(
    table: TrainingTable, software: TrainingSoftware
) -> tuple[list[Question], list[float], tuple[str, ...]]:
    questions: list[Question] = []
    measured: list[float] = []
    refused = [f"line {line}: {reason}" for line, _, _, reason in table.refused]
    for row in table.rows:
        try:
            question = question_of(row, software)
            prediction = predict(question)
        except RowError as error:
            refused.append(f"line {row.line}: {error}")
            continue
        if prediction.measured_s is None:
            refused.append(f"line {row.line}: no step time was measured")
            continue
        questions.append(_pinned(question, prediction))
        measured.append(prediction.measured_s)
    return questions, measured, tuple(refused)


def _pinned(question: Question, prediction: Prediction) -> Question:
    """Return the question with the plan that was chosen for it as its only one."""
    plans = tuple(c for c in question.candidates.plans if c.strategy == prediction.strategy)
    return replace(question, candidates=replace(question.candidates, plans=plans[:1]))


def _spec(software: TrainingSoftware) -> dict[str, Constant]:
    """Return what may move: kernels, what is not fused, the network, overheads, stragglers."""
    return {
        "compute_scale": Constant(start=software.compute_scale, low=0.3, high=4.0, spread=0.2),
        "elementwise_scale": Constant(start=software.elementwise_scale, low=0.2, high=10.0, spread=0.12),
        "dp_efficiency": Constant(start=software.dp_efficiency, low=0.01, high=2.0, spread=0.25),
        "per_micro_batch_s": Constant(
            start=max(software.per_micro_batch_s, _NOTHING_S), low=1e-6, high=1.0, spread=1.0
        ),
        "straggler": Constant(start=max(software.straggler, 1e-3), low=1e-5, high=0.1, spread=0.25),
    }


def _step_s(question: Question, constants: Mapping[str, float]) -> float:
    """Return the step time of a run; the scale of a power cap stays where it was."""
    values = dict(constants)
    values["compute_scale"] *= question.cluster.slower
    return predict(replace(question, software=replace(question.software, **values))).step_s


def _profile(
    profile: TrainerProfile, tuned: Tuned, name: str, file: str, num_runs: int, day: date
) -> TrainerProfile:
    error = tuned.error_left_out if tuned.error_left_out is not None else tuned.error_after
    title = (
        f"Tuned from {profile.name} on {num_runs} runs in {file}: error {tuned.error_before:.1f} % before, "
        f"{tuned.error_after:.1f} % after, {error:.1f} % on runs left out"
    )
    sources = profile.sources | {
        _MEASURED: Source(title=title, url="none", date=day.isoformat(), kind="measurement")
    }
    spread = max(error / 100.0 * _TO_SIGMA, _LEAST_SIGMA)
    facts = {n: Fact(value=float(f"{value:.5g}"), source=_MEASURED) for n, value in tuned.constants.items()}
    facts["sigma_log"] = Fact(value=round(spread, 4), source=_MEASURED)
    return profile.model_copy(update={"name": name, "aliases": (), "sources": sources, **facts})


def profile_text(profile: TrainerProfile) -> str:
    """Return a profile as YAML, in the order of the schema."""
    data = profile.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(data, sort_keys=False, width=110, allow_unicode=True)
