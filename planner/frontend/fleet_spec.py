"""The sections of a fleet spec, as users write them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field

from planner.frontend.specs import CommonSpec, Count, PowerW, RateRps, Section, Share, TimeS, Words

GOALS = ("min_cost", "min_devices", "min_power", "max_load", "max_goodput")
SERVING_KEYS = (
    "model", "workload", "slo", "formats", "engine", "modes", "fix", "max_num_seqs", "token_budgets",
    "routing_skew", "memory_fraction", "assume_family", "adapters",
    "allow_weight_offload", "redundant_experts",
)  # fmt: skip
"""Keys of an entry that mean what they mean in a serving spec."""

Name = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Places = Words


def _as_places(value: object) -> object:
    if isinstance(value, str):
        return {"any": [value]}
    return {"any": cast("list[object]", value)} if isinstance(value, list) else value


class AvailabilitySection(Section):
    """What must be survived: the loss of any `lose` domains, with few replicas in each."""

    lose: Annotated[int, Field(ge=1, le=1000)] = 1
    of: Literal["node", "rack", "pod", "site", "power"] = "node"
    most_per_domain: Count = 1


class VariantSection(Section):
    """A tenant, fine-tuned variant or adapter that shares the replicas of its base, with its own traffic."""

    name: Name
    rate: RateRps


class StatedSection(Section):
    """What a stage does on one device kind, as measured: a replica of `devices` serves `rate`."""

    rate: RateRps
    devices: Count = 1
    latency: TimeS | None = None


class PlacesSection(Section):
    """Device kinds or node groups that may be used, for any role or for one."""

    any: Places | None = None
    aggregated: Places | None = None
    prefill: Places | None = None
    decode: Places | None = None


class FleetModelSection(Section):
    """One model, or a stated stage, with its traffic; serving keys are read as in a serving spec."""

    name: Name
    model: Any = None
    workload: Any = None
    slo: Any = None
    formats: Any = None
    engine: Any = None
    modes: Any = None
    fix: Any = None
    max_num_seqs: Any = None
    token_budgets: Any = None
    routing_skew: Any = None
    memory_fraction: Any = None
    assume_family: Any = None
    stated: Annotated[dict[str, StatedSection], Field(min_length=1)] | None = None
    rate: RateRps | None = None
    variants: list[VariantSection] = Field(default=[])
    adapters: Any = None
    allow_weight_offload: Any = None
    redundant_experts: Any = None
    priority: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0
    min_share: Share | None = None
    min_replicas: Annotated[int, Field(ge=0, le=100_000)] = 0
    availability: AvailabilitySection | None = None
    places: Annotated[PlacesSection, BeforeValidator(_as_places)] = PlacesSection()
    replica_devices: Count | None = None


class LevelSection(Section):
    """A part of the day: every rate times `factor`, for `hours`."""

    name: Name
    factor: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
    hours: Annotated[float, Field(gt=0, le=24, allow_inf_nan=False)]


class PowerDomainsSection(Section):
    """Equal power domains: nodes of each device kind or group in one, the cap, how many there are."""

    nodes: Annotated[dict[str, Count], Field(min_length=1, max_length=20)]
    power: PowerW | None = None
    count: Count = 1


class FleetSpec(CommonSpec):
    """A spec of ``kind: fleet``."""

    cluster: Any = Field(
        description="Give the inventory: a shorthand, a mapping, or the path of a cluster file."
    )
    models: Annotated[list[FleetModelSection], Field(min_length=1, max_length=200)] = Field(
        description="List the models with their traffic."
    )
    levels: Annotated[list[LevelSection], Field(max_length=24)] = Field(default=[])
    start_time: TimeS = 0.0
    rack_power: PowerW | None = None
    power_domain_nodes: Count | None = None
    power_domain_power: PowerW | None = None
    power_domains: Annotated[list[PowerDomainsSection], Field(max_length=100)] = Field(default=[])
