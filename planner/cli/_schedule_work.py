"""The step that ``newel schedule`` is asked about, from its options."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from planner.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from planner.ir.pipeline_schedule import PipelineWork
    from planner.space.schedule_family import Layout

_PLACEMENTS: dict[str, Layout] = {"chain": "chain", "loop": "loop", "v": "v"}
_MOST_OPS = 300_000
_MOST_CHARACTERS = 1 << 20
_SMALLEST, _LARGEST = 1e-9, 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRequest:
    """What was asked for: devices, micro-batches, chunks; times in `unit` s; memory in peaks of 1F1B."""

    counts: tuple[int, int, int]
    times: tuple[str | None, str | None, str | None]
    send: float
    memory: str | None
    weight_memory: float
    name: str | None
    placement: str | None
    stage_times: Path | None
    unit: float
    paths: str | None
    path_length: int | None


def requested_work(request: ScheduleRequest) -> PipelineWork:
    """Return the work of the step.

    Raises
    ------
    InputError
        If options contradict each other or are out of range.
    """
    from planner.ir.pipeline_schedule import check_work
    from planner.space.schedule_family import arrange

    num_devices, num_microbatches, chunks = request.counts
    layout = _layout(request)
    if 6 * num_devices * chunks * num_microbatches > _MOST_OPS:
        raise InputError(
            "this step has too many operations",
            value=3 * num_devices * chunks * num_microbatches,
            allowed=f"stages x chunks x micro-batches up to {_MOST_OPS // 6}",
        )
    if not 0 <= request.weight_memory <= 1:
        raise InputError(
            "a part of an activation", key="--weight-memory", value=request.weight_memory, allowed="0 to 1"
        )
    if not 0 <= request.send <= _LARGEST:
        raise InputError(
            "a time is finite and not negative",
            key="--send",
            value=request.send,
            allowed=f"0 to {_LARGEST:g}",
        )
    times = _pass_times(request)
    work = arrange(
        layout,
        num_devices=num_devices,
        num_microbatches=num_microbatches,
        pass_times_s=(times[0][0] * request.unit, times[1][0] * request.unit, times[2][0] * request.unit),
        send_s=request.send * request.unit,
        num_chunks=chunks,
        weight_memory_fraction=request.weight_memory,
    )
    if any(len(values) > 1 for values in times):
        work = _with_lists(work, times, request.unit)
    if request.stage_times is not None:
        work = _with_stage_times(work, request, request.stage_times)
    work = replace(work, memory_limit_bytes=_memory_limits(request.memory, num_devices))
    work = _with_paths(work, request)
    check_work(work)
    return work


def numbers(text: str, option: str) -> list[float]:
    """Return the comma-separated numbers of an option, each finite and not negative.

    Raises
    ------
    InputError
        If one is not.
    """
    if len(text) > _MOST_CHARACTERS:
        raise InputError("this list is too long", key=option, allowed=f"{_MOST_CHARACTERS} characters")
    found: list[float] = []
    for cell in text.split(","):
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if value != 0 and not _SMALLEST <= value <= _LARGEST:
            raise InputError(
                "a number is finite and not negative",
                key=option,
                value=cell[:40],
                allowed=f"0 or {_SMALLEST:g} to {_LARGEST:g}, or a list: 18.5,20",
            )
        found.append(value)
    return found


def _layout(request: ScheduleRequest) -> Layout:
    from planner.space.schedule_family import FAMILIES

    chunks, placement = request.counts[2], request.placement
    if request.name is not None:
        family = FAMILIES.get(request.name)
        if placement is not None and placement != family.layout:
            raise InputError(
                f"{family.title} has its own placement",
                key="--placement",
                value=placement,
                allowed=family.layout,
            )
        if family.layout == "loop" and chunks < 2:
            raise InputError(f"{family.title} needs two chunks or more", key="--chunks", value=chunks)
        return family.layout
    placement = placement or ("chain" if chunks == 1 else "loop")
    if placement not in _PLACEMENTS:
        raise UnknownNameError("placement", placement, tuple(_PLACEMENTS))
    if (placement == "chain" and chunks != 1) or (placement == "v" and chunks > 2):
        raise InputError(
            "the placement fixes the chunks",
            key="--chunks",
            value=chunks,
            allowed="chain 1, v 2, loop any",
        )
    return _PLACEMENTS[placement]


def _pass_times(request: ScheduleRequest) -> tuple[list[float], list[float], list[float]]:
    """Return the values of the three options; times of 1 where a file gives them."""
    forward, backward_input, backward_weight = request.times
    if request.stage_times is not None:
        if request.times != (None, None, None):
            raise InputError("pass times come from the file or from options", key="--stage-times")
        return [1.0], [1.0], [1.0]
    if forward is None or backward_input is None or backward_weight is None:
        raise InputError(
            "pass times are missing",
            hint="Give --forward, --backward-input and --backward-weight, or --stage-times FILE.",
        )
    return (
        numbers(forward, "--forward"),
        numbers(backward_input, "--backward-input"),
        numbers(backward_weight, "--backward-weight"),
    )


def _with_lists(work: PipelineWork, times: tuple[list[float], ...], unit: float) -> PipelineWork:
    """Return the work with one time per stage where a list is given; one value still counts for all."""
    count = len(work.stages)
    columns: list[list[float]] = []
    per_device = count // work.num_devices
    for values, option in zip(times, ("--forward", "--backward-input", "--backward-weight"), strict=True):
        if len(values) == 1:
            columns.append([values[0] * unit / per_device] * count)
        elif len(values) == count:
            columns.append([value * unit for value in values])
        else:
            raise InputError(
                "a list has one time per stage", key=option, value=len(values), allowed=f"1 or {count}"
            )
    stages = tuple(
        replace(stage, forward_s=f, backward_input_s=i, backward_weight_s=w)
        for stage, f, i, w in zip(work.stages, *columns, strict=True)
    )
    return replace(work, stages=stages)


def _with_stage_times(work: PipelineWork, request: ScheduleRequest, path: Path) -> PipelineWork:
    from planner.frontend.stage_times import read_stage_times

    rows = read_stage_times(path)
    if len(rows) != len(work.stages):
        raise InputError(
            "one row per stage is needed", file=str(path), value=len(rows), allowed=str(len(work.stages))
        )
    stages = tuple(
        replace(
            stage,
            forward_s=row["forward"] * request.unit,
            backward_input_s=row["backward_input"] * request.unit,
            backward_weight_s=row["backward_weight"] * request.unit,
            activation_bytes=(held := row.get("activation", stage.activation_bytes)),
            weight_activation_bytes=row.get("weight_activation", held * request.weight_memory),
        )
        for stage, row in zip(work.stages, rows, strict=True)
    )
    return replace(work, stages=stages)


def _memory_limits(text: str | None, num_devices: int) -> tuple[float, ...]:
    """Return the limit of each device in activations of one micro-batch on one device."""
    if text is None:
        return (math.inf,) * num_devices
    limits = numbers(text, "--memory")
    if len(limits) not in (1, num_devices):
        raise InputError(
            "a list has one limit per device",
            key="--memory",
            value=len(limits),
            allowed=f"1 or {num_devices}",
        )
    if min(limits) <= 0:
        raise InputError("the memory limit is positive", key="--memory", value=min(limits))
    limits = limits * num_devices if len(limits) == 1 else limits
    return tuple(limit * num_devices for limit in limits)


def _with_paths(work: PipelineWork, request: ScheduleRequest) -> PipelineWork:
    """Return the work with the stages that each micro-batch visits."""
    if request.paths is None and request.path_length is None:
        return work
    if request.name is not None or (request.paths is not None and request.path_length is not None):
        raise InputError(
            "partial paths are synthesised, and either given or chosen",
            hint="Give --paths or --path-length alone, without --name.",
        )
    if request.path_length is not None:
        from planner.space.partial_paths import partial_paths

        work_s = tuple(stage.work_s for stage in work.stages)
        routes = partial_paths(work_s, work.num_microbatches, request.path_length)
        return replace(work, routes=routes)
    given = _given_paths(request.paths or "", len(work.stages))
    repeated = given * (work.num_microbatches // len(given) + 1)
    return replace(work, routes=tuple(repeated[: work.num_microbatches]))


def _given_paths(text: str, num_stages: int) -> list[tuple[int, ...]]:
    paths: list[tuple[int, ...]] = []
    for part in text[:_MOST_CHARACTERS].split(";"):
        cells = [cell.strip() for cell in part.split(",")]
        if not all(cell.isascii() and cell.isdigit() and len(cell) < 6 for cell in cells):
            raise InputError(
                "a path is a list of stages", key="--paths", value=part[:40], allowed="0,1,2,3;0,2,3"
            )
        path = tuple(int(cell) for cell in cells)
        if len(set(path)) != len(path) or max(path) >= num_stages:
            raise InputError(
                "a path visits existing stages, each once",
                key="--paths",
                value=part[:40],
                allowed=f"0 to {num_stages - 1}",
            )
        paths.append(path)
    return paths
