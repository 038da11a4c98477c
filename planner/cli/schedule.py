"""``newel schedule``: the best pipeline schedule for given pass times and memory, or a named one."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from planner.cli import _schedule_options as flags
from planner.cli._schedule_work import ScheduleRequest, requested_work
from planner.cli.terminal import console, emit, new_diagnostics, say
from planner.errors import EXIT_INFEASIBLE, EXIT_OK, InputError, UnknownNameError

if TYPE_CHECKING:
    from planner.ir.pipeline_schedule import PipelineSchedule, PipelineWork
    from planner.search.schedule_orders import ScheduleGoal

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_FORMATS = ("torch-csv", "ascii", "json", "text")
_GOALS: dict[str, ScheduleGoal] = {"makespan": "makespan", "longest-stage": "longest_stage"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("schedule")(schedule)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A schedule and its proof, whether synthesised or named."""

    schedule: PipelineSchedule
    goal: ScheduleGoal
    value_s: float
    bound_s: float
    method: str
    num_evaluations: int = 0
    interrupted: bool = False

    @property
    def gap(self) -> float:
        return max(0.0, 1.0 - self.bound_s / self.value_s)

    @property
    def status(self) -> str:
        return "optimal" if self.gap <= 1e-9 else "feasible"


def schedule(  # noqa: PLR0913, PLR0917 - one parameter per option of the command
    stages: flags.Stages,
    microbatches: flags.Microbatches,
    forward: flags.Forward = None,
    backward_input: flags.BackwardInput = None,
    backward_weight: flags.BackwardWeight = None,
    send: flags.Send = 0.0,
    memory: flags.Memory = None,
    weight_memory: flags.WeightMemory = 0.5,
    name: flags.Name = None,
    chunks: flags.Chunks = 1,
    placement: flags.Placement = None,
    stage_times: flags.StageTimes = None,
    paths: flags.Paths = None,
    path_length: flags.PathLength = None,
    time_unit: flags.TimeUnit = "ms",
    objective: flags.Objective = "makespan",
    time_limit: flags.TimeLimit = 60.0,
    seed: flags.Seed = 0,
    to: flags.To = "ascii",
    out: flags.Out = None,
    as_json: flags.AsJson = False,
) -> int:
    """Find the pipeline schedule that ends soonest, with a proof, or time a named one.

    Example: newel schedule --stages 8 --microbatches 24 --forward 18.5 --backward-input 18.1
    --backward-weight 9.3 --send 0.6 --memory 1.5 --to torch-csv
    """
    to = "json" if as_json else to
    _check_names(to, objective, time_unit)
    if not 0 < time_limit < math.inf:
        raise InputError("a time limit is finite and positive", key="--time-limit", value=time_limit)
    request = ScheduleRequest(
        counts=(stages, microbatches, chunks),
        times=(forward, backward_input, backward_weight),
        send=send,
        memory=memory,
        weight_memory=weight_memory,
        name=name,
        placement=placement,
        stage_times=stage_times,
        unit=_UNITS[time_unit],
        paths=paths,
        path_length=path_length,
    )
    work = requested_work(request)
    if to == "torch-csv":
        from planner.backends._torch_pipelining import as_torch_runs_it

        work = as_torch_runs_it(work)
        say("note: the first stage's input gradient is not computed by the runtime; it is planned without")
    answer = _answer(work, name, _GOALS[objective], time_limit, seed)
    if answer is None:
        return EXIT_INFEASIBLE
    artefact = _artefact(answer, to)
    _show(answer, _UNITS[time_unit], time_unit)
    _write(artefact, out)
    return EXIT_OK


def _check_names(to: str, objective: str, time_unit: str) -> None:
    for value, allowed, what in (
        (to, _FORMATS, "output format"),
        (objective, tuple(_GOALS), "objective"),
        (time_unit, tuple(_UNITS), "time unit"),
    ):
        if value not in allowed:
            raise UnknownNameError(what, value, allowed)


def _answer(
    work: PipelineWork, name: str | None, goal: ScheduleGoal, time_limit_s: float, seed: int
) -> _Answer | None:
    """Return the schedule, checked by replay, or None (said on stderr) if the memory does not suffice."""
    from planner.simulate.pipeline_replay import check_times, replay
    from planner.space.schedule_fuse import fuse

    answer = _named(work, name, goal) if name else _synthesised(work, goal, time_limit_s, seed)
    if answer is None:
        return None
    fused = replace(answer, schedule=fuse(answer.schedule))
    check_times(fused.schedule)
    replay(fused.schedule)
    return fused


