"""The sections of a training spec, as users write them."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field

from hardware_profiles.errors import ProfileError
from hardware_profiles.units import parse_quantity
from planner.errors import InputError, UnknownNameError
from planner.frontend.distributions import tokens as token_count
from planner.frontend.specs import CommonSpec, Count, Section, Text, TimeS, checked
from planner.ir.training_fix import PRECISIONS, SCHEDULES, WORDS

GOALS = ("min_step_time", "min_cost", "min_energy")


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else [value]


def _named(what: str, names: tuple[str, ...]) -> BeforeValidator:
    """Return a validator that reads one or more names out of `names`."""

    def read(value: object) -> object:
        found: list[str] = []
        for item in _list(value):
            if not isinstance(item, str) or item.strip().lower() not in names:
                raise UnknownNameError(what, str(item), names)
            found.append(item.strip().lower())
        return list(dict.fromkeys(found))

    return checked(read)


def _count(value: object) -> object:
    """Return a number such as ``15T`` (tokens of a run) as a float."""
    try:
        found = parse_quantity(value, "count")
    except ProfileError as error:
        raise InputError(
            error.message, value=error.value, allowed="a number of tokens, e.g. 15T or 300B"
        ) from None
    if found < 1:
        raise InputError("a run trains at least one token", value=value)
    return found


def _billions(value: object) -> object:
    """Read ``300B`` (billions of tokens), which people write beside ``15T``."""
    if isinstance(value, str) and value.strip().upper().endswith("B"):
        return _count(value.strip()[:-1] + "G")
    return _count(value)


def _bytes(value: object) -> object:
    try:
        return parse_quantity(value, "bytes", allow_bare=False)
    except ProfileError as error:
        raise InputError(error.message, value=error.value, allowed=error.allowed or None) from None


class TrainingWorkloadSection(Section):
    """The batch of one optimizer step, which is honoured exactly, and the length of the whole run."""

    global_batch: Count = Field(description="State the sequences of one step (--global-batch).")
    seq_len: Annotated[int | None, checked(token_count)] = None
    lengths: Text | None = None
    num_batches: Annotated[int, Field(ge=1, le=32)] = 3
    tokens: Annotated[float | None, checked(_billions)] = None
    deadline: TimeS | None = None


def _whole_numbers(least: int, most: int) -> BeforeValidator:
    """Return a validator that reads one or more whole numbers."""

    def read(value: object) -> object:
        found: list[int] = []
        for item in _list(value):
            if isinstance(item, bool) or not isinstance(item, int) or not least <= item <= most:
                raise InputError("a whole number is needed", value=item, allowed=f"{least} to {most}")
            found.append(item)
        return sorted(set(found))

    return checked(read)


class OuterLoopSection(Section):
    """Settings that an outer loop between sites may have; stating one allows the algorithm to change."""

    steps: Annotated[list[int], Field(min_length=1, max_length=16), _whole_numbers(1, 1_000_000)] = Field(
        description="State local steps between exchanges, e.g. [50, 100, 500]."
    )
    bits: Annotated[list[int], Field(min_length=1, max_length=16), _whole_numbers(1, 32)] = Field(
        default=[32]
    )
    fragments: Annotated[list[int], Field(min_length=1, max_length=16), _whole_numbers(1, 10_000)] = Field(
        default=[1]
    )
    overlap_steps: Annotated[list[int], Field(min_length=1, max_length=16), _whole_numbers(0, 1_000_000)] = (
        Field(default=[0])
    )


ZeroStage = Annotated[int, Field(ge=0, le=3)]


class TrainingSpec(CommonSpec):
    """A spec of ``kind: training``."""

    model: Any = Field(
        description="Give a config.json, a directory that holds one, or a bundled model's name."
    )
    cluster: Any = Field(
        description="Give a shorthand such as 64x8xh100@ib400, a mapping, or the path of a cluster file."
    )
    workload: TrainingWorkloadSection = Field(
        description="State global_batch and seq_len (--global-batch, --seq)."
    )
    precision: Annotated[list[str], Field(min_length=1), _named("precision", PRECISIONS)] = Field(
        default=["bf16"]
    )
    recompute: Annotated[list[str], Field(min_length=1), _named("recompute", WORDS["recompute"])] = Field(
        default=["none", "selective", "full"]
    )
    zero: Annotated[list[ZeroStage], Field(min_length=1), BeforeValidator(_list)] = Field(
        default=[0, 1, 2, 3]
    )
    offload: Annotated[list[str], Field(min_length=1), _named("offload", WORDS["offload"])] = Field(
        default=["none"]
    )
    gradients: Annotated[
        list[str], Field(min_length=1), _named("format of gradients", WORDS["gradients"])
    ] = Field(default=["full"])
    outer_loop: OuterLoopSection | None = None
    schedule: Annotated[list[str] | None, _named("schedule", SCHEDULES)] = None
    software: Text = "megatron-lm"
    flash_attention: bool = True
    max_micro_batch: Annotated[int, Field(ge=1, le=4096)] = 64
    memory_reserve: Annotated[float, checked(_bytes)] = 0.0
    fix: dict[str, Any] = Field(default={})
    assume_family: Text | None = None
