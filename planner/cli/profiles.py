"""``newel profiles``: list, show and check the facts on devices, links, nodes, clusters and prices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from planner.cli.terminal import JsonValue, emit, emit_json, say
from planner.errors import EXIT_BAD_INPUT, UnknownNameError

if TYPE_CHECKING:
    from hardware_profiles.loader import ProfileKind

_KINDS = ("devices", "links", "nodes", "clusters", "prices")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Folder = Annotated[
    list[Path] | None,
    typer.Option("--profiles", help="A folder with own profiles (devices/, links/, ...); repeatable."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="List, show and check hardware profiles.", no_args_is_help=True)
    group.command("list")(list_profiles)
    group.command("show")(show_profile)
    group.command("check")(check_profiles)
    app.add_typer(group, name="profiles")


def list_profiles(
    kind: Annotated[str, typer.Argument(help=f"Which kind: {', '.join(_KINDS)}.")] = "devices",
    profiles: Folder = None,
    as_json: Json = False,
) -> None:
    """List profiles with their main figures."""
    from hardware_profiles.loader import profile_names
    from planner.frontend.profile_lookup import profile_errors

    wanted = _kind(kind)
    folders = tuple(profiles or ())
    names = profile_names(wanted, folders=folders)
    if as_json:
        with profile_errors():
            emit_json({wanted: [_as_json(wanted, name, folders) for name in names]})
        return
    with profile_errors():
        emit("\n".join(_table(wanted, names, folders)))


def show_profile(
    name: Annotated[str, typer.Argument(help="Name or alias of a profile.")],
    kind: Annotated[str | None, typer.Option("--kind", help="Which kind, where a name has several.")] = None,
    profiles: Folder = None,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the profile's file: a start for one of your own.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one profile: every number with its source and date."""
    from hardware_profiles.loader import find_profile
    from planner.frontend.profile_lookup import profile_errors
    from planner.report.profile_view import profile_lines

    folders = tuple(profiles or ())
    found = _find(name, kind, folders)
    with profile_errors():
        if as_json:
            emit_json(_as_json(found, name, folders))
        elif as_yaml:
            emit(find_profile(found, name, folders=folders).read_text(encoding="utf-8").rstrip())
        elif found == "clusters":
            emit("\n".join(_cluster_lines(name)))
        else:
            emit("\n".join(profile_lines(_load(found, name, folders))))


def check_profiles(
    files: Annotated[list[Path] | None, typer.Argument(help="Files to check; none: all profiles.")] = None,
    profiles: Folder = None,
    as_json: Json = False,
) -> None:
    """Check profiles against the schema and against what is physically plausible."""
    from hardware_profiles.checking import check_file
    from hardware_profiles.errors import ProfileError
    from hardware_profiles.loader import profile_paths

    folders = tuple(profiles or ())
    kinds = cast("tuple[ProfileKind, ...]", _KINDS)
    paths = files or [path for kind in kinds for path in profile_paths(kind, folders=folders)]
    rows: list[dict[str, JsonValue]] = []
    for path in paths:
        try:
            kind, findings = check_file(path)
        except ProfileError as error:
            rows.append(_row(path, "error", error.line, error.key, error.without_place()))
            continue
        if kind == "clusters":
            rows += _cluster_findings(path)
        rows += [_row(path, f.severity, None, f.key, f.message) for f in findings]
    num_errors = sum(row["severity"] == "error" for row in rows)
    if as_json:
        emit_json({"num_files": len(paths), "num_errors": num_errors, "findings": rows})
    else:
        for row in rows:
            place = ":".join(str(p) for p in (row["file"], row["line"]) if p is not None)
            emit(": ".join(str(p) for p in (place, row["severity"], row["key"], row["message"]) if p))
        say(f"{len(paths)} profiles checked, {num_errors} errors, {len(rows) - num_errors} warnings")
    if num_errors:
        raise typer.Exit(EXIT_BAD_INPUT)


