"""How far predictions of served models are off beyond what their kernels explain.

Kernels' own spread comes with their curves. What remains is the model's: schedules, engines' versions
and routing that no table shows. Figures are the 90 % points of the absolute log errors of measured runs
over 1.645, less the kernels' share: dense models on nvidia-aic-gap-analysis and inferencex-via-aic (667
runs), models with experts on the same (1220 runs); cost_models/ACCURACY.md states the coverage by source.
"""

from __future__ import annotations

from math import exp, hypot, log1p, sqrt
from statistics import NormalDist

STEP_SIGMA = 0.15
"""Relative error of a step of a dense model beyond its kernels."""
SPARSE_STEP_SIGMA = 0.25
"""The same for a model with experts: routing decides which of them are read."""
WAITING_SIGMA = 0.34
"""Further error of a time to first token: arrivals, front ends, launches."""
SPARSE_WAITING_SIGMA = 0.50
"""The same for a model with experts."""
FRONT_END_SIGMA = 0.90
"""Further error of a time to first token where one replica streams more than `FRONT_END_TOKENS_PER_S`."""
FRONT_END_TOKENS_PER_S = 5000.0
"""Rate from which front ends may decide, which nothing models: small models on nvidia-aic-gap-analysis reach
36 requests and 9,200 tokens per second and no more, whatever the devices (16 ms per request and 75 us per
token); other published runs of one replica stream more than 20,000."""
HANDOVER_SIGMA = 1.20
"""Further error of a time to first token behind a prefill pool: places of the decode pool and how a router
deals them out decide it, and nothing says them of measured runs (191 disaggregated runs of InferenceX)."""
OFFLINE_SIGMA = 0.05
"""Further error of a published highest throughput of a dense model: batches, versions (456 runs)."""
SPARSE_OFFLINE_SIGMA = 0.20
"""The same for a model with experts: 247 runs, part of which do not say how attention was split. Plans state
that, so this belongs to what is read from such runs, not to plans."""


def step_sigma(kernel_sigma: float, *, sparse: bool) -> float:
    """Return the relative standard error of a step: kernels and model together."""
    return hypot(kernel_sigma, SPARSE_STEP_SIGMA if sparse else STEP_SIGMA)


def kernel_sigma(step_sigma: float, *, sparse: bool) -> float:
    """Return what of the relative standard error of a step its kernels explain (`step_sigma` undone)."""
    model = SPARSE_STEP_SIGMA if sparse else STEP_SIGMA
    return sqrt(max(0.0, step_sigma * step_sigma - model * model))


def first_token_sigma(sigma: float, *, sparse: bool) -> float:
    """Return the relative standard error of a time to first token, given that of a step."""
    return hypot(sigma, SPARSE_WAITING_SIGMA if sparse else WAITING_SIGMA)


def streaming_sigma(first_token_sigma: float, tokens_per_s: float) -> float:
    """Return the relative standard error of a time to first token of a replica that streams so much."""
    busy = tokens_per_s > FRONT_END_TOKENS_PER_S
    return hypot(first_token_sigma, FRONT_END_SIGMA) if busy else first_token_sigma


def handover_sigma(first_token_sigma: float) -> float:
    """Return the relative standard error of a time to first token behind a prefill pool."""
    return hypot(first_token_sigma, HANDOVER_SIGMA)


def offline_sigma(sigma: float, *, sparse: bool) -> float:
    """Return the relative standard error of a published highest throughput, given that of a step."""
    return hypot(sigma, SPARSE_OFFLINE_SIGMA if sparse else OFFLINE_SIGMA)


def interval_factor(sigma: float, level: float = 0.9) -> float:
    """Return the factor between a prediction and either end of its central interval (log-normal)."""
    return exp(NormalDist().inv_cdf(0.5 + level / 2.0) * sqrt(log1p(sigma * sigma)))
