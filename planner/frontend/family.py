"""The protocol of a model family: what it recognises and how it builds a model.

A family is one file in `families/` with a module attribute FAMILY. Which file serves a config
is decided from the class data alone: `model_type` first, then `architectures`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planner.errors import InputError, UnknownNameError, nearest
from planner.frontend.config_reader import ConfigReader
from planner.frontend.model_blocks.decoder import ModelParts
from planner.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family: the `model_types` and `architectures` it is exact for, and its builder."""

    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    build: Callable[[ConfigReader], ModelParts]


FAMILIES: Registry[Family] = Registry(
    what="model family", package="planner.frontend.families", attribute="FAMILY"
)


def find_family(model_type: str, architectures: tuple[str, ...], file: str) -> tuple[str, Family]:
    """Return (name, family) for a config.

    Raises
    ------
    InputError
        If no family claims the model type or an architecture; the nearest relative is named.
    """
    families = list(FAMILIES.items())
    for name, family in families:
        if model_type in family.model_types:
            return name, family
    for name, family in families:
        if not set(architectures).isdisjoint(family.architectures):
            return name, family
    raise InputError(
        "is an architecture that no family describes",
        file=file,
        key="model_type" if model_type else "architectures",
        value=model_type or list(architectures),
        hint=_relative_hint(families, model_type, architectures),
    )


def named_family(name: str) -> Family:
    """Return the family that the user named with --assume-family.

    Raises
    ------
    UnknownNameError
        If there is none of that name.
    """
    if name.replace("_", "-") not in FAMILIES.names():
        raise UnknownNameError("model family", name, FAMILIES.names())
    return FAMILIES.get(name)


def _relative_hint(
    families: list[tuple[str, Family]], model_type: str, architectures: tuple[str, ...]
) -> str:
    owner = {label: name for name, family in families for label in (name, *family.model_types)}
    owner |= {label: name for name, family in families for label in family.architectures}
    found = next((n for n in (nearest(t, owner) for t in (model_type, *architectures) if t) if n), None)
    if found is None:
        return "Name a family that it equals with --assume-family: " + ", ".join(FAMILIES.names()) + "."
    return (
        f"The nearest relative is {owner[found]!r}; if the model is built like it, "
        f"add --assume-family {owner[found]}."
    )
