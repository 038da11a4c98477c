"""From a group of measured rows to the work that a cost model prices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import numpy as np

from cost_models.formats import number_format
from cost_models.work import (
    Attention,
    Collective,
    CollectiveOp,
    ExpertGemm,
    Gemm,
    LinkSpec,
    Span,
    TokenExchange,
    Work,
)
from planner.accuracy.kernels import KernelGroup
from planner.accuracy.table import FloatArray

_LATENT = re.compile(r"mla_(absorbed|mha)_(\d+)_(\d+)$")
_POWER_LAW = re.compile(r"power_law_(\d+(?:\.\d+)?)$")
_EVEN = ("", "balanced", "uniform")
COLLECTIVE_OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p", "broadcast")
_OP_NAMES = {op.replace("_", ""): op for op in COLLECTIVE_OPS} | {"sendrecv": "p2p"}
_MAX_RANKS = 1_000_000
_EXCHANGE = re.compile(
    r"deepep_(?P<mode>normal|low_latency)$|trtllm_alltoall_(?:dispatch|combine)_"
    r"NVLink(?P<sided>One|Two)Sided_(?P<fmt>bfloat16|fp8|nvfp4)$"
)
_COMBINE_BITS = 16.0
_MIN_SMS = 20

SKEW_PER_DOUBLING = {1.01: 0.15, 1.2: 0.22}
"""Growth of the busiest rank's load over the mean per doubling of EP under power-law routing, by exponent:
the values with the least error over the skewed rows of public expert-kernel tables (2026-08)."""


class CannotPriceError(ValueError):
    """A group of rows means nothing that a cost model prices; the message is the reason."""


def work_of(group: KernelGroup, links: dict[str, LinkSpec]) -> Work:
    """Return the work that the rows of a group measured.

    `links` holds the device's ``scale_up`` link and, where known, its ``network`` link.

    Raises
    ------
    CannotPriceError
        If a category is unknown; the message says which.
    """
    builders = {"gemm": _gemm, "attention": _attention, "moe": _experts}
    if group.kind == "collective":
        return _collective(group, links)
    if group.kind == "exchange":
        return _exchange(group, links)
    return builders[group.kind](group)


def is_bare_kernel(group: KernelGroup) -> bool:
    """Return whether a quantised GEMM was timed without quantising its activations.

    Rows of serving layers (``aic:``) include it; library benchmarks time the product alone.
    """
    return group.kind == "gemm" and not group.category["source"].startswith("aic:")


def _format(group: KernelGroup, column: str, default: str) -> str:
    text = group.category[column] or default
    try:
        return number_format(text).name
    except ValueError as error:
        raise CannotPriceError(f"{column} {text!r} is no known format") from error


def _gemm(group: KernelGroup) -> Work:
    sizes = group.sizes
    return Gemm(m=sizes["m"], n=sizes["n"], k=sizes["k"], fmt=_format(group, "dtype", "bf16"))


def _attention(group: KernelGroup) -> Work:
    sizes, text = group.sizes, group.category
    if text["phase"].lower() not in ("prefill", "decode"):
        raise CannotPriceError(f"phase {text['phase']!r} is neither prefill nor decode")
    decode = text["phase"].lower() == "decode"
    latent = _LATENT.match(text["kind"])
    if not latent and text["kind"] not in ("", "gqa", "mha", "mqa"):
        raise CannotPriceError(f"kind {text['kind']!r} is no known attention")
    q_fmt = _format(group, "q_dtype", "bf16")
    kind = "gqa" if latent is None else "mla_absorbed" if latent[1] == "absorbed" else "mla_expanded"
    head_dim = float(latent[2]) if latent else sizes["head_dim"]
    q_len = _filled(sizes["q_len"], np.ones_like(sizes["kv_len"]) if decode else sizes["kv_len"])
    kv_len = sizes["kv_len"]
    return Attention(
        phase="decode" if decode else "prefill",
        batch=sizes["batch"],
        q_len=q_len,
        kv_len=kv_len,
        num_heads=sizes["heads"],
        num_kv_heads=_filled(sizes["kv_heads"], sizes["heads"]),
        head_dim=head_dim,
        v_head_dim=float(latent[3]) if latent else sizes["head_dim"],
        window=_filled(sizes["window"], np.zeros_like(kv_len)),
        kv_fmt=_format(group, "kv_dtype", q_fmt),
        q_fmt=q_fmt,
        kind=kind,
    )


def _experts(group: KernelGroup) -> Work:
    sizes = group.sizes
    ones = np.ones_like(sizes["tokens"])
    ep = _filled(sizes["ep"], ones)
    return ExpertGemm(
        num_tokens=sizes["tokens"],
        hidden=sizes["hidden"],
        inter=sizes["inter"],
        top_k=sizes["topk"],
        num_experts=sizes["experts"],
        tp=_filled(sizes["tp"], ones),
        ep=ep,
        skew=np.minimum(_skew(group.category["routing"], ep), ep),
        gated="nongated" not in group.category["kernel"],
        routing="balanced" if group.category["routing"] in _EVEN else "random",
        all_tokens_present=True,
        fmt=_format(group, "dtype", "bf16"),
    )


def _skew(routing: str, ep: FloatArray) -> FloatArray:
    if routing in _EVEN:
        return np.ones_like(ep)
    law = _POWER_LAW.match(routing)
    if law is None:
        raise CannotPriceError(f"routing {routing!r} is no known distribution")
    exponents = sorted(SKEW_PER_DOUBLING)
    per_doubling = np.interp(float(law[1]), exponents, [SKEW_PER_DOUBLING[x] for x in exponents])
    return 1.0 + float(per_doubling) * np.log2(np.maximum(ep, 1.0))


def _collective(group: KernelGroup, links: dict[str, LinkSpec]) -> Work:
    text = group.category
    op_name = _OP_NAMES.get("".join(c for c in text["op"].lower() if c.isalpha() or c.isdigit()))
    if op_name is None:
        raise CannotPriceError(f"op {text['op']!r} is no known collective")
    span = _span(text, links)
    op: CollectiveOp = op_name  # pyright: ignore[reportAssignmentType] - checked above
    return Collective(op=op, num_bytes=group.sizes["message_bytes"], span=span)


def _exchange(group: KernelGroup, links: dict[str, LinkSpec]) -> Work:
    text = group.category
    found = _EXCHANGE.match(text["impl"])
    if found is None or text["half"] not in ("dispatch", "combine"):
        raise CannotPriceError(f"impl {text['impl']!r} is no known half of an exchange")
    if text["sms"] and float(text["sms"]) < _MIN_SMS:
        raise CannotPriceError(
            f"sms below {_MIN_SMS} starve the exchange; engines give it {_MIN_SMS} or more"
        )
    half: Literal["dispatch", "combine"] = "combine" if text["half"] == "combine" else "dispatch"
    if found["sided"]:
        kernel = "nvlink_one_sided" if found["sided"] == "One" else "nvlink_two_sided"
    else:
        kernel = "low_latency" if found["mode"] == "low_latency" else "normal"
    moved = found["fmt"] or "fp8_block"
    bits = number_format(moved).activation_bits if half == "dispatch" else _COMBINE_BITS
    return TokenExchange(
        half=half,
        num_tokens=group.sizes["tokens_per_rank"],
        top_k=group.sizes["topk"],
        row_bytes=group.sizes["hidden"] * bits / 8.0,
        span=_span(text, links),
        kernel=kernel,
    )


def _span(text: Mapping[str, str], links: dict[str, LinkSpec]) -> Span:
    ranks, nodes = _count(text["n_gpus"], "n_gpus"), _count(text["nodes"] or "1", "nodes")
    if ranks < 2 or ranks % nodes:
        raise CannotPriceError(f"{ranks} devices on {nodes} nodes is no group")
    scale_up = links.get("scale_up")
    if scale_up is None:
        raise CannotPriceError("the device has no scale-up link profile")
    if nodes == 1:
        return Span(ranks_per_level=(ranks,), links=(scale_up,))
    network = links.get("network")
    if network is None:
        raise CannotPriceError("the network between nodes of this device is not known")
    return _two_level(text.get("system", ""), ranks, nodes, scale_up, network)


def _count(text: str, column: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (1 <= value <= _MAX_RANKS and value == int(value)):
        raise CannotPriceError(f"{column} {text!r} is not a whole number from 1 to {_MAX_RANKS}")
    return int(value)


def _two_level(system: str, ranks: int, nodes: int, scale_up: LinkSpec, network: LinkSpec) -> Span:
    """Return the span of a multi-node run; an NVL72 rack joins 18 nodes by its scale-up link."""
    inner = ranks // nodes
    if "nvl72" in system:
        inner = min(72, ranks)
    if ranks == inner:
        return Span(ranks_per_level=(inner,), links=(scale_up,))
    return Span(ranks_per_level=(inner, ranks // inner), links=(scale_up, network))


def _filled(column: FloatArray, default: FloatArray) -> FloatArray:
    return np.where(np.isnan(column), default, column)
