"""Exports of plans with several models: one launch per model, in a folder of its own, on ports of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from planner.backends._layout import slug
from planner.backends._protocol import Backend, ExportedFile, ExportOptions
from planner.errors import InputError, UnsupportedError, shown
from planner.ir.fleet import FleetProblem
from planner.ir.parser import parse_ir
from planner.ir.printer import print_ir
from planner.ir.problem import Problem
from planner.plan.parts import ModelPart, model_parts
from planner.plan.schema import Plan

FLEET = "fleet"
REQUEST_PRIORITIES = "request_priorities"
"""The detail of a plan whose requests bring priorities that it counts on."""
_BY_PRIORITY = frozenset({"vllm", "sglang"})
"""Engines that can be told to serve requests by a priority they bring.

Source: vllm/engine/arg_utils.py 0.32.0 (--scheduling-policy); sglang/srt/arg_groups/fields/schedule.py 0.5.23
(--enable-priority-scheduling). trtllm-serve 1.2 takes no priority with a request.
"""


def export_files(backend: Backend, plan: Plan, options: ExportOptions) -> tuple[ExportedFile, ...]:
    """Return the files that launch a plan; a fleet becomes one launch per model.

    Raises
    ------
    InputError
        If the plan has nothing to launch or does not carry its problem.
    UnsupportedError
        If the runtime cannot express a decision of the plan.
    """
    if options.request_priorities or plan.details.get(REQUEST_PRIORITIES):
        _check_priorities(backend, plan)
        options = replace(options, request_priorities=True)
    if plan.kind != FLEET:
        return backend.export(plan, options)
    parts = _parts(plan)
    files: list[ExportedFile] = []
    folders: list[str] = []
    first = 0
    for number, part in enumerate(parts):
        folders.append(slug(part.name, folders))
        own = replace(options, first_server=first, first_router=number, model_paths=_paths(part, options))
        whole = part.plan.model_copy(update={"problem": print_ir(part.problem)})
        for file in backend.export(whole, own):
            files.append(replace(file, path=f"{folders[-1]}/{file.path}"))
        first += sum(pool.replicas * pool.strategy.attention_dp for pool in part.plan.pools)
    files.append(ExportedFile(path="README.md", text=_readme(plan, parts, folders)))
    return tuple(sorted(files, key=lambda file: file.path))


def _check_priorities(backend: Backend, plan: Plan) -> None:
    """Refuse by name what cannot serve requests by priority."""
    for index, pool in enumerate(plan.pools):
        if pool.role != "stage" and (pool.engine not in _BY_PRIORITY or backend.name == "trtllm"):
            raise UnsupportedError(
                f"{backend.name} cannot let this engine serve requests by their priority",
                key=f"pools[{index}].engine",
                value=pool.engine,
                allowed=", ".join(sorted(_BY_PRIORITY)),
            )


def _parts(plan: Plan) -> tuple[ModelPart, ...]:
    if not plan.problem:
        raise InputError("the plan does not say which problem it solves", key="problem")
    root = parse_ir(plan.problem)
    payload = cast("object", getattr(root, "payload", None))
    if not isinstance(root, Problem) or not isinstance(payload, FleetProblem):
        raise InputError("this is no fleet", key="problem", value=type(payload).__name__)
    problem = cast("Problem[FleetProblem]", root)
    parts = model_parts(plan, problem)
    if not parts:
        raise InputError(
            "this plan has nothing to launch: no model of it is priced",
            key="pools",
            hint="Stages with stated rates run in software of your own.",
        )
    return parts


def _paths(part: ModelPart, options: ExportOptions) -> tuple[tuple[str, str], ...]:
    """Return what to load: a path given for the model of the fleet counts for its base."""
    given = dict(options.model_paths)
    base = part.problem.payload.model.name
    return ((base, given[part.name]),) if part.name in given else options.model_paths


def _readme(plan: Plan, parts: tuple[ModelPart, ...], folders: list[str]) -> str:
    lines = ["# Launch files of a fleet", "", f"Plan {shown(plan.name)}, status {plan.status}.", ""]
    for part, folder in zip(parts, folders, strict=True):
        pools = ", ".join(f"{p.replicas} x {p.role} on {p.node_group}" for p in part.plan.pools)
        lines.append(f"- `{folder}/`: {shown(part.name)}: {pools}. Start with `{folder}/README.md`.")
    stages = [pool for pool in plan.pools if pool.role == "stage"]
    if stages:
        lines += ["", "Stages with stated rates are yours to launch, on the devices kept free for them:", ""]
    for pool in stages:
        seats = [seat for seat in plan.placement if seat.pool == pool.name]
        devices = ", ".join(device for seat in seats[:8] for device in seat.devices)
        more = f" and {len(seats) - 8} more replicas" if len(seats) > 8 else ""
        lines.append(f"- {shown(pool.name)}: {pool.replicas} replicas on {devices}{more}.")
    return "\n".join(lines) + "\n"