def _named(work: PipelineWork, name: str, goal: ScheduleGoal) -> _Answer | None:
    from planner.search.schedule_bounds import lower_bound_s
    from planner.search.schedule_seeds import value_of
    from planner.space.schedule_family import FAMILIES
    from planner.space.schedule_timing import timed

    found = timed(work, FAMILIES.get(name).build(work), name, align_late=goal == "longest_stage")
    if not _fits(found.peak_memory_bytes(), work, FAMILIES.get(name).title):
        return None
    bound = lower_bound_s(work, goal)
    value = value_of(found, goal)
    return _Answer(schedule=found, goal=goal, value_s=value, bound_s=min(bound, value), method=name)


def _synthesised(work: PipelineWork, goal: ScheduleGoal, time_limit_s: float, seed: int) -> _Answer | None:
    from planner.search.schedule_synthesis import SynthesisOptions, TooLittleMemory, synthesise

    diagnostics = new_diagnostics()
    options = SynthesisOptions(
        goal=goal, time_limit_s=time_limit_s, seed=seed, on_progress=diagnostics.progress
    )
    found = synthesise(work, options)
    diagnostics.progress("")
    if isinstance(found, TooLittleMemory):
        _fits(found.needed_bytes, work, "any schedule")
        return None
    return _Answer(
        schedule=found.schedule,
        goal=goal,
        value_s=found.value_s,
        bound_s=found.bound_s,
        method=found.method,
        num_evaluations=found.num_evaluations,
        interrupted=found.interrupted,
    )


def _fits(needed: tuple[float, ...], work: PipelineWork, title: str) -> bool:
    """Tell whether `needed` fits the limit; say the smallest feasible limit if not."""
    limits = work.memory_limit_bytes
    device = max(range(len(limits)), key=lambda d: needed[d] / limits[d])
    if needed[device] <= limits[device] * (1 + 1e-9):
        return True
    least = f"{math.ceil(max(needed) / work.num_devices * 1e6 - 1e-6) / 1e6:g}"
    say(
        f"infeasible: {title} needs {needed[device]:g} activations on device {device}, the limit is "
        f"{limits[device]:g}; the smallest feasible limit for all is --memory {least}"
    )
    return False


def _artefact(answer: _Answer, to: str) -> str:
    if to == "torch-csv":
        from planner.backends._torch_pipelining import torch_csv

        return torch_csv(answer.schedule)
    if to == "text":
        from planner.ir.pipeline_text import print_schedule

        return print_schedule(answer.schedule)
    if to == "ascii":
        from planner.report.pipeline_gantt import gantt_lines

        return "\n".join(gantt_lines(answer.schedule)) + "\n"
    return json.dumps(_as_json(answer), indent=2, allow_nan=False) + "\n"


def _as_json(answer: _Answer) -> dict[str, object]:
    found = answer.schedule
    return {
        "name": found.name,
        "objective": answer.goal,
        "status": answer.status,
        "value_s": answer.value_s,
        "bound_s": answer.bound_s,
        "gap": answer.gap,
        "makespan_s": found.makespan_s(),
        "longest_stage_s": found.longest_stage_s(),
        "bubble": _bubble(answer),
        "method": answer.method,
        "interrupted": answer.interrupted,
        "peak_activations": list(found.peak_memory_bytes()),
        "stage_devices": [stage.device for stage in found.work.stages],
        "devices": [
            [
                {"op": str(op), "start_s": start, "end_s": start + found.work.duration_s(op)}
                for op, start in zip(ops, starts, strict=True)
            ]
            for ops, starts in zip(found.device_ops, found.start_s, strict=True)
        ],
    }


def _bubble(answer: _Answer) -> float:
    """Return the idle part of the device with most work."""
    return max(0.0, 1.0 - max(answer.schedule.work.device_work_s()) / answer.value_s)


def _show(answer: _Answer, unit: float, unit_name: str) -> None:
    from planner.report.pipeline_gantt import gantt_text

    found = answer.schedule
    console().print(gantt_text(found), end="", soft_wrap=True)
    say(
        f"{answer.status}: {answer.goal.replace('_', ' ')} {answer.value_s / unit:g} {unit_name}, "
        f"bound {answer.bound_s / unit:g} {unit_name}, gap {answer.gap:.2%}, bubble {_bubble(answer):.2%}; "
        f"peak {max(found.peak_memory_bytes()):g} activations "
        f"({max(found.peak_memory_bytes()) / found.work.num_devices:.3g} of 1F1B); {answer.method}"
        + (" (interrupted)" if answer.interrupted else "")
    )


def _write(text: str, out: Path | None) -> None:
    """Write to stdout, or to a file beside its place and then rename."""
    if out is None:
        emit(text)
        return
    try:
        part = out.with_name(out.name + ".part")
        part.write_text(text, encoding="utf-8")
        part.replace(out)
    except (OSError, ValueError) as error:
        raise InputError("cannot write this file", file=str(out)) from error
    say(f"wrote {out}")
