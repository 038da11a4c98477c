"""The requests of a simulation: drawn from the workload of a plan, or replayed from a trace."""

from __future__ import annotations

import numpy as np

from planner.errors import InputError
from planner.ir.serving import ServingProblem
from planner.ir.trace import RequestTrace
from planner.plan.schema import Plan
from planner.simulate.serving_options import SimulationOptions
from planner.simulate.serving_request import Request

_NUM_REQUESTS = 5000
_MAX_REQUESTS = 100_000
_TURNOVERS = 20.0
"""Requests that are drawn over those inside at once: the tenth that warms up must fill the replicas twice."""

Times = np.ndarray[tuple[int], np.dtype[np.float64]]


def make_requests(
    plan: Plan, payload: ServingProblem, options: SimulationOptions, trace: RequestTrace | None
) -> list[Request]:
    """Return the requests in order of arrival.

    A trace with prompt blocks brings its own prefix hits; without them the workload's share of cached
    prompt tokens holds for every request. Equal arrival times of a trace with a coarse clock are kept.

    Raises
    ------
    InputError
        If nothing says how fast requests come.
    """
    workload = payload.workload
    rng = np.random.default_rng(options.seed)
    if trace is not None:
        inputs, outputs = np.array(trace.input_tokens), np.array(trace.output_tokens)
        count = min(len(inputs), options.num_requests or len(inputs))
        inputs, outputs = inputs[:count], outputs[:count]
    else:
        samples = np.array([(i, o) for i, o, _ in workload.lengths.samples])
        weights = np.array([w for _, _, w in workload.lengths.samples])
        count = options.num_requests or _enough(plan, _rate(plan, payload, options))
        picks = rng.choice(len(samples), size=count, p=weights / weights.sum())
        inputs, outputs = samples[picks, 0], samples[picks, 1]
    if trace is not None and trace.arrival_s and options.rate_rps is None:
        arrivals = np.array(trace.arrival_s[:count])
    else:
        arrivals = _arrivals(rng, count, _rate(plan, payload, options), workload.burstiness)
    guesses = outputs * np.exp(np.random.default_rng(options.seed + 2).normal(0, options.guess_sigma, count))
    hit = 0.0 if trace is not None and trace.blocks else workload.prefix_hit_share
    found: list[Request] = []
    for index, (at, tokens, produced) in enumerate(
        zip(arrivals.tolist(), inputs.tolist(), outputs.tolist(), strict=True)
    ):
        new = max(1, round(tokens * (1.0 - hit)))
        request = Request(
            arrival_s=at,
            ready_s=at,
            cached=max(0, tokens - new),
            new=new,
            steps=max(0, produced - 1),
            guess=float(guesses[index]),
            session=-1 - index,
        )
        if trace is not None:
            _identify(request, trace, index)
        found.append(request)
    return found


def _identify(request: Request, trace: RequestTrace, index: int) -> None:
    """Note who sent a request, what its prompt begins with and what was measured, where the trace says so."""
    if trace.blocks:
        whole = request.context // trace.block_tokens
        request.blocks = trace.blocks[index][:whole]
    if trace.session:
        request.session = trace.session[index]
    if trace.tenant:
        request.tenant = trace.tenant[index]
    if trace.priority:
        request.priority = trace.priority[index]
    if trace.ttft_s:
        request.measured_ttft_s = trace.ttft_s[index]
    if trace.e2e_s:
        request.measured_e2e_s = trace.e2e_s[index]


def _rate(plan: Plan, payload: ServingProblem, options: SimulationOptions) -> float:
    served = plan.predicted.get("request_rate_rps")
    rate = options.rate_rps or payload.workload.rate_rps or (served.value if served is not None else None)
    if not rate:
        raise InputError("the plan does not say which rate it serves", hint="Give one with --rate.")
    return rate


def _enough(plan: Plan, rate_rps: float) -> int:
    """Return how many requests show the replicas as full as they get."""
    whole = plan.predicted.get("e2e_s")
    inside = rate_rps * whole.value if whole is not None else 0.0
    return int(min(max(_NUM_REQUESTS, _TURNOVERS * inside), _MAX_REQUESTS))


def _arrivals(rng: np.random.Generator, count: int, rate_rps: float, burstiness: float) -> Times:
    """Return arrival times whose gaps are gamma distributed with this squared variation.

    They are scaled to come at the rate exactly, so that chance does not push a full pool over the edge.
    """
    shape = 1.0 / max(burstiness, 1e-9)
    times = np.cumsum(rng.gamma(shape, size=count))
    return times * (count / rate_rps / times[-1])
