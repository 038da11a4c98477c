"""Time of the attention core: prefill, decode and latent (MLA) attention, each monotone.

Prefill adds compute and memory (the cache write and small kernels do not overlap); decode is the
root of squares of cache streaming, work units per KV head and sequence, and arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cost_models.cost import FloatArray
from cost_models.facts import DeviceFacts
from cost_models.formats import number_format
from cost_models.work import Attention

_BLOCK_ROWS = 128.0


def operation_of(work: Attention) -> str:
    """Return the operation whose curve prices the call."""
    if work.kind == "gqa":
        return f"attention_{work.phase}"
    if work.kind == "mla_expanded":
        return "mla_prefill"
    return "mla_decode" if work.phase == "decode" else "mla_absorbed_prefill"


def attended_pairs(q_len: FloatArray, kv_len: FloatArray, window: FloatArray) -> FloatArray:
    """Return the number of (query, key) pairs of one causal sequence, with a sliding window if any.

    Query i of q sits at position kv - q + i and sees min(position, window) keys (window 0: all).
    Source: arithmetic series.
    """
    full = q_len * (kv_len - (q_len - 1.0) / 2.0)
    first = kv_len - q_len + 1.0
    growing = np.clip(window - first, 0.0, q_len)
    limited = growing * (first + (growing - 1.0) / 2.0) + (q_len - growing) * window
    return np.where((window > 0) & (window < kv_len), limited, full)


def visible_keys(kv_len: FloatArray, window: FloatArray) -> FloatArray:
    """Return the keys that the last query sees."""
    return np.where(window > 0, np.minimum(kv_len, window), kv_len)


def kv_row_bytes(work: Attention) -> FloatArray:
    """Return the bytes of one token's cache on this device, one layer."""
    elem = number_format(work.kv_fmt).weight_bytes
    width = np.asarray(work.head_dim, dtype=np.float64)
    if work.kind == "mla_absorbed":
        return width * elem
    return np.asarray(work.num_kv_heads, dtype=np.float64) * (width + np.asarray(work.v_head_dim)) * elem


def prefill_time_s(work: Attention, constants: Mapping[str, float], facts: DeviceFacts) -> FloatArray:
    """Return seconds of a prefill call.

    t = launch + F / (peak eff) + tail F_longest S / (peak eff) + blocks block_s / S
    + bytes / (bandwidth memory_eff) with F = 2 b h (d + dv + d0) (pairs + q s0 / 2), where d0 stands for the
    exponentials of a pair, F_longest the 128-row block that sees most keys, blocks = b h ceil(q / 128), on
    S multiprocessors.

    Source: the saturating form of public prefill tables, with its wave factor replaced by the bound of
    list scheduling (total / S + longest), which is monotone.
    """
    b, q, kv, h, d, dv, window = _arrays(work)
    peak = facts.peak(number_format(work.q_fmt)) * constants["eff"]
    pairs = attended_pairs(q, kv, window) + q * constants["extra_tokens"] / 2.0
    width = d + dv + constants["softmax_width"]
    flops = 2.0 * b * h * width * pairs
    longest = 2.0 * width * np.minimum(q, _BLOCK_ROWS) * visible_keys(kv, window)
    compute_s = (flops + constants["tail"] * longest * facts.num_sms) / peak
    compute_s = compute_s + b * h * np.ceil(q / _BLOCK_ROWS) * constants["block_s"] / facts.num_sms
    elem_bytes = number_format(work.q_fmt).activation_bytes
    seen = np.where(window > 0, np.minimum(kv, window + q), kv)
    num_bytes = b * q * h * (d * elem_bytes + 2.0 * dv) + b * (seen + q) * kv_row_bytes(work)
    memory_s = num_bytes / (facts.memory_bandwidth_bytes_per_s * constants["memory_eff"])
    return np.where(b * q * h > 0, constants["launch_s"] + compute_s + memory_s, 0.0)


def decode_time_s(
    work: Attention, constants: Mapping[str, float], facts: DeviceFacts, *, replay: bool = False
) -> FloatArray:
    """Return seconds of a decode call.

    t = launch + sqrt(Tm^2 + Tu^2 + Tc^2) + ramp with Tm = cache bytes / (bandwidth memory_eff),
    Tu = b kv_heads / S unit_s, Tc = 2 b h q kv (d + dv) / (peak eff) and
    ramp = ramp_bytes / bandwidth (1 - exp(-bytes / ramp_bytes)).
    `replay` grants the L2 hits of a benchmark that replays one cache; serving never has them.

    Source: form E of public decode tables with an arithmetic term for latent attention.
    """
    b, q, kv, h, d, dv, window = _arrays(work)
    bandwidth = facts.memory_bandwidth_bytes_per_s
    keys = visible_keys(kv, window)
    num_bytes = b * keys * kv_row_bytes(work)
    memory_s = num_bytes / (bandwidth * constants["memory_eff"])
    ramp_bytes = max(constants["ramp_bytes"], 1.0)
    ramp_s = ramp_bytes / bandwidth * -np.expm1(-num_bytes / ramp_bytes)
    if replay:
        hot = 1.0 / (1.0 + (num_bytes / max(facts.l2_bytes * constants.get("hot_share", 1.0), 1.0)) ** 6)
        memory_s = memory_s / (1.0 + constants["hot_gain"] * hot)
        ramp_s = ramp_s * (1.0 - hot)
    units = np.asarray(h / 64.0 if work.kind == "mla_absorbed" else work.num_kv_heads, dtype=np.float64)
    unit_s = b * units / facts.num_sms * constants["unit_s"]
    peak = facts.peak(number_format(work.q_fmt)) * constants["eff"]
    compute_s = 2.0 * b * h * q * keys * (d + dv) / peak
    total = constants["launch_s"] + np.sqrt(memory_s**2 + unit_s**2 + compute_s**2) + ramp_s
    return np.where(b * h > 0, total, 0.0)


def _arrays(work: Attention) -> tuple[FloatArray, ...]:
    fields = (
        work.batch,
        work.q_len,
        work.kv_len,
        work.num_heads,
        work.head_dim,
        work.v_head_dim,
        work.window,
    )
    return tuple(np.asarray(x, dtype=np.float64) for x in fields)