def _row(path: Path, severity: str, line: int | None, key: str, message: str) -> dict[str, JsonValue]:
    return {"file": str(path), "line": line, "severity": severity, "key": key, "message": message}


def _cluster_findings(path: Path) -> list[dict[str, JsonValue]]:
    """Return what keeps a cluster file from becoming a cluster."""
    from planner.diagnostics import Diagnostics
    from planner.errors import InputError
    from planner.frontend.clusters import parse_cluster

    try:
        parse_cluster(str(path.resolve()), source=None, diagnostics=Diagnostics())
    except InputError as error:
        return [_row(path, "error", error.line, error.key or "", error.message)]
    return []


def _kind(text: str) -> ProfileKind:
    kind = text.lower() if text.lower() in _KINDS else text.lower() + "s"
    if kind not in _KINDS:
        raise UnknownNameError("kind of profile", text, _KINDS)
    return kind


def _find(name: str, kind: str | None, folders: tuple[Path, ...]) -> ProfileKind:
    """Return the kind of the profile called `name`, the first of `_KINDS` that has one."""
    from hardware_profiles.loader import UnknownProfileError, find_profile, profile_names
    from planner.frontend.profile_lookup import profile_errors

    kinds = cast("tuple[ProfileKind, ...]", _KINDS) if kind is None else (_kind(kind),)
    if kind is not None:
        with profile_errors():
            find_profile(kinds[0], name, folders=folders)
        return kinds[0]
    for one in kinds:
        try:
            find_profile(one, name, folders=folders)
        except UnknownProfileError:
            continue
        return one
    known = [known for one in kinds for known in profile_names(one, folders=folders)]
    raise UnknownNameError("profile", name, known)


def _as_json(kind: ProfileKind, name: str, folders: tuple[Path, ...]) -> dict[str, JsonValue]:
    if kind == "clusters":
        from hardware_profiles.loader import load_cluster_file

        return load_cluster_file(name, folders=folders).model_dump(mode="json", exclude_none=True)
    return _load(kind, name, folders).model_dump(mode="json", exclude_none=True)


def _load(kind: ProfileKind, name: str, folders: tuple[Path, ...]):
    from hardware_profiles import loader

    load = {
        "devices": loader.load_device,
        "links": loader.load_link,
        "nodes": loader.load_node,
        "prices": loader.load_price_list,
    }[kind]
    return load(name, folders=folders)


def _table(kind: ProfileKind, names: tuple[str, ...], folders: tuple[Path, ...]) -> list[str]:
    from hardware_profiles.loader import load_device, load_link, load_node, load_price_list
    from planner.report import profile_view

    if kind == "devices":
        return profile_view.device_rows([load_device(n, folders=folders) for n in names])
    if kind == "links":
        return profile_view.link_rows([load_link(n, folders=folders) for n in names])
    if kind == "nodes":
        return profile_view.node_rows([load_node(n, folders=folders) for n in names])
    if kind == "prices":
        lists = [load_price_list(n, folders=folders) for n in names]
        return [line for one in lists for line in (one.name, *profile_view.price_rows(one))]
    return [line for name in names for line in _cluster_lines(name)]


def _cluster_lines(name: str) -> list[str]:
    """Return a cluster as lines: its groups and their levels."""
    from planner.diagnostics import Diagnostics
    from planner.frontend.clusters import parse_cluster

    cluster = parse_cluster(name, source=None, diagnostics=Diagnostics())
    lines = [f"{cluster.name}: {cluster.num_devices} devices"]
    for group in cluster.groups:
        levels = ", ".join(f"{v.name} of {v.num_devices} on {v.link.name}" for v in group.levels)
        lines.append(f"  {group.num_nodes} x {group.devices_per_node} x {group.device.name}: {levels}")
    if cluster.between_groups is not None:
        lines.append(f"  between the groups: {cluster.between_groups.name}")
    return lines
