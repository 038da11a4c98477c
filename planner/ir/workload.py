"""Serving workload: how long requests are, how often they come, what they must not exceed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Joint weighted sample of request lengths (tokens).

    `samples` are (input_tokens, output_tokens, weight); weights sum to 1. Fixed lengths are one
    sample; distributions and traces are lowered to a few hundred representative ones.
    """

    samples: tuple[tuple[int, int, float], ...]
    source: str = "fixed"

    @property
    def mean_input(self) -> float:
        """Mean prompt length."""
        return sum(i * w for i, _, w in self.samples)

    @property
    def mean_output(self) -> float:
        """Mean output length."""
        return sum(o * w for _, o, w in self.samples)

    @property
    def max_total(self) -> int:
        """Longest prompt plus output."""
        return max(i + o for i, o, _ in self.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Upper limits on latency at `percentile` (50 to 99.9; 0 means the mean); None is no limit."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    percentile: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Images of a request: how many, and the patches and tokens of each (prompts count these tokens, too)."""

    count: int
    patches: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingWorkload:
    """Requests to one model.

    Exactly one of `rate_rps` (open loop, Poisson unless `burstiness` says otherwise: the squared
    coefficient of variation of inter-arrival times) and `concurrency` (closed loop) is set, or
    neither when the plan shall find the highest rate.
    """

    lengths: Lengths
    slo: Slo
    rate_rps: float | None = None
    concurrency: int | None = None
    burstiness: float = 1.0
    prefix_hit_share: float = 0.0
    images: Images | None = None
