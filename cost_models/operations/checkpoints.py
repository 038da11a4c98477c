"""Checkpoints: how often, in which tier, and what part of the time a run makes progress.

Model: failures come as a Poisson process. A segment of `interval_s` useful work ends with a checkpoint that
blocks for `blocking_s`; its copy is durable `durable_after_s` after that, while work goes on. A failure
throws the run back to the last durable checkpoint and costs a recovery (detection, restart, load), during
which failures may strike again and start it anew.

Two tiers: a quick one that survives part of the failures after every segment, and a safe one after
every `num_segments` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import exp, expm1, inf, log1p, sqrt

_BISECTIONS = 200
_GOLDEN = (sqrt(5.0) - 1.0) / 2.0
_MOST_EXPONENT = 500.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointTier:
    """A place for checkpoints.

    Parameters
    ----------
    name
        What people call it.
    blocking_s
        Time that training stands still for one checkpoint.
    durable_after_s
        Time from then on until the copy can be used; at most one copy is written at a time.
    load_s
        Time to load it after a failure.
    survives
        Share of failures after which it is still there, 0 to 1.
    """

    name: str
    blocking_s: float
    durable_after_s: float = 0.0
    load_s: float = 0.0
    survives: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointPlan:
    """When checkpoints go where: to `quick` after every `interval_s`, to `safe` every `num_segments` of them.

    With one tier `quick` is None and `num_segments` 1. `efficiency` is useful time over wall time.
    """

    interval_s: float
    safe: CheckpointTier
    quick: CheckpointTier | None
    num_segments: int
    efficiency: float


def young_interval_s(blocking_s: float, mtbf_s: float) -> float:
    """Return sqrt(2 C M). Source: Young, CACM 17 (1974)."""
    return sqrt(2.0 * blocking_s * mtbf_s)


def daly_interval_s(blocking_s: float, mtbf_s: float) -> float:
    """Return Daly's estimate, sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + (C / 2M) / 9) - C, or M where C >= 2 M.

    Source: Daly, Future Generation Computer Systems 22 (2006), equation 37.
    """
    part = blocking_s / (2.0 * mtbf_s)
    if part >= 1.0:
        return mtbf_s
    return young_interval_s(blocking_s, mtbf_s) * (1.0 + sqrt(part) / 3.0 + part / 9.0) - blocking_s


def best_interval_s(blocking_s: float, mtbf_s: float) -> float:
    """Return the interval of useful work that minimises the expected time of a run, seconds.

    With x = interval / M it solves ln(1 - x) + x + C / M = 0, which is 1 + W(-exp(-1 - C / M)) with the
    Lambert function: the root of the derivative of (exp((interval + C) / M) - 1) / interval.

    Source: Daly (2006), section 3, solved here without expansion.
    """
    cost = blocking_s / mtbf_s
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        if middle < 1.0 and log1p(-middle) + middle + cost > 0.0:
            low = middle
        else:
            high = middle
    return high * mtbf_s


def recovery_time_s(recovery_s: float, mtbf_s: float) -> float:
    """Return the expected time until a recovery of `recovery_s` got through: M (exp(R / M) - 1), seconds."""
    return mtbf_s * _expm1(recovery_s / mtbf_s)


def efficiency(tier: CheckpointTier, interval_s: float, mtbf_s: float, restart_s: float) -> float:
    """Return useful time over wall time with one tier: the exact value of the model.

    interval / (M exp((R + P) / M) (exp((interval + C) / M) - 1)) with recovery R = `restart_s` + load,
    blocking C and P = `durable_after_s`: a failure within P after a checkpoint costs the segment before
    it too.
    Zero where a copy would take longer to become durable than the next one waits for.

    Source: Daly (2006), equation 20; the factor for P was derived here, as the renewal reward of a chain
    with the states "last checkpoint durable" and "not yet".
    """
    cycle = interval_s + tier.blocking_s
    if tier.durable_after_s > cycle * (1 + 1e-12) or interval_s <= 0:
        return 0.0
    waste = _exp((restart_s + tier.load_s + tier.durable_after_s) / mtbf_s) * _expm1(cycle / mtbf_s)
    return interval_s / (mtbf_s * waste)


def two_tier_efficiency(plan: CheckpointPlan, mtbf_s: float, restart_s: float) -> float:
    """Return useful time over wall time of a plan with two tiers (its `efficiency` is not read).

    The expected time to the end of a pattern from the start of segment j is
    V_j = E[min(X, c)] + s V_{j+1} + p1 (R1 + V_j) + p2 (R2 + V_0), where s, p1, p2 are the chances that
    segment j passes, meets a failure that the quick tier survives, or another; solved for V_0. Exact where
    copies are durable at once; otherwise times exp(rate1 P1 + rate2 P2), which is exact for the safe tier.

    Source: the pattern is that of Moody et al., SC 2010 (SCR); the recurrence was solved here.
    """
    quick, safe, count = plan.quick, plan.safe, plan.num_segments
    if quick is None:
        return efficiency(safe, plan.interval_s, mtbf_s, restart_s)
    cycle = plan.interval_s + quick.blocking_s
    whole = count * cycle + safe.blocking_s
    late = quick.durable_after_s > cycle * (1 + 1e-12) or safe.durable_after_s > whole * (1 + 1e-12)
    if late or plan.interval_s <= 0 or cycle / mtbf_s > _MOST_EXPONENT:
        return 0.0
    back = quick.survives * recovery_time_s(restart_s + quick.load_s, mtbf_s)
    back += (1.0 - quick.survives) * recovery_time_s(restart_s + safe.load_s, mtbf_s)
    first = _segment(cycle, mtbf_s, quick.survives, back)
    last = _segment(cycle + safe.blocking_s, mtbf_s, quick.survives, back)
    # V_0 = sum of b^j (a + d V_0) over all segments but the last, plus b^(k-1) (a' + d' V_0).
    power = first.passes ** (count - 1)
    num_before = count - 1.0 if first.passes == 1.0 else (1.0 - power) / (1.0 - first.passes)
    constant = num_before * first.spent_s + power * last.spent_s
    again = num_before * first.returns + power * last.returns
    if again >= 1.0 or constant == inf:
        return 0.0
    pattern_s = constant / (1.0 - again)
    pending = quick.survives * quick.durable_after_s + (1.0 - quick.survives) * safe.durable_after_s
    return count * plan.interval_s / (pattern_s * _exp(pending / mtbf_s))


def best_plan(tiers: Sequence[CheckpointTier], mtbf_s: float, restart_s: float) -> CheckpointPlan | None:
    """Return the plan with the highest efficiency over all tiers and pairs of tiers, or None.

    A tier that survives only part of the failures is used together with one that survives all.
    None if there is no such tier.
    """
    plans: list[CheckpointPlan] = []
    for tier in tiers:
        if tier.survives >= 1.0:
            plans.append(_best_single(tier, mtbf_s, restart_s))
    for quick, safe in permutations(tiers, 2):
        if safe.survives >= 1.0 and quick.survives > 0.0:
            plans.append(_best_pair(quick, safe, mtbf_s, restart_s))
    return max(plans, key=lambda plan: plan.efficiency, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """Of a segment, per chance that it is not simply tried again: time spent, chance to pass, to go back."""

    spent_s: float
    passes: float
    returns: float


def _segment(cycle_s: float, mtbf_s: float, survives: float, back_s: float) -> _Segment:
    passes = exp(-cycle_s / mtbf_s)
    fails = -expm1(-cycle_s / mtbf_s)
    left = 1.0 - survives * fails
    if left <= 0.0:
        return _Segment(spent_s=inf, passes=0.0, returns=1.0)
    spent = fails * (mtbf_s + back_s)
    return _Segment(
        spent_s=spent / left,
        passes=passes / left,
        returns=(1.0 - survives) * fails / left,
    )


def _best_single(tier: CheckpointTier, mtbf_s: float, restart_s: float) -> CheckpointPlan:
    least = max(0.0, tier.durable_after_s - tier.blocking_s)
    interval = max(best_interval_s(tier.blocking_s, mtbf_s), least, 1e-9 * mtbf_s)
    value = efficiency(tier, interval, mtbf_s, restart_s)
    return CheckpointPlan(interval_s=interval, safe=tier, quick=None, num_segments=1, efficiency=value)


def _best_pair(
    quick: CheckpointTier, safe: CheckpointTier, mtbf_s: float, restart_s: float
) -> CheckpointPlan:
    counts = [*range(1, 65), *(round(64 * 1.25**k) for k in range(1, 40))]
    best = CheckpointPlan(interval_s=mtbf_s, safe=safe, quick=quick, num_segments=1, efficiency=0.0)
    for count in counts:

        def value(interval_s: float, count: int = count) -> float:
            plan = CheckpointPlan(
                interval_s=interval_s, safe=safe, quick=quick, num_segments=count, efficiency=0.0
            )
            return two_tier_efficiency(plan, mtbf_s, restart_s)

        least = max(
            quick.durable_after_s - quick.blocking_s,
            (safe.durable_after_s - safe.blocking_s) / count - quick.blocking_s,
            1e-9 * mtbf_s,
        )
        interval, found = _golden(value, least, max(2.0 * least, 2.0 * mtbf_s))
        if found > best.efficiency * (1 + 1e-12):
            best = CheckpointPlan(
                interval_s=interval, safe=safe, quick=quick, num_segments=count, efficiency=found
            )
    return best


def _golden(value: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """Return where a function with one peak has it, on a logarithmic axis, and its value there."""
    ratio = high / low
    a, b = 0.0, 1.0
    for _ in range(60):
        left, right = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
        if value(low * ratio**left) >= value(low * ratio**right):
            b = right
        else:
            a = left
    at = max((low, low * ratio ** ((a + b) / 2.0)), key=value)
    return at, value(at)


def _exp(x: float) -> float:
    return exp(x) if x < _MOST_EXPONENT else inf


def _expm1(x: float) -> float:
    return expm1(x) if x < _MOST_EXPONENT else inf
