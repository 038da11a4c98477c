"""Requests as the serving model sees them: a joint weighted sample of lengths and its moments."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cost_models.cost import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Joint weighted sample of requests; all arrays have one entry per sample, weights sum to 1.

    Parameters
    ----------
    input_tokens
        Prompt length, tokens, cached prefix included.
    new_tokens
        Prompt tokens that must be computed (at least one).
    output_tokens
        Tokens produced; the first comes out of the prefill, the rest out of decode steps.
    weights
        Share of the requests.
    """

    input_tokens: FloatArray
    new_tokens: FloatArray
    output_tokens: FloatArray
    weights: FloatArray
    steps: FloatArray = field(init=False)
    _moments: dict[float, tuple[float, float]] = field(
        init=False, default_factory=dict[float, tuple[float, float]]
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", np.maximum(self.output_tokens - 1.0, 0.0))

    def mean(self, values: FloatArray) -> float:
        """Return the weighted mean of a value per sample."""
        return float(np.dot(self.weights, values))

    @property
    def mean_steps(self) -> float:
        """Mean decode steps of a request."""
        return self.mean(self.steps)

    @property
    def steps_scv(self) -> float:
        """Squared coefficient of variation of the decode steps of a request (0 if there are none)."""
        mean = self.mean_steps
        return max(0.0, self.mean(self.steps**2) / mean**2 - 1.0) if mean > 0.0 else 0.0

    @property
    def mean_new_tokens(self) -> float:
        """Mean prompt tokens to compute."""
        return self.mean(self.new_tokens)

    @property
    def mean_output_tokens(self) -> float:
        """Mean tokens produced."""
        return self.mean(self.output_tokens)

    def context_moments(self, window: float = 0.0) -> tuple[float, float]:
        """Return first and second moment of the cached tokens of a running sequence.

        A sequence of s decode steps is seen s times as often as one of a single step, each time at
        another length, so the mean is biased to long outputs: E = sum w s (i + (s + 1) / 2) / sum w s
        without a window, and the integral of min(window, i + x) over x in [0, s] with one.

        Source: renewal theory (length-biased sampling); own closed form for the window.
        """
        if window not in self._moments:
            self._moments[window] = self._context_moments(window)
        return self._moments[window]

    def _context_moments(self, window: float) -> tuple[float, float]:
        weights = self.weights * self.steps
        total = float(weights.sum())
        if total <= 0.0:
            seen = np.minimum(self.input_tokens, window) if window else self.input_tokens
            return self.mean(seen), self.mean(seen**2)
        lo = self.input_tokens + 0.5
        hi = lo + self.steps
        first, second = _clipped_moments(lo, hi, window if window else np.inf)
        return float(np.dot(weights, first)) / total, float(np.dot(weights, second)) / total


def _clipped_moments(lo: FloatArray, hi: FloatArray, cap: float) -> tuple[FloatArray, FloatArray]:
    """Return the means of min(x, cap) and its square for x uniform in [lo, hi]."""
    span = np.maximum(hi - lo, 1e-12)
    below_lo, below_hi = np.minimum(lo, cap), np.minimum(hi, cap)
    above = np.where(np.isinf(cap), 0.0, span - (below_hi - below_lo))
    limit = 0.0 if np.isinf(cap) else cap
    first = ((below_hi**2 - below_lo**2) / 2.0 + above * limit) / span
    second = ((below_hi**3 - below_lo**3) / 3.0 + above * limit**2) / span
    return first, second
