"""The inverse question: the least hardware that carries the traffic, kind by kind and mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from planner.errors import InputError, NothingFoundError
from planner.frontend.spec_tree import SpecTree
from planner.frontend.specs import load_spec, read_problem
from planner.pipeline import Run, solve
from planner.plan.schema import Plan

DEFAULT_KINDS = ("h100", "h200", "l40s", "a100", "b200", "mi300x")
_MOST_NODES = 64
_MOST_REPLICA_DEVICES = 64
_ONLY_FLEET = ("cluster", "objective", "budget", "search", "kind", "name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """What to size with: device kinds, a goal that minimises, and the most nodes of a kind."""

    kinds: tuple[str, ...] = ()
    goal: str | None = None
    max_nodes: int = _MOST_NODES
    mixed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The least hardware of one choice of kinds; without a plan, `reason` says why."""

    kinds: tuple[str, ...]
    plan: Plan | None
    devices: tuple[tuple[str, int], ...] = ()
    nodes: tuple[tuple[str, int], ...] = ()
    reason: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return the answer as plain values."""
        found: dict[str, object] = {"kinds": list(self.kinds), "reason": self.reason}
        if self.plan is not None:
            goal = self.plan.objective
            found |= {
                "status": self.plan.status,
                "objective": {"name": goal.name, "value": goal.value, "unit": goal.unit, "gap": goal.gap},
                "devices": dict(self.devices),
                "nodes": dict(self.nodes),
                "usd_per_hour": self.predicted("usd_per_hour"),
                "power_w": self.predicted("power_w"),
            }
        return found

    def predicted(self, name: str) -> float | None:
        """Return a prediction of the plan."""
        quantity = None if self.plan is None else self.plan.predicted.get(name)
        return None if quantity is None else quantity.value


def size(source: str | Path | Mapping[str, object], sizing: Sizing, run: Run) -> list[Answer]:
    """Return the least hardware of every kind alone and of all kinds together, the best first.

    Raises
    ------
    InputError
        If the spec is wrong, or states no rate.
    """
    tree = load_spec(source)
    models = _models(tree)
    kinds = sizing.kinds or _kinds_of(tree) or DEFAULT_KINDS
    choices: list[tuple[str, ...]] = [(kind,) for kind in kinds]
    if sizing.mixed and len(kinds) > 1:
        choices.append(tuple(kinds))
    answers: list[Answer] = []
    for choice in choices:
        with run.phase("+".join(choice)):
            answers.append(_answer(tree, models, choice, sizing, run))
    order = {True: 0, False: 1}
    return sorted(answers, key=lambda a: (order[a.plan is not None], _value(a), len(a.kinds)))


def _value(answer: Answer) -> float:
    return 0.0 if answer.plan is None or answer.plan.objective.value is None else answer.plan.objective.value


def _models(tree: SpecTree) -> list[object]:
    """Return the models of a fleet spec, or the one of a serving spec."""
    kind = tree.data.get("kind", "serving")
    if kind == "fleet":
        return cast("list[object]", tree.data.get("models", []))
    if kind != "serving":
        raise tree.error("only serving and fleet specs can be sized", ("kind",), value=kind)
    entry: dict[str, Any] = {k: v for k, v in tree.data.items() if k not in _ONLY_FLEET}
    workload = entry.get("workload")
    rate: object = cast("Mapping[str, object]", workload).get("rate") if isinstance(workload, dict) else None
    if rate is None:
        raise tree.error(
            "is missing",
            ("workload", "rate"),
            hint="Sizing needs the requests per second, for example `rate: 10/s`.",
        )
    return [{"name": "model", **entry}]


def _kinds_of(tree: SpecTree) -> tuple[str, ...]:
    """Return the device kinds of the spec's own cluster, none if it states none."""
    if "cluster" not in tree.data:
        return ()
    probe = {
        **tree.data,
        "objective": "min_devices" if tree.data.get("kind") == "fleet" else "max_throughput",
    }
    own = SpecTree(data=cast("dict[str, object]", probe), file=tree.file, base_dir=tree.base_dir)
    own.lines = tree.lines
    cluster = read_problem(own, Run().diagnostics).cluster
    return tuple(dict.fromkeys(group.device.name for group in cluster.groups))


