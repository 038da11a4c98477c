"""Length distributions, and their reduction to a small weighted sample.

A distribution is a list of weighted points in rising order. To reduce it, the probability axis
is cut at fixed quantiles, finer towards the tail, and each piece becomes one sample at its
conditional mean: the mean is kept to the half token of rounding, and so is the tail's weight. The
longest request is always a sample of its own. The same input gives the same sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, fsum, log, sqrt
from statistics import NormalDist

from planner.ir.trace import RequestTrace
from planner.ir.workload import Lengths

Points = tuple[tuple[float, float], ...]
"""(tokens, weight) in rising order of tokens; weights sum to 1."""

_INPUT_CUTS = (0.2, 0.4, 0.6, 0.8, 0.9, 0.97)
_OUTPUT_CUTS = (0.2, 0.4, 0.6, 0.8, 0.9, 0.97)
_NUM_STRATA = 1000
_NORMAL = NormalDist()


def fixed(tokens: float) -> Points:
    """Return the distribution that is always `tokens`."""
    return ((tokens, 1.0),)


def uniform(low: int, high: int) -> Points:
    """Return whole numbers from `low` to `high`, all equally likely (in at most 1000 strata)."""
    num_values = high - low + 1
    num_strata = min(num_values, _NUM_STRATA)
    edges = [low + num_values * index // num_strata for index in range(num_strata + 1)]
    strata = itertools.pairwise(edges)
    inner = [((a + b - 1) / 2, (b - a) / num_values) for a, b in strata]
    return _with_top(inner, high, 1.0 / num_values)


def lognormal(mu: float, sigma: float, *, longest: int | None = None) -> Points:
    """Return exp(N(mu, sigma^2)) in 1000 strata at their conditional means, cut off at `longest`.

    The mean of a stratum between quantiles p and q is E[X] (F(zq - sigma) - F(zp - sigma)) / (q - p) with F
    the normal distribution function (partial expectation of the log-normal).
    """
    if sigma == 0.0:
        return fixed(min(exp(mu), longest or exp(mu)))
    mean = exp(mu + sigma * sigma / 2)
    quantiles = [_NORMAL.inv_cdf(index / _NUM_STRATA) for index in range(1, _NUM_STRATA)]
    shifted = [0.0, *(_NORMAL.cdf(z - sigma) for z in quantiles), 1.0]
    values = [mean * (b - a) * _NUM_STRATA for a, b in itertools.pairwise(shifted)]
    cut = [min(value, longest) if longest is not None else value for value in values]
    return merged((value, 1.0 / _NUM_STRATA) for value in cut)


def lognormal_from(statistics: dict[str, float], *, longest: int | None = None) -> Points:
    """Return the log-normal with two given statistics out of mean, median, p90, p99, sigma.

    Raises
    ------
    ValueError
        If no log-normal has them.
    """
    known = dict(statistics)
    if len(known) != 2:
        raise ValueError("give exactly two of mean, median, p90, p99, sigma")
    return lognormal(*_mu_sigma(known), longest=longest)


def histogram(entries: Iterable[tuple[float, float]]) -> Points:
    """Return the distribution with these (tokens, weight); weights are scaled to sum to 1.

    Raises
    ------
    ValueError
        If no weight is positive.
    """
    listed = [(tokens, weight) for tokens, weight in entries if weight > 0]
    total = fsum(weight for _, weight in listed)
    if total <= 0:
        raise ValueError("at least one weight must be positive")
    return merged((tokens, weight / total) for tokens, weight in listed)


def mixture(components: Sequence[tuple[float, Points]]) -> Points:
    """Return the mixture of (weight, distribution) components; weights are scaled to sum to 1."""
    return histogram((tokens, weight * share) for weight, points in components for tokens, share in points)


def merged(points: Iterable[tuple[float, float]]) -> Points:
    """Return points in rising order with equal ones joined."""
    weights: dict[float, list[float]] = {}
    for tokens, weight in points:
        weights.setdefault(tokens, []).append(weight)
    return tuple((tokens, fsum(weights[tokens])) for tokens in sorted(weights))


def joint(components: Sequence[tuple[float, Points, Points]], source: str) -> Lengths:
    """Return the sample of a mixture of (weight, input, output) with independent input and output.

    One component gives at most 56 samples; several share that number.
    """
    total = fsum(weight for weight, _, _ in components)
    samples: dict[tuple[int, int], list[float]] = {}
    for weight, inputs, outputs in components:
        few = len(components) > 1
        for num_in, share_in in _reduced(inputs, _thinned(_INPUT_CUTS, few=few)):
            for num_out, share_out in _reduced(outputs, _thinned(_OUTPUT_CUTS, few=few)):
                samples.setdefault((num_in, num_out), []).append(weight / total * share_in * share_out)
    return _lengths(samples, source)


def from_trace(trace: RequestTrace) -> Lengths:
    """Return the sample of a trace, input and output kept together.

    Requests are sorted by input and cut at quantiles; each piece is sorted by output and cut
    again. The request with the longest total is a sample of its own.
    """
    pairs = sorted(zip(trace.input_tokens, trace.output_tokens, strict=True))
    longest = max(range(len(pairs)), key=lambda index: (sum(pairs[index]), pairs[index]))
    samples: dict[tuple[int, int], list[float]] = {pairs[longest]: [1.0 / len(pairs)]}
    del pairs[longest]
    for piece in _pieces(pairs, _INPUT_CUTS):
        for part in _pieces(sorted(piece, key=lambda pair: (pair[1], pair[0])), _OUTPUT_CUTS):
            mean_in, mean_out = (fsum(column) / len(part) for column in zip(*part, strict=True))
            weight = len(part) / trace.num_requests
            samples.setdefault((_rounded(mean_in), _rounded(mean_out)), []).append(weight)
    return _lengths(samples, f"trace {trace.source}")


@dataclass(slots=True, kw_only=True)
class _Piece:
    """A piece of the probability axis while it fills."""

    weight: float = 0.0
    moment: float = 0.0


def _reduced(points: Points, cuts: tuple[float, ...]) -> list[tuple[int, float]]:
    """Return the (tokens, weight) samples of a distribution cut at `cuts` and before its top point."""
    if len(points) <= len(cuts) + 2:
        return [(_rounded(tokens), weight) for tokens, weight in points]
    top_tokens, top_weight = points[-1]
    edges = [*(cut for cut in cuts if cut < 1.0 - top_weight), 1.0]
    pieces = [_Piece() for _ in edges]
    index, reached = 0, 0.0
    for tokens, weight in points[:-1]:
        left = weight
        while left > 0.0:
            room = edges[index] - reached
            part = left if index == len(edges) - 1 else min(left, room)
            pieces[index].weight += part
            pieces[index].moment += part * tokens
            left -= part
            reached += part
            if left > 0.0 or (index < len(edges) - 1 and reached >= edges[index]):
                index += 1
    filled = [(piece.moment / piece.weight, piece.weight) for piece in pieces if piece.weight > 0.0]
    return [(_rounded(tokens), weight) for tokens, weight in [*filled, (top_tokens, top_weight)]]


def _pieces(rows: Sequence[tuple[int, int]], cuts: tuple[float, ...]) -> list[Sequence[tuple[int, int]]]:
    edges = [0, *(round(cut * len(rows)) for cut in cuts), len(rows)]
    return [rows[a:b] for a, b in itertools.pairwise(edges) if b > a]


def _thinned(cuts: tuple[float, ...], *, few: bool) -> tuple[float, ...]:
    return (0.5, 0.9) if few else cuts


def _lengths(samples: dict[tuple[int, int], list[float]], source: str) -> Lengths:
    total = fsum(weight for weights in samples.values() for weight in weights)
    listed = tuple((*pair, fsum(weights) / total) for pair, weights in sorted(samples.items()))
    return Lengths(samples=listed, source=source)


def _rounded(tokens: float) -> int:
    """Return whole tokens, at least one."""
    return max(1, round(tokens))


def _with_top(points: list[tuple[float, float]], top: int, weight: float) -> Points:
    """Return points with the mass `weight` of the value `top` split off the last one."""
    tokens, last = points[-1]
    if last <= weight * (1 + 1e-12):
        return merged(points)
    rest = (tokens * last - top * weight) / (last - weight)
    return merged([*points[:-1], (rest, last - weight), (top, weight)])


def _mu_sigma(known: dict[str, float]) -> tuple[float, float]:
    """Return mu and sigma of the log-normal that has two given statistics."""
    scores = {"median": 0.0, "p90": _NORMAL.inv_cdf(0.9), "p99": _NORMAL.inv_cdf(0.99)}
    quantiles = [(scores[name], log(known[name])) for name in scores if name in known]
    if "sigma" in known:
        sigma = known["sigma"]
    elif len(quantiles) == 2:
        (z_low, low), (z_high, high) = quantiles
        sigma = (high - low) / (z_high - z_low)
    else:
        # ln(quantile) = mu + z sigma and ln(mean) = mu + sigma^2 / 2: take the smaller root.
        z, value = quantiles[0]
        square = z * z - 2 * (value - log(known["mean"]))
        if square < 0:
            most = exp(z * z / 2.0)
            raise ValueError(
                f"no log-normal has this mean and this quantile, at most {most:.3g} times the mean"
            )
        sigma = z - sqrt(square) if z > 0 else sqrt(square)
    if sigma < 0:
        raise ValueError("a higher quantile must not be below a lower one, nor the mean below the median")
    if quantiles:
        z, value = quantiles[0]
        return value - z * sigma, sigma
    return log(known["mean"]) - sigma * sigma / 2, sigma
