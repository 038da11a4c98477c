"""Alpha-beta-mid terms of one collective on one level, from fitted or generic constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2

import numpy as np

from cost_models.cost import FloatArray
from cost_models.work import LinkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelTerms:
    """Latency and wire time of one level, seconds.

    `launch_s` is what the call costs before anything moves; a call over several levels pays it once, so it
    is apart where the form knows it and part of `latency_s` where it was fitted.
    """

    latency_s: FloatArray
    wire_s: FloatArray
    launch_s: float = 0.0


def wire_factor(op: str, ranks: float) -> float:
    """Return bytes on the wire per device over the full per-rank buffer.

    Source: nccl-tests PERFORMANCE.md (ring lower bounds).
    """
    if op == "all_reduce":
        return 2.0 * (ranks - 1.0) / ranks
    if op in ("all_gather", "reduce_scatter", "all_to_all"):
        return (ranks - 1.0) / ranks
    return 1.0


def fitted_terms(
    op: str, num_bytes: FloatArray, ranks: int, link: LinkSpec, constants: Mapping[str, float]
) -> LevelTerms:
    """Return the terms of `op` among `ranks` devices joined by `link`.

    With measured group sizes: latency alpha_s + mid_s min(1, sqrt(bytes / mid_bytes)), wire
    bytes F / (bandwidth eff), each interpolated over log2 ranks. Without: latency software_s + hops
    link latency, hops the smaller of ring and tree, wire at `eff` of the link.

    Source: alpha-beta with a mid-size term; ring and tree step counts of NCCL.
    """
    sizes = sorted(int(key.removeprefix("alpha_s_n")) for key in constants if key.startswith("alpha_s_n"))
    factor = wire_factor(op, ranks)
    if not sizes:
        return _generic(op, num_bytes, ranks, link, constants)
    at = {
        name: _over_ranks(constants, name, sizes, ranks) for name in ("alpha_s", "eff", "mid_s", "mid_bytes")
    }
    if ranks > sizes[-1]:
        at["alpha_s"] += _hops(op, ranks / sizes[-1]) * link.latency_s
    mid_s = at["mid_s"] * np.minimum(1.0, np.sqrt(num_bytes / max(at["mid_bytes"], 1.0)))
    wire_s = num_bytes * factor / (link.bandwidth_bytes_per_s * at["eff"])
    return LevelTerms(latency_s=at["alpha_s"] + mid_s, wire_s=wire_s)


def _generic(
    op: str, num_bytes: FloatArray, ranks: int, link: LinkSpec, constants: Mapping[str, float]
) -> LevelTerms:
    hops = 2.0 if link.in_network_reduction and op == "all_reduce" else _hops(op, ranks)
    latency_s = hops * link.latency_s
    eff = constants["eff"]
    factor = wire_factor(op, ranks)
    if link.in_network_reduction and op == "all_reduce":
        factor = min(factor, 1.0 + 1.0 / ranks)
    ramp_bytes = max(constants.get("ramp_bytes", 0.0), 1.0)
    ramp_s = ramp_bytes / link.bandwidth_bytes_per_s * -np.expm1(-num_bytes / ramp_bytes)
    return LevelTerms(
        latency_s=latency_s + ramp_s,
        wire_s=num_bytes * factor / (link.bandwidth_bytes_per_s * eff),
        launch_s=constants["software_s"],
    )


def _hops(op: str, ranks: float) -> float:
    """Return sequential hops: the smaller of ring and tree; exchanges are posted at once."""
    if op == "all_reduce":
        return min(2.0 * (ranks - 1.0), 2.0 * log2(max(ranks, 2.0)) + 1.0)
    if op in ("all_gather", "reduce_scatter", "broadcast"):
        return min(ranks - 1.0, log2(max(ranks, 2.0)) + 1.0)
    return 1.0


def _over_ranks(constants: Mapping[str, float], name: str, sizes: list[int], ranks: int) -> float:
    xs = [log2(size) for size in sizes]
    ys = [constants[f"{name}_n{size}"] for size in sizes]
    return float(np.interp(log2(ranks), xs, ys))
