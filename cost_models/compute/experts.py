"""Time of one device's routed experts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cost_models.cost import FloatArray
from cost_models.facts import DeviceFacts
from cost_models.formats import NumberFormat
from cost_models.work import ExpertGemm

_TILE = 128.0


def active_experts(
    num_tokens: FloatArray, top_k: FloatArray, num_experts: FloatArray, ep: FloatArray, *, random: bool
) -> FloatArray:
    """Return the experts of one device that get a token at all.

    Balanced routing touches min(E, T k) experts of the group; independent random choices of k out of E
    leave each one untouched with probability (1 - k / E)^T.

    Source: occupancy of independent draws.
    """
    if not random:
        return np.minimum(num_experts / ep, num_tokens * top_k / ep)
    share = np.clip(top_k / num_experts, 0.0, 1.0 - 1e-12)
    return num_experts / ep * -np.expm1(num_tokens * np.log1p(-share))


def expert_time_s(
    work: ExpertGemm,
    constants: Mapping[str, float],
    facts: DeviceFacts,
    fmt: NumberFormat,
    *,
    replay: bool = False,
) -> FloatArray:
    """Return seconds of gate, up and down projections of one device's experts.

    t = launch + (Tc^p + Tm^p)^(1/p) + Ta with Tc = 2 * 128^2 S H ((1 - w) x + w ceil(x)) / (peak eff),
    x = (pairs + active tile / 2) g (I + I0) / (128^2 S) output tiles per multiprocessor,
    Tm = active g H I weight bytes / (bandwidth memory_eff), Ta = pairs (4 H + 6 I) / (bandwidth
    activation_eff); pairs = T k skew / ep, g = 3 matrices when gated, else 2, I = inter / tp. Where every
    rank holds all tokens (`all_tokens_present`), pairs of other ranks are skipped at a price:
    + T k (1 - 1 / ep) 4 H / (bandwidth absent_eff). `replay` grants the L2 hits of a benchmark that runs one
    layer again and again.

    Source: the tile form of public expert-kernel tables with terms for narrow experts, whole waves and
    absent pairs, which those tables show; constants as the curve's source says.
    """
    tokens, hidden, top_k, experts, ep, skew = (
        np.asarray(x, dtype=np.float64)
        for x in (work.num_tokens, work.hidden, work.top_k, work.num_experts, work.ep, work.skew)
    )
    inter = np.asarray(work.inter, dtype=np.float64) / np.asarray(work.tp, dtype=np.float64)
    matrices = 3.0 if work.gated else 2.0
    pairs = tokens * top_k * np.minimum(skew / ep, 1.0)
    active = active_experts(tokens, top_k, experts, ep, random=work.routing == "random")
    bandwidth = facts.memory_bandwidth_bytes_per_s
    padded = pairs + active * constants["tile_rows"] / 2.0
    outputs = padded * matrices * (inter + constants.get("extra_inter", 0.0))
    share, waves = constants.get("wave_share", 0.0), outputs / (_TILE**2 * facts.num_sms)
    waves = (1.0 - share) * waves + share * np.ceil(waves)
    compute_s = 2.0 * _TILE**2 * facts.num_sms * hidden * waves / (facts.rate(fmt) * constants["eff"])
    weight_bytes = active * matrices * hidden * inter * fmt.weight_bytes
    memory_s = weight_bytes / (bandwidth * constants["memory_eff"])
    if replay:
        reach = max(facts.l2_bytes * constants.get("hot_share", 1.0), 1.0)
        hot = 1.0 / (1.0 + (weight_bytes / reach) ** 6)
        memory_s = memory_s / (1.0 + constants.get("hot_gain", 0.0) * hot)
    sharpness = constants["sharpness"]
    body_s = (compute_s**sharpness + memory_s**sharpness) ** (1.0 / sharpness)
    moved_s = pairs * (4.0 * hidden + 6.0 * inter) / (bandwidth * constants["activation_eff"])
    total = constants["launch_s"] + body_s + moved_s
    if work.all_tokens_present:
        absent = tokens * top_k * (1.0 - 1.0 / ep)
        total = total + absent * 4.0 * hidden / (bandwidth * constants["absent_eff"])
    return np.where(tokens > 0, total, 0.0)
