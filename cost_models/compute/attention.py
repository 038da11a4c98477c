"""Time of the attention core: prefill, decode and latent (MLA) attention, each monotone.

Prefill nearly adds compute and memory (the cache write and small kernels hardly overlap); decode is the
root of squares of cache streaming, work units per KV head and sequence, and arithmetic. Constants that a
curve lacks leave their term out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cost_models.cost import FloatArray
from cost_models.facts import DeviceFacts
from cost_models.formats import number_format
from cost_models.work import Attention

_BLOCK_ROWS = 128.0
_LATENT_HEADS = 64.0
_USUAL_WIDTH = 128.0


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

    t = launch + (Tc^p + Tm^p)^(1/p), Tm = bytes / (bandwidth memory_eff) and
    Tc = F / (peak eff) + tail F_longest S / (peak eff) + blocks block_s / S on S multiprocessors, with
    F = 2 b h w (pairs + q s0 / 2), w = (d + dv) (d / 128)^(x - 1) + d0, where d0 stands for the exponentials
    of a pair and x for tiles that suit one head width better than another, F_longest the 128-row block that
    sees most keys and blocks = b h ceil(q / 128).
    Windows reach `window_pad` keys further, since kernels mask whole tiles.

    Source: the saturating form of public prefill tables, with its wave factor replaced by the bound of
    list scheduling (total / S + longest), which is monotone.
    """
    b, q, kv, h, d, dv, window = _arrays(work)
    peak = facts.rate(number_format(work.q_fmt)) * constants["eff"]
    reach = np.where(window > 0, window + constants.get("window_pad", 0.0), 0.0)
    pairs = attended_pairs(q, kv, reach) + q * constants["extra_tokens"] / 2.0
    width = (d + dv) * (d / _USUAL_WIDTH) ** (constants.get("width_power", 1.0) - 1.0)
    width = width + constants["softmax_width"]
    flops = 2.0 * b * h * width * pairs
    longest = 2.0 * width * np.minimum(q, _BLOCK_ROWS) * visible_keys(kv, reach)
    compute_s = (flops + constants["tail"] * longest * facts.num_sms) / peak
    compute_s = compute_s + b * h * np.ceil(q / _BLOCK_ROWS) * constants["block_s"] / facts.num_sms
    elem_bytes = number_format(work.q_fmt).activation_bytes
    seen = np.where(window > 0, np.minimum(kv, window + q), kv)
    num_bytes = b * q * h * (d * elem_bytes + 2.0 * dv) + b * (seen + q) * kv_row_bytes(work)
    memory_s = num_bytes / (facts.memory_bandwidth_bytes_per_s * constants["memory_eff"])
    sharpness = constants.get("sharpness", 1.0)
    body_s = (compute_s**sharpness + memory_s**sharpness) ** (1.0 / sharpness)
    return np.where(b * q * h > 0, constants["launch_s"] + body_s, 0.0)


def decode_time_s(
    work: Attention, constants: Mapping[str, float], facts: DeviceFacts, *, replay: bool = False
) -> FloatArray:
    """Return seconds of a decode call.

    t = launch + sqrt(Tm^2 + Tu^2 + Tc^2) + ramp + combine with
    Tm = reads cache bytes / (bandwidth memory_eff),
    Tu = x' (unit_s + keys key_s d / 128), x = b (reads units + row_units) / S and, by `wave_share`, ceil(x),
    Tc = 2 b rows q keys (d + dv) / (peak eff), ramp = ramp_bytes / bandwidth (1 - exp(-bytes / ramp_bytes)),
    and combine = combine_s keys / (keys + combine_keys), the pass over partial results of split caches.
    A unit is a KV head of a sequence; latent attention has one unit per 64 heads, padded by `pad_heads`.
    reads = 1 + (g / group_limit)^4, at most g, for g query heads per KV head: kernels hold so many, and
    beyond read the cache again. Where g = 1 units cost `single_share`.
    `replay` grants the L2 hits of a benchmark that replays one cache; serving never has them.

    Source: form E of public decode tables with terms for what split-KV kernels do; constants as the
    curve's source says.
    """
    b, q, kv, h, d, dv, window = _arrays(work)
    bandwidth = facts.memory_bandwidth_bytes_per_s
    keys = visible_keys(kv, window)
    units, rows, reads = _units(work, h, constants)
    num_bytes = b * keys * kv_row_bytes(work)
    memory_s = reads * num_bytes / (bandwidth * constants["memory_eff"])
    ramp_bytes = max(constants["ramp_bytes"], 1.0)
    ramp_s = ramp_bytes / bandwidth * -np.expm1(-num_bytes / ramp_bytes)
    if replay:
        hot = 1.0 / (1.0 + (num_bytes / max(facts.l2_bytes * constants.get("hot_share", 1.0), 1.0)) ** 6)
        memory_s = memory_s / (1.0 + constants["hot_gain"] * hot)
        ramp_s = ramp_s * (1.0 - hot)
    waves = b * (units + constants.get("row_units", 0.0)) / facts.num_sms
    share = constants.get("wave_share", 0.0)
    waves = (1.0 - share) * waves + share * np.ceil(waves)
    unit_s = waves * (constants["unit_s"] + keys * constants.get("key_s", 0.0) * d / _USUAL_WIDTH)
    peak = facts.rate(number_format(work.q_fmt)) * constants["eff"]
    compute_s = 2.0 * b * rows * q * keys * (d + dv) / peak
    total = constants["launch_s"] + np.sqrt(memory_s**2 + unit_s**2 + compute_s**2) + ramp_s
    total = total + constants.get("combine_s", 0.0) * keys / (keys + constants.get("combine_keys", 256.0))
    return np.where(b * h > 0, total, 0.0)


def _units(
    work: Attention, heads: FloatArray, constants: Mapping[str, float]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return work units per sequence, rows that are multiplied, and how often the cache is read."""
    once = np.ones_like(heads)
    if work.kind == "mla_absorbed":
        padded = heads + constants.get("pad_heads", 0.0)
        return padded / _LATENT_HEADS, padded, once
    kv_heads = np.asarray(work.num_kv_heads, dtype=np.float64)
    group = np.maximum(heads / np.maximum(kv_heads, 1.0), 1.0)
    limit = constants.get("group_limit", 0.0)
    reads = np.minimum(group, 1.0 + (group / limit) ** 4) if limit > 0 else once
    units = kv_heads * reads * np.where(group > 1.0, 1.0, constants.get("single_share", 1.0))
    return units, heads, reads


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
