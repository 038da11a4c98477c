"""A software profile tuned to a few served runs of a user's own cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import yaml

from cost_models.calibration.solver import Constant
from cost_models.calibration.tuning import Tuned, tune
from cost_models.cost import FloatArray
from hardware_profiles.errors import ProfileError
from hardware_profiles.loader import load_software
from hardware_profiles.schema import Fact, SoftwareProfile, Source
from planner.accuracy.kernel_work import CannotPriceError
from planner.accuracy.serving.names import engine_name
from planner.accuracy.serving.places import with_places
from planner.accuracy.serving.predict import RunPredictor, measured_values
from planner.accuracy.serving.rows import read_rows
from planner.accuracy.serving.setup import Setup, SetupReader
from planner.errors import InputError
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import ModelGraph
from planner.space.engine import EngineCosts, costs_of

MAX_RUNS = 5
"""Runs that a tuning takes; more belong into a fit, not into a correction."""
_TUNED = "tuned"
_SPREADS = {
    "compute_scale": 0.2,
    "per_step_s": 0.7,
    "per_sequence_s": 0.7,
    "per_request_s": 0.7,
    "prompt_layer_s": 0.7,
}
"""The constants that are tuned, and how far the shipped ones are known (in log): kernels are measured,
overheads belong to hosts."""
_FALLBACKS = {"compute_scale": 1.0, "prompt_layer_s": 1e-4}
_SECONDS = ("per_step_s", "per_layer_s", "per_sequence_s", "per_request_s", "prompt_layer_s", "admission_s")
_BYTES = ("graph_memory_bytes", "context_memory_bytes")
_UNITS = dict.fromkeys(_SECONDS, "s") | dict.fromkeys(_BYTES, "B")


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedProfile:
    """A profile with what the tuning achieved, and the runs that could not be used with their reasons."""

    profile: SoftwareProfile
    tuned: Tuned
    num_runs: int
    refused: tuple[str, ...]


def tune_software(
    path: Path,
    software: str,
    find_model: Callable[[str], ModelGraph],
    find_group: Callable[[str, int], NodeGroup],
    *,
    day: date,
) -> TunedProfile:
    """Return the profile called `software` tuned to the runs in a file.

    An unknown version starts from its engine's shipped profile. `find_model` and `find_group` look names up.

    Raises
    ------
    InputError
        If the engine is unknown, the file holds more than five runs, or none of them can be priced.
    """
    base = _base(software)
    setups, refused = _setups(path, base, SetupReader(find_model=find_model, find_group=find_group))
    current = base

    def costs(setup: Setup, group: NodeGroup) -> EngineCosts:
        return costs_of(group, setup.engine, current)

    predictor = RunPredictor(costs=costs)
    wanted = [_wanted(setup) for setup in setups]

    def predict(constants: Mapping[str, float]) -> FloatArray:
        nonlocal current
        current = _with(base, constants)
        predictor.use(current)
        values: list[float] = []
        for setup, measured in zip(setups, wanted, strict=True):
            found = predictor.predict(setup).values
            values.extend(found[name] for name in measured)
        return np.array(values)

    measured = np.array([value for one in wanted for value in one.values()])
    starts = {name: _value(base, name) for name in _SPREADS}
    spec = {
        name: Constant(start=start, low=start / 20.0, high=start * 20.0, spread=_SPREADS[name])
        for name, start in starts.items()
    }
    found = tune(spec, predict, measured)
    profile = _stated(_with(base, found.constants), software, path.name, len(setups), day)
    return TunedProfile(profile=profile, tuned=found, num_runs=len(setups), refused=refused)


def profile_text(profile: SoftwareProfile) -> str:
    """Return a profile as the YAML that is read back."""
    data: dict[str, object] = {"name": profile.name, "engine": profile.engine, "version": profile.version}
    for name in type(profile).model_fields:
        value: object = getattr(profile, name)
        if isinstance(value, Fact):
            number = f"{value.value:.6g} {_UNITS[name]}" if name in _UNITS else float(f"{value.value:.6g}")
            data[name] = {"value": number, "source": value.source} | (
                {"note": value.note} if value.note else {}
            )
    data["static_quantisation"] = profile.static_quantisation
    data["memory_scope"] = profile.memory_scope
    data["kernel_software"] = list(profile.kernel_software)
    data["tuned_formats"] = list(profile.tuned_formats)
    data["random_prefill_ranks"] = profile.random_prefill_ranks
    data["sources"] = {key: source.model_dump() for key, source in profile.sources.items()}
    return yaml.safe_dump(data, sort_keys=False, width=110, allow_unicode=True)


def _base(software: str) -> SoftwareProfile:
    try:
        return load_software(software)
    except ProfileError as error:
        engine = engine_name(software)
        if engine is None:
            raise InputError(
                error.message,
                key="--software",
                value=software,
                allowed=error.allowed or None,
                hint="Name an engine and its version, e.g. vllm-0.33.",
            ) from error
        return load_software(engine)


def _setups(path: Path, base: SoftwareProfile, reader: SetupReader) -> tuple[list[Setup], tuple[str, ...]]:
    rows = read_rows(path)
    if len(rows) > MAX_RUNS:
        raise InputError(
            "too many runs to tune to",
            file=str(path),
            value=len(rows),
            allowed=f"at most {MAX_RUNS}",
            hint="Take runs that differ: short and long prompts, few and many requests at once.",
        )
    setups: list[Setup] = []
    refused: list[str] = []
    probe = RunPredictor(costs=lambda setup, group: costs_of(group, setup.engine, base))
    for row in rows:
        try:
            setup = reader.read(row)
            if setup.engine != base.engine:
                raise CannotPriceError(f"ran under {setup.engine}, not {base.engine}")
            probe.predict(setup)
            setups.append(setup)
        except CannotPriceError as error:
            refused.append(f"line {row.line}: {error}")
    setups = with_places(setups)
    if not setups:
        raise InputError("no run can be priced", file=str(path), value="; ".join(refused)[:300])
    return setups, tuple(refused)


def _wanted(setup: Setup) -> dict[str, float]:
    """Return what a run is tuned to: latencies where there are any (throughput follows from them)."""
    measured = measured_values(setup)
    if setup.kind == "offline" or not {"ttft", "tpot", "e2e"} & set(measured):
        return {"throughput": measured["throughput"]}
    return {name: value for name, value in measured.items() if name in ("ttft", "tpot", "e2e")}


def _value(base: SoftwareProfile, name: str) -> float:
    fact: Fact | None = getattr(base, name)
    return fact.value if fact is not None and fact.value > 0.0 else _FALLBACKS.get(name, 1e-6)


def _with(base: SoftwareProfile, constants: Mapping[str, float]) -> SoftwareProfile:
    return base.model_copy(
        update={name: Fact(value=value, source=_TUNED) for name, value in constants.items()}
        | {"sources": base.sources | {_TUNED: Source(title="being tuned", url="none", date="given")}}
    )


def _stated(profile: SoftwareProfile, software: str, file: str, num_runs: int, day: date) -> SoftwareProfile:
    """Return the profile under the name that was asked for, with the runs as its source."""
    name = software.strip().lower()
    version = name.removeprefix(f"{profile.engine}-") if "-" in name else profile.version
    title = f"Tuned to {num_runs} served runs in {file}"
    source = Source(title=title, url="none", date=day.isoformat(), kind="measurement")
    return profile.model_copy(
        update={"name": name, "version": version, "sources": profile.sources | {_TUNED: source}}
    )


def told(result: TunedProfile, names: Sequence[str] = tuple(_SPREADS)) -> list[str]:
    """Return what a tuning did, in lines."""
    tuned = result.tuned
    left_out = "" if tuned.error_left_out is None else f", {tuned.error_left_out:.1f} % on values left out"
    lines = [
        f"{result.num_runs} runs: mean error {tuned.error_before:.1f} % before, "
        f"{tuned.error_after:.1f} % after{left_out}"
    ]
    lines += [f"{name} = {tuned.constants[name]:.4g}" for name in names]
    return lines + [f"not used: {reason}" for reason in result.refused]
