"""What a simulation of served requests is asked to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A replica that goes down: name of its pool, its number, when (seconds), and for how long."""

    pool: str
    replica: int
    at_s: float
    for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """A replica whose steps take `factor` times as long."""

    pool: str
    replica: int
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCache:
    """A cache tier below the devices of each replica: bytes, and bytes per second to the devices."""

    name: str
    capacity_bytes: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationOptions:
    """How much to simulate, and under which policies, failures and tiers.

    `num_requests` is None for all of a trace, or as many as fill the replicas; `rate_rps` for what the plan
    serves or the trace says. `guess_sigma` is the error of predicted output lengths (standard deviation of
    their logarithm), for policies that predict.
    """

    num_requests: int | None = None
    rate_rps: float | None = None
    seed: int = 0
    policy: str = "fcfs"
    routing: str = "least-loaded"
    failures: tuple[Failure, ...] = ()
    stragglers: tuple[Straggler, ...] = ()
    tiers: tuple[HostCache, ...] = ()
    guess_sigma: float = 0.5
