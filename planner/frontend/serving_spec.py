"""The sections of a serving spec, as users write them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field

from cost_models.formats import ALIASES, FORMATS
from planner.errors import InputError, UnknownNameError
from planner.frontend.distributions import distribution, tokens, weight
from planner.frontend.specs import (
    CommonSpec,
    Count,
    Percentile,
    RateRps,
    Section,
    Share,
    Text,
    TimeS,
    Words,
    as_list,
    checked,
)

KV_FORMATS = ("bf16", "fp16", "fp8", "int8", "nvfp4")
DEGREES = ("tp", "pp", "ep", "attention_dp", "moe_tp", "cp", "decode_cp", "token_budget", "max_num_seqs")
GOALS = ("max_throughput", "min_devices", "min_cost", "min_power", "min_latency", "min_cost_per_token")

Length = Annotated[Any, checked(distribution)]
Weight = Annotated[Any, checked(weight)]
Tokens = Annotated[int, checked(tokens)]
Copies = Annotated[list[Annotated[int, Field(ge=0, le=4096)]], BeforeValidator(as_list)]
Modes = Annotated[list[Literal["aggregated", "disaggregated"]], Field(min_length=1)]


def _format(names: tuple[str, ...]) -> BeforeValidator:
    """Return a validator that reads names of formats, under any of their spellings."""

    def read(value: object) -> object:
        listed = cast("list[object]", value) if isinstance(value, list) else [value]
        return list(dict.fromkeys(_one_format(item, names) for item in listed))

    return checked(read)


def _one_format(value: object, names: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise InputError("not the name of a format", value=value, allowed=", ".join(names))
    name = ALIASES.get(value.strip().lower(), value.strip().lower())
    if name not in names:
        raise UnknownNameError("number format", value, names)
    return name


class ComponentSection(Section):
    """A part of the traffic: requests of one sort, with their share."""

    weight: Weight = 1.0
    input_tokens: Length = Field(description="Prompt length in tokens: a number or a distribution.")
    output_tokens: Length = Field(description="Output length in tokens: a number or a distribution.")


class ImagesSection(Section):
    """Images of every request: how many of which size in pixels; their tokens add to the prompt."""

    count: Annotated[int, Field(ge=1, le=1000)] = 1
    width: Annotated[int, Field(ge=1, le=100_000)]
    height: Annotated[int, Field(ge=1, le=100_000)]


class WorkloadSection(Section):
    """Requests: how long they are (one of input/output_tokens, lengths, trace) and how often they come."""

    input_tokens: Length = None
    output_tokens: Length = None
    lengths: Annotated[list[ComponentSection], Field(min_length=1, max_length=1000)] | None = None
    trace: Text | None = None
    rate: RateRps | None = None
    concurrency: Count | None = None
    burstiness: Annotated[float, Field(ge=0.0, le=1000.0)] | None = None
    prefix_hit: Share = 0.0
    images: ImagesSection | None = None


class SloSection(Section):
    """Upper limits on latency, at a percentile of the requests (mean if none is stated)."""

    ttft: TimeS | None = None
    tpot: TimeS | None = None
    e2e: TimeS | None = None
    percentile: Percentile = 0.0


class FormatsSection(Section):
    """Formats that the user allows; more than one makes the format a choice of the planner."""

    weights: Annotated[list[str], Field(min_length=1), _format(tuple(FORMATS))] | None = None
    kv: Annotated[list[str], Field(min_length=1), _format(KV_FORMATS)] | None = None


class AdaptersSection(Section):
    """Low-rank adapters that stay in device memory beside their base."""

    resident: Count
    rank: Annotated[int, Field(ge=1, le=1024)] = 16


class ServingSpec(CommonSpec):
    """A spec of ``kind: serving``."""

    model: Any = Field(
        description="Give a config.json, a directory that holds one, or a bundled model's name."
    )
    cluster: Any = Field(
        description="Give a shorthand such as 8xh200, a mapping, or the path of a cluster file."
    )
    workload: WorkloadSection = Field(
        description="State input_tokens and output_tokens (--isl, --osl), lengths, or a trace."
    )
    slo: SloSection = SloSection()
    formats: FormatsSection = FormatsSection()
    engine: Words = Field(default=["vllm"])
    modes: Modes = Field(default=["aggregated", "disaggregated"])
    fix: dict[str, Count] = Field(default={})
    max_num_seqs: Count = 1024
    token_budgets: list[Tokens] = Field(default=[])
    routing_skew: Annotated[float, Field(ge=1.0, le=100.0)] = 1.0
    memory_fraction: Share | None = None
    adapters: AdaptersSection | None = None
    allow_weight_offload: bool = False
    expert_loads: Text | None = None
    redundant_experts: Annotated[Copies, Field(min_length=1, max_length=20)] = Field(default=[0])
    assume_family: Text | None = None
    costs: Text = "newel"
