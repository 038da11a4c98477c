"""The protocol of a model family: what it recognises and how it builds a model.

A family is one file in `families/` with a module attribute FAMILY. Which file serves a config
is decided from the class data alone: `model_type` first, then `architectures`.
"""

from __future__ import annotations

import re
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


_STEM = re.compile(r"[A-Za-z0-9]*[A-Za-z]")

FAMILIES: Registry[Family] = Registry(
    what="model family", package="planner.frontend.families", attribute="FAMILY"
)


def find_family(config: ConfigReader) -> tuple[str, Family]:
    """Return (name, family) for a config.

    Raises
    ------
    InputError
        If no family claims the model type or an architecture; the nearest relative is named.
    """
    model_type, architectures = config.text("model_type", ""), config.strings("architectures") or ()
    families = list(FAMILIES.items())
    for name, family in families:
        if model_type in family.model_types:
            return name, family
    for name, family in families:
        if not set(architectures).isdisjoint(family.architectures):
            return name, family
    relative = _relative(families, config, (model_type, *architectures))
    raise InputError(
        "is an architecture that no family describes",
        file=config.file,
        key="model_type" if model_type else "architectures",
        value=model_type or list(architectures),
        hint=f"The nearest relative is {relative!r}; if the model is built like it, "
        f"add --assume-family {relative}.",
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


_RELATIVE_BY_KEY = (
    ("kv_lora_rank", "deepseek-v3"),
    ("linear_num_value_heads", "qwen3-next"),
    ("mamba_num_heads", "nemotron-h"),
    ("mamba_d_state", "jamba"),
    ("state_size", "mamba"),
    ("shared_expert_intermediate_size", "qwen2-moe"),
    ("n_shared_experts", "glm4-moe"),
    ("num_experts", "qwen3-moe"),
    ("num_local_experts", "mixtral"),
)
"""What an unknown config most likely is, by a key that it states; a plain decoder otherwise."""


def _relative(families: list[tuple[str, Family]], config: ConfigReader, labels: tuple[str, ...]) -> str:
    owner = {label: name for name, family in families for label in (name, *family.model_types)}
    owner |= {label: name for name, family in families for label in family.architectures}
    for label in labels:
        stem = _STEM.match(label)
        if stem and stem.group().lower() in owner:
            return owner[stem.group().lower()]
    for key, name in _RELATIVE_BY_KEY:
        if config.has(key):
            return name
    close = next((n for n in (nearest(label, owner) for label in labels if label) if n), None)
    return owner[close] if close else "llama"
