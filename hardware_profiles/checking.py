"""Check profile files: which kind a file is, whether it matches the schema, whether it is plausible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import cast

from hardware_profiles.cluster_file import ClusterFile
from hardware_profiles.errors import ProfileError
from hardware_profiles.loader import ProfileKind, validate_profile
from hardware_profiles.plausibility import (
    Finding,
    check_device,
    check_link,
    check_node,
    check_prices,
    check_sources,
)
from hardware_profiles.profile_file import ProfileFile, read_profile_file
from hardware_profiles.schema import DeviceProfile, LinkProfile, NodeProfile, PriceList

MODELS: Mapping[ProfileKind, type[DeviceProfile | LinkProfile | NodeProfile | PriceList | ClusterFile]] = {
    "devices": DeviceProfile,
    "links": LinkProfile,
    "nodes": NodeProfile,
    "clusters": ClusterFile,
    "prices": PriceList,
}
_TELLTALE: tuple[tuple[str, ProfileKind], ...] = (
    ("peak_flops_per_s", "devices"),
    ("latency_s", "links"),
    ("devices_per_node", "nodes"),
    ("groups", "clusters"),
    ("entries", "prices"),
)


def kind_of(document: ProfileFile) -> ProfileKind:
    """Return what kind of profile a file holds, by its keys and else by its folder.

    Raises
    ------
    ProfileError
        If neither says so.
    """
    for key, kind in _TELLTALE:
        if key in document.data:
            return kind
    folder = Path(document.file).resolve().parent.name
    for kind in MODELS:
        if folder == kind:
            return kind
    raise ProfileError(
        "cannot tell what kind of profile this is",
        file=document.file,
        allowed=", ".join(f"{key} ({kind})" for key, kind in _TELLTALE),
        hint="A profile of a kind has the key named first.",
    )


def check_file(path: Path) -> tuple[ProfileKind, list[Finding]]:
    """Return the kind of a profile file and everything wrong or doubtful about it.

    Raises
    ------
    ProfileError
        If it cannot be read or does not match the schema.
    """
    document = read_profile_file(path)
    kind = kind_of(document)
    profile = validate_profile(MODELS[kind], document)
    findings: list[Finding] = []
    if profile.name is not None and profile.name != path.stem:
        message = f"the name {profile.name!r} must be that of the file, {path.stem!r}"
        findings.append(Finding(severity="error", key="name", message=message))
    if isinstance(profile, ClusterFile):
        findings += check_sources(profile.sources, set(profile.sources))
        return kind, findings
    check = cast("Callable[[object], Iterable[Finding]]", _CHECKS[kind])
    findings += check(profile)
    return kind, findings


_CHECKS: Mapping[ProfileKind, object] = {
    "devices": check_device,
    "links": check_link,
    "nodes": check_node,
    "prices": check_prices,
}
