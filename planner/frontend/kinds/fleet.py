"""``kind: fleet``: several models with their traffic and limits on one inventory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from planner.diagnostics import Diagnostics
from planner.errors import InputError, UnknownNameError
from planner.frontend.fleet_spec import GOALS, SERVING_KEYS, FleetModelSection, FleetSpec
from planner.frontend.spec_tree import SpecTree
from planner.frontend.specs import KINDS, validated
from planner.frontend.yaml_source import KeyPath
from planner.ir.cluster import Cluster, NodeGroup
from planner.ir.fleet import (
    FaultTolerance,
    FleetModel,
    FleetProblem,
    PowerDomains,
    StatedShape,
    Traffic,
    TrafficLevel,
)
from planner.ir.objective import Objective
from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem

SPEC = FleetSpec

_PROBE_MODEL = "llama-3.2-1b"
_OF_THE_PROBE = ("cluster", "price")
"""Codes of remarks on the stand-in cluster that an entry is read with."""


def read(tree: SpecTree, diagnostics: Diagnostics) -> Problem[FleetProblem]:
    """Return the fleet problem that a spec states.

    Raises
    ------
    InputError
        If anything in the spec is wrong.
    """
    spec = validated(tree, FleetSpec)
    cluster = _cluster(tree, diagnostics)
    _check_names(tree, [model.name for model in spec.models], ("models",))
    _check_names(tree, [level.name for level in spec.levels], ("levels",))
    if spec.levels and sum(level.hours for level in spec.levels) > 24.0 + 1e-9:
        raise tree.error("the levels are longer than a day", ("levels",), allowed="24 hours together")
    models = tuple(
        _model(tree, index, section, cluster, diagnostics) for index, section in enumerate(spec.models)
    )
    payload = FleetProblem(
        models=models,
        levels=tuple(
            TrafficLevel(name=level.name, factor=level.factor, hours=level.hours) for level in spec.levels
        ),
        rack_cap_w=spec.rack_power,
        power_domain_nodes=spec.power_domain_nodes or 0,
        power_domain_cap_w=_domain_power(tree, spec),
        power_domains=_power_domains(tree, spec, cluster),
        start_s=spec.start_time,
    )
    return Problem(
        kind="fleet",
        name=spec.name or f"{len(models)} models on {cluster.name}",
        cluster=cluster,
        objective=_objective(tree, spec, cluster, diagnostics),
        budget=spec.budget.lowered(),
        options=spec.search.lowered(),
        payload=payload,
        inputs=tuple(dict.fromkeys(tree.digests)),
    )


def _domain_power(tree: SpecTree, spec: FleetSpec) -> float | None:
    if spec.power_domain_power is not None and spec.power_domain_nodes is None:
        raise tree.error("needs power_domain_nodes", ("power_domain_power",))
    return spec.power_domain_power


def _power_domains(tree: SpecTree, spec: FleetSpec, cluster: Cluster) -> tuple[PowerDomains, ...]:
    """Return power domains that nodes of several groups share; each holds whole scale-up domains."""
    if spec.power_domains and spec.power_domain_nodes is not None:
        raise tree.error("state power_domains or power_domain_nodes, not both", ("power_domains",))
    dealt: dict[str, int] = {}
    found: list[PowerDomains] = []
    for index, section in enumerate(spec.power_domains):
        nodes: list[tuple[str, int]] = []
        for name, number in section.nodes.items():
            path: KeyPath = ("power_domains", index, "nodes", name)
            group = _group_named(tree, path, name, cluster)
            dealt[group.name] = dealt.get(group.name, 0) + number * section.count
            if dealt[group.name] > group.num_nodes:
                raise tree.error(
                    f"there are only {group.num_nodes} nodes of {group.name}", path, value=dealt[group.name]
                )
            if number * group.devices_per_node % group.domain_size:
                raise tree.error(
                    "a power domain holds whole scale-up domains",
                    path,
                    value=number,
                    allowed=f"multiples of {group.domain_size // group.devices_per_node} nodes",
                )
            nodes.append((group.name, number))
        found.append(PowerDomains(nodes=tuple(nodes), count=section.count, cap_w=section.power))
    return tuple(found)


def _group_named(tree: SpecTree, path: KeyPath, name: str, cluster: Cluster) -> NodeGroup:
    own = [g for g in cluster.groups if g.name == name] or [
        g for g in cluster.groups if g.device.name == name
    ]
    if len(own) != 1:
        known = sorted({g.name for g in cluster.groups})
        raise tree.located(UnknownNameError("node group", name, known), path)
    return own[0]


def _objective(tree: SpecTree, spec: FleetSpec, cluster: Cluster, diagnostics: Diagnostics) -> Objective:
    name = spec.objective.name
    if name is None:
        priced = all(group.usd_per_device_hour is not None for group in cluster.groups)
        name = "min_cost" if priced else "min_devices"
        diagnostics.note("objective-default", f"no objective is stated, so it is {name}")
    elif name not in GOALS:
        raise tree.located(UnknownNameError("objective", name, GOALS), ("objective",))
    return Objective(name=name, robust=spec.objective.robust)


def _cluster(tree: SpecTree, diagnostics: Diagnostics) -> Cluster:
    """Return the inventory, read as any serving spec reads its cluster."""
    data: dict[str, object] = {
        "model": _PROBE_MODEL,
        "cluster": tree.data["cluster"],
        "workload": {"input_tokens": 1, "output_tokens": 1},
        "objective": "max_throughput",
        "formats": {"weights": ["bf16"]},
    }
    part = _part(tree, data, {("cluster",): ("cluster",)})
    found = cast("Problem[ServingProblem]", KINDS.get("serving")(part, diagnostics)).cluster
    tree.digests.extend(digest for digest in part.digests if digest.role == "cluster")
    return found


def _part(tree: SpecTree, data: dict[str, object], moved: Mapping[KeyPath, KeyPath]) -> SpecTree:
    """Return a spec made of parts of this one; `moved` says where its keys come from."""
    part = SpecTree(data=data, file=tree.file, base_dir=tree.base_dir)
    for to, source in moved.items():
        for below, line in tree.lines_below(source).items():
            part.lines[*to, *below] = line
        for path, origin in tree.origins.items():
            if path[: len(source)] == source:
                part.origins[*to, *path[len(source) :]] = origin
    return part


def _check_names(tree: SpecTree, names: Iterable[str], path: KeyPath) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise tree.error("this name stands twice", (*path, index, "name"), value=name)
        seen.add(name)


def _model(
    tree: SpecTree, index: int, section: FleetModelSection, cluster: Cluster, diagnostics: Diagnostics
) -> FleetModel:
    path: KeyPath = ("models", index)
    if (section.model is None) == (section.stated is None):
        raise tree.error("give a model, or the stated rates of a stage", path, value=section.name)
    rate = _rate(tree, path, section)
    serving = None
    if section.stated is None:
        serving = _serving(tree, path, section, diagnostics)
    elif section.adapters is not None:
        raise tree.error("adapters need a model", (*path, "adapters"))
    return FleetModel(
        name=section.name,
        rate_rps=rate,
        serving=serving,
        stated=_stated(tree, path, section, cluster),
        priority=section.priority,
        min_share=_min_share(section),
        min_replicas=section.min_replicas,
        tolerance=_tolerance(section),
        traffic=tuple(Traffic(name=v.name, rate_rps=v.rate) for v in section.variants),
        places=_places(tree, path, section, cluster),
        replica_devices=_replica_devices(section, cluster),
    )


def _rate(tree: SpecTree, path: KeyPath, section: FleetModelSection) -> float:
    """Return the requests per second of an entry: its own, or those of its variants together."""
    workload = cast("object", section.workload)
    inside = workload.get("rate") if isinstance(workload, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if section.variants:
        if section.rate is not None or inside is not None:
            raise tree.error("the rate is that of the variants together", (*path, "variants"))
        _check_names(tree, [variant.name for variant in section.variants], (*path, "variants"))
        return sum(variant.rate for variant in section.variants)
    if section.rate is not None:
        if inside is not None:
            raise tree.error("state the rate once", (*path, "rate"))
        return section.rate
    if inside is None:
        raise tree.error(
            "is missing", (*path, "rate"), hint="State the requests per second; 0 means no traffic."
        )
    from planner.frontend.quantities import rate_rps

    try:
        return rate_rps(cast("object", inside))
    except InputError as error:
        raise tree.located(error, (*path, "workload", "rate")) from None


def _min_share(section: FleetModelSection) -> float:
    """Return the share that must be served; goals that maximise goodput leave it open unless stated."""
    return 0.0 if section.min_share is None else section.min_share


def _serving(
    tree: SpecTree, path: KeyPath, section: FleetModelSection, diagnostics: Diagnostics
) -> ServingProblem:
    """Return the serving part of an entry, read as a serving spec."""
    raw = cast("dict[str, object]", cast("list[object]", tree.data["models"])[cast("int", path[1])])
    data: dict[str, object] = {key: raw[key] for key in SERVING_KEYS if key in raw}
    if "workload" not in data:
        raise tree.error("is missing", (*path, "workload"), hint="State input_tokens and output_tokens.")
    if isinstance(data["workload"], dict):
        workload = cast("dict[str, object]", data["workload"])
        if "concurrency" in workload:
            raise tree.error("a fleet is planned for a rate", (*path, "workload", "concurrency"))
        data["workload"] = {key: value for key, value in workload.items() if key != "rate"}
    data |= {"cluster": "1xh100", "objective": "max_throughput"}
    part = _part(tree, data, {(key,): (*path, key) for key in SERVING_KEYS})
    own = Diagnostics()
    try:
        found = cast("Problem[ServingProblem]", KINDS.get("serving")(part, own))
    except InputError as error:
        key = f"models[{path[1]}] ({section.name}) {error.key or ''}".rstrip()
        raise InputError(
            error.message,
            file=error.file,
            line=error.line,
            key=key,
            value=error.value,
            allowed=error.allowed,
            hint=error.hint,
        ) from None
    tree.digests.extend(digest for digest in part.digests if digest.role != "cluster")
    for entry in own.entries:
        if not entry.code.startswith(_OF_THE_PROBE):
            add = diagnostics.warn if entry.severity == "warning" else diagnostics.note
            add(entry.code, f"{section.name}: {entry.message}")
    return found.payload


def _stated(
    tree: SpecTree, path: KeyPath, section: FleetModelSection, cluster: Cluster
) -> tuple[StatedShape, ...]:
    kinds = [group.device.name for group in cluster.groups]
    found: list[StatedShape] = []
    for device, stated in (section.stated or {}).items():
        if stated.rate <= 0.0:
            raise tree.error("must be more than 0", (*path, "stated", device, "rate"), value=stated.rate)
        if device in kinds:
            found.append(
                StatedShape(
                    device=device,
                    num_devices=stated.devices,
                    capacity_rps=stated.rate,
                    latency_s=stated.latency,
                )
            )
    return tuple(found)


def _tolerance(section: FleetModelSection) -> FaultTolerance | None:
    if section.availability is None:
        return None
    return FaultTolerance(
        num_lost=section.availability.lose,
        domain=section.availability.of,
        most_per_domain=section.availability.most_per_domain,
    )


def _places(
    tree: SpecTree, path: KeyPath, section: FleetModelSection, cluster: Cluster
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the groups that each role may use; a device kind stands for all its groups."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for role in ("aggregated", "prefill", "decode", "stage"):
        names = getattr(section.places, role, None) or section.places.any
        if names is None:
            continue
        groups: list[str] = []
        for name in names:
            own = [g.name for g in cluster.groups if name in (g.name, g.device.name)]
            if not own:
                known = sorted({n for g in cluster.groups for n in (g.name, g.device.name)})
                raise tree.located(UnknownNameError("device kind or group", name, known), (*path, "places"))
            groups.extend(own)
        found.append((role, tuple(dict.fromkeys(groups))))
    return tuple(found)


def _replica_devices(section: FleetModelSection, cluster: Cluster) -> int:
    """Return the most devices of one replica: what is stated, else the largest scale-up domain up to 16."""
    if section.replica_devices is not None:
        return section.replica_devices
    return max(min(16, group.domain_size) for group in cluster.groups)
