"""Choices of a training job that a user can pin: their names, other spellings, and what each may be."""

from __future__ import annotations

from planner.errors import InputError, UnknownNameError

PRECISIONS = ("bf16", "fp16", "fp8", "fp8_block", "nvfp4")
SCHEDULES = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v")
OFFLOADS = (
    *("none", "optimizer", "optimizer_and_parameters"),
    *("activations", "optimizer_and_activations", "everything"),
)
DEGREES = ("tp", "pp", "dp", "cp", "ep", "etp", "num_chunks", "micro_batch", "dp_shard", "cp_ulysses")
LEVELS = ("zero", "recompute_layers")
WORDS: dict[str, tuple[str, ...]] = {
    "recompute": ("none", "selective", "full"),
    "offload": OFFLOADS,
    "schedule": SCHEDULES,
    "gradients": ("full", "bf16", "int4", "1bit"),
    "precision": PRECISIONS,
}
SWITCHES = ("sequence_parallel",)
FIXABLE = (*DEGREES, *LEVELS, *SWITCHES, *WORDS)
_OTHER_NAMES = {
    "vpp": "num_chunks",
    "v": "num_chunks",
    "mbs": "micro_batch",
    "sp": "sequence_parallel",
    "fsdp": "dp_shard",
    "zero_stage": "zero",
}


def fixed_value(name: str, value: object) -> int | str | bool:
    """Return the value of a pinned choice, checked.

    Raises
    ------
    InputError
        If it is no value of that choice.
    """
    if name in WORDS:
        if value not in WORDS[name]:
            raise UnknownNameError(name, str(value), WORDS[name])
        return str(value)
    if name in SWITCHES:
        if not isinstance(value, bool):
            raise InputError("must be true or false", value=value)
        return value
    least = 0 if name in LEVELS else 1
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 10**7:
        raise InputError(f"must be a whole number from {least}", value=value)
    if name == "zero" and value > 3:
        raise InputError("must be a ZeRO stage", value=value, allowed="0, 1, 2, 3")
    return value


def fix_name(name: str) -> str:
    """Return the name of a pinned choice under any of its spellings.

    Raises
    ------
    UnknownNameError
        If there is no such choice.
    """
    found = _OTHER_NAMES.get(name.lower(), name.lower())
    if found not in FIXABLE:
        raise UnknownNameError("degree or choice", name, FIXABLE)
    return found
