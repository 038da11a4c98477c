"""The fleet payload of a problem: several models and services that share one inventory."""

from __future__ import annotations

from dataclasses import dataclass

from planner.ir.serving import ServingProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultTolerance:
    """What a model must survive: the loss of any `num_lost` domains (node, rack or power).

    At most `most_per_domain` of its replicas share such a domain.
    """

    num_lost: int
    domain: str = "node"
    most_per_domain: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """One tenant, fine-tuned variant or adapter of a model: a name and its requests per second."""

    name: str
    rate_rps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedShape:
    """What a stage outside the cost models does on one device kind, as its owner measured it.

    `capacity_rps` requests per second with all limits met, on `num_devices` devices of one domain.
    """

    device: str
    num_devices: int
    capacity_rps: float
    latency_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetModel:
    """One model (`serving`) or stated stage (`stated`) of a fleet, with its demand.

    Parameters
    ----------
    rate_rps
        Requests per second at level factor 1, all of `traffic` together.
    priority
        Weight of its output tokens in the goodput of the fleet.
    min_share
        Share of the rate that must be served whatever the objective.
    min_replicas
        Replicas (of whole requests) that stay up even without traffic.
    places
        Node groups that may hold it, by role (aggregated, prefill, decode); none named means all.
    replica_devices
        Most devices of one replica.
    """

    name: str
    rate_rps: float
    serving: ServingProblem | None = None
    stated: tuple[StatedShape, ...] = ()
    priority: float = 1.0
    min_share: float = 1.0
    min_replicas: int = 0
    tolerance: FaultTolerance | None = None
    traffic: tuple[Traffic, ...] = ()
    places: tuple[tuple[str, tuple[str, ...]], ...] = ()
    replica_devices: int = 8

    def allows(self, role: str, group: str) -> bool:
        """Return whether replicas of a role may stand on a node group."""
        named = dict(self.places).get(role)
        return named is None or group in named


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficLevel:
    """A part of the day: every rate times `factor`, for `hours` in 24."""

    name: str
    factor: float
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerDomains:
    """`count` equal power domains, each with so many `nodes` of some groups and a cap on what runs there.

    Nodes of a group are dealt out in their order, over all domains that a problem lists.
    """

    nodes: tuple[tuple[str, int], ...]
    count: int = 1
    cap_w: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetProblem:
    """Models that share an inventory.

    `levels` (in the order of the day) say when which traffic comes; without any, the rates hold always.
    `rack_cap_w` limits the power provisioned in every rack, `power_domain_cap_w` that of every
    `power_domain_nodes` nodes in a row; `power_domains` are shared by nodes of several groups.
    `start_s` is how long a replica takes to start, which the transitions between levels are priced with.
    `lost_nodes` are not to be used.
    """

    models: tuple[FleetModel, ...]
    levels: tuple[TrafficLevel, ...] = ()
    rack_cap_w: float | None = None
    power_domain_nodes: int = 0
    power_domain_cap_w: float | None = None
    power_domains: tuple[PowerDomains, ...] = ()
    start_s: float = 0.0
    lost_nodes: tuple[str, ...] = ()
