"""What a simulation saw, beside what the plan predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cost_models.energy import device_power_w, energy_j
from hardware_profiles.schema import DeviceProfile
from planner.ir.workload import Slo
from planner.plan.schema import Plan
from planner.simulate.serving_cache import PrefixCache
from planner.simulate.serving_engine import Tally
from planner.simulate.serving_request import Request
from planner.simulate.serving_verdict import Verdict, verdict

FloatArray = np.ndarray[tuple[int], np.dtype[np.float64]]

PERCENTILES = (50.0, 90.0, 99.0)
_WARM_UP_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A replica and what it did; the cache counts tokens over all its ranks."""

    pool: str
    replica: int
    num_devices: int
    device: DeviceProfile
    cache_tokens: float
    tally: Tally
    caches: tuple[PrefixCache, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceReport:
    """Shares of time that a replica stepped, of its cache that it held (mean, peak); energy, joules."""

    name: str
    busy_share: float
    cache_share: float
    cache_peak_share: float
    energy_j: float
    interruptions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationReport:
    """What was seen: (name, simulated, predicted or None) per figure, after the warm-up.

    `interruptions` counts requests that were thrown back because the caches outgrew the memory or their
    replica failed, `refused` those that were longer than the engines take. `prefix_hits` are shares of prompt
    tokens by the tier that had them. Requests that all came at once have no rate. `measured` are the figures
    of a trace that says when its tokens came.
    """

    num_requests: int
    duration_s: float
    rate_rps: float | None
    figures: tuple[tuple[str, float, float | None], ...]
    places: tuple[PlaceReport, ...]
    interruptions: int
    energy_j: float
    output_tokens_per_s: float
    verdict: Verdict
    prefix_hits: tuple[tuple[str, float], ...] = ()
    refused: int = 0
    measured: tuple[tuple[str, float], ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return the report as plain values."""
        return {
            "num_requests": self.num_requests,
            "duration_s": self.duration_s,
            "rate_rps": self.rate_rps,
            "output_tokens_per_s": self.output_tokens_per_s,
            "interruptions": self.interruptions,
            "refused": self.refused,
            "measured": dict(self.measured),
            **self.verdict.as_dict(),
            "energy_j": self.energy_j,
            "prefix_hits": dict(self.prefix_hits),
            "figures": {name: {"simulated": s, "predicted": p} for name, s, p in self.figures},
            "replicas": {
                place.name: {
                    "busy_share": place.busy_share,
                    "cache_share": place.cache_share,
                    "cache_peak_share": place.cache_peak_share,
                    "energy_j": place.energy_j,
                    "interruptions": place.interruptions,
                }
                for place in self.places
            },
        }


def make_report(
    plan: Plan, slo: Slo, requests: Sequence[Request], places: Sequence[Place], *, warms_up: bool = True
) -> SimulationReport:
    """Return the report of finished requests; if it `warms_up`, the first tenth is not counted.

    What a plan claims is held against requests as it was made for them: `slo` are its limits.
    """
    kept = requests[int(len(requests) * _WARM_UP_SHARE) if warms_up else 0 :]
    arrival = np.array([r.arrival_s for r in kept])
    first = np.array([r.first_s for r in kept])
    finish = np.array([r.finish_s for r in kept])
    steps = np.array([r.steps + r.produced for r in kept], dtype=np.float64)
    decoded = steps > 0
    values = {
        "ttft": first - arrival,
        "tpot": (finish - first)[decoded] / steps[decoded],
        "e2e": finish - arrival,
    }
    figures: list[tuple[str, float, float | None]] = []
    for key, value in _statistics(values):
        claimed = plan.predicted.get(key)
        figures.append((key, value, claimed.value if claimed is not None else None))
    start = min(r.arrival_s for r in requests)
    duration = max(max(r.finish_s for r in requests) - start, 1e-9)
    reports = tuple(_place_report(place, duration) for place in places)
    return SimulationReport(
        num_requests=len(requests),
        duration_s=duration,
        rate_rps=_rate_rps(arrival),
        figures=tuple(figures),
        places=reports,
        interruptions=sum(r.interruptions for r in requests),
        energy_j=sum(report.energy_j for report in reports),
        output_tokens_per_s=sum(r.steps + r.produced + 1 for r in requests) / duration,
        prefix_hits=_prefix_hits(requests, places),
        measured=_measured(kept, steps),
        verdict=verdict(plan, slo, values, tuple(figures)),
    )


def _statistics(values: Mapping[str, FloatArray]) -> list[tuple[str, float]]:
    """Return the mean and the percentiles of each kind of time, under the names that plans use."""
    return [
        told
        for name, seen in values.items()
        if seen.size
        for told in (
            (f"{name}_s", float(seen.mean())),
            *((f"{name}_p{p:g}_s", float(np.percentile(seen, p))) for p in PERCENTILES),
        )
    ]


def _measured(requests: Sequence[Request], steps: FloatArray) -> tuple[tuple[str, float], ...]:
    """Return what a log says of its requests, where it says it of all of them."""
    first = np.array([r.measured_ttft_s for r in requests])
    last = np.array([r.measured_e2e_s for r in requests])
    decoded = steps > 0
    values = {"ttft": first, "tpot": ((last - first)[decoded] / steps[decoded]), "e2e": last}
    return tuple(_statistics({name: v for name, v in values.items() if np.isfinite(v).all()}))


def _rate_rps(arrival_s: FloatArray) -> float | None:
    span = float(arrival_s.max() - arrival_s.min())
    return (len(arrival_s) - 1) / span if span > 0.0 else None


def _place_report(place: Place, duration_s: float) -> PlaceReport:
    tally = place.tally
    capacity = max(place.cache_tokens, 1e-9)
    return PlaceReport(
        name=f"{place.pool}/{place.replica}",
        busy_share=min(1.0, tally.busy_s / duration_s),
        cache_share=tally.held_token_s / duration_s / capacity,
        cache_peak_share=tally.held_peak / capacity,
        energy_j=_energy_j(place, duration_s),
        interruptions=tally.interruptions,
    )


def _energy_j(place: Place, duration_s: float) -> float:
    """Return joules of a replica: steps with prompts draw as saturated arithmetic, others as memory."""
    busy = min(duration_s, place.tally.busy_s)
    prompt = min(busy, place.tally.prompt_s)
    spans = ((1.0, 0.0, prompt), (0.0, 1.0, busy - prompt), (0.0, 0.0, duration_s - busy))
    total = 0.0
    for compute, memory, time_s in spans:
        total += float(energy_j(device_power_w(place.device, compute, memory), time_s))
    return total * place.num_devices


def _prefix_hits(requests: Sequence[Request], places: Sequence[Place]) -> tuple[tuple[str, float], ...]:
    """Return the share of all prompt tokens that each tier had."""
    caches = [cache for place in places for cache in place.caches]
    if not caches:
        return ()
    prompts = sum(r.context - r.produced for r in requests)
    found: dict[str, float] = {"device": 0.0}
    for cache in caches:
        found["device"] += cache.hit_blocks * cache.block_tokens / prompts
        for store in cache.stores:
            tokens = store.hit_blocks * cache.block_tokens
            found[store.tier.name] = found.get(store.tier.name, 0.0) + tokens / prompts
    return tuple(found.items())