def _answer(
    tree: SpecTree, models: Sequence[object], kinds: tuple[str, ...], sizing: Sizing, run: Run
) -> Answer:
    """Return the least hardware of some kinds; models that no scale-up domain holds get larger replicas."""
    while True:
        answer, larger = _asked(tree, models, kinds, sizing, run)
        if not larger:
            return answer
        models = [_with_replicas(model, larger) for model in models]


def _with_replicas(model: object, larger: Mapping[str, int]) -> object:
    entry = cast("Mapping[str, object]", model)
    name = str(entry.get("name"))
    return {**entry, "replica_devices": larger[name]} if name in larger else model


def _larger_replicas(plan: Plan, models: Sequence[object], most: int) -> dict[str, int]:
    """Return the models that the plan says need larger replicas, with their size, as far as that goes.

    Those whose size the spec states keep it, until they were given another one here.
    """
    asked = plan.infeasibility.relaxed if plan.infeasibility is not None else {}
    found: dict[str, int] = {}
    for model in cast("Sequence[Mapping[str, object]]", models):
        wanted = asked.get(f"{model.get('name')}.replica_devices")
        before = model.get("replica_devices")
        ours = before is None or isinstance(before, _Ours)
        if isinstance(wanted, int) and ours and wanted <= min(most, _MOST_REPLICA_DEVICES):
            found[str(model.get("name"))] = _Ours(wanted)
    return found


class _Ours(int):
    """A size of replicas that was not stated but tried."""


def _asked(
    tree: SpecTree, models: Sequence[object], kinds: tuple[str, ...], sizing: Sizing, run: Run
) -> tuple[Answer, dict[str, int]]:
    """Return the answer for these models, and the larger replicas that are worth trying instead."""
    groups = [{"device": kind, "nodes": sizing.max_nodes, "name": kind} for kind in kinds]
    data: dict[str, object] = {
        "kind": "fleet",
        "name": f"least hardware on {' + '.join(kinds)}",
        "cluster": {"name": "+".join(kinds), "groups": groups},
        "models": list(models),
    }
    if sizing.goal is not None:
        data["objective"] = sizing.goal
    for key in ("levels", "start_time", "budget", "search"):
        if key in tree.data:
            data[key] = tree.data[key]
    spec = SpecTree(data=data, file=tree.file, base_dir=tree.base_dir)
    if tree.data.get("kind") == "fleet":
        spec.lines = {path: line for path, line in tree.lines.items() if path[:1] == ("models",)}
    spec.add_data_digest("spec", Path(tree.file).name if tree.file else "arguments", tree.data)
    problem = read_problem(spec, run.diagnostics)
    try:
        plan = solve(problem, run)
    except NothingFoundError as error:
        return Answer(kinds=kinds, plan=None, reason=str(error)), {}
    if plan.status == "infeasible":
        limits = plan.infeasibility.binding if plan.infeasibility is not None else []
        reason = "; ".join(f"{x.name}: {x.message}" for x in limits)
        most = sum(group.num_devices for group in problem.cluster.groups)
        return Answer(kinds=kinds, plan=None, reason=reason), _larger_replicas(plan, models, most)
    used: Counter[str] = Counter()
    nodes: dict[str, set[str]] = {}
    device_of = {pool.name: pool.device for pool in plan.pools}
    for seat in plan.placement:
        used[device_of[seat.pool]] += len(seat.devices)
        own = nodes.setdefault(device_of[seat.pool], set())
        own.update(device.rpartition("/")[0] for device in seat.devices)
    answer = Answer(
        kinds=kinds,
        plan=plan,
        devices=tuple(sorted(used.items())),
        nodes=tuple(sorted((kind, len(names)) for kind, names in nodes.items())),
    )
    return answer, {}


def best_of(answers: Sequence[Answer]) -> Answer:
    """Return the best answer that has a plan.

    Raises
    ------
    InputError
        If none has.
    """
    if answers and answers[0].plan is not None:
        return answers[0]
    reasons = "; ".join(f"{'+'.join(a.kinds)}: {a.reason}" for a in answers)
    raise InputError("no kind of hardware meets the limits", value=reasons)
