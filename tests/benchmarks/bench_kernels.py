"""A million kernel queries of each kind, all fields varied: under ten seconds each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cost_models.library import device_cost_model
from cost_models.work import Attention, Collective, ExpertGemm, Gemm, LinkSpec, Span, TokenExchange, Work
from hardware_profiles.loader import load_device

NUM_QUERIES = 1_000_000
MOST_S = 10.0
H100 = load_device("h100")
NVLINK = LinkSpec(name=H100.scale_up_link, latency_s=1e-6, bandwidth_bytes_per_s=450e9, kind="nvlink")
IB = LinkSpec(name="ib400", latency_s=7e-6, bandwidth_bytes_per_s=50e9, kind="infiniband")
TWO_NODES = Span(ranks_per_level=(8, 2), links=(NVLINK, IB))


def _sizes(low: float, high: float, seed: int) -> Any:
    random = np.random.default_rng(seed)
    return np.floor(np.exp(random.uniform(np.log(low), np.log(high), NUM_QUERIES)))


def _attention(phase: Any, *, latent: bool = False) -> Attention:
    return Attention(
        phase=phase,
        batch=_sizes(1, 512, 1),
        q_len=1.0 if phase == "decode" else _sizes(1, 8192, 2),
        kv_len=_sizes(8192, 131072, 3),
        num_heads=128.0,
        num_kv_heads=1.0 if latent else 8.0,
        head_dim=576.0 if latent else 128.0,
        v_head_dim=512.0 if latent else 128.0,
        kind="mla_absorbed" if latent else "gqa",
    )


WORKS: dict[str, Work] = {
    "gemm": Gemm(m=_sizes(1, 65536, 4), n=_sizes(256, 65536, 5), k=_sizes(256, 65536, 6), fmt="fp8"),
    "prefill": _attention("prefill"),
    "decode": _attention("decode"),
    "latent decode": _attention("decode", latent=True),
    "experts": ExpertGemm(
        num_tokens=_sizes(1, 65536, 7), hidden=7168.0, inter=2048.0, top_k=8.0, num_experts=256.0, ep=16.0
    ),
    "all_reduce": Collective(op="all_reduce", num_bytes=_sizes(8, 1e10, 8), span=TWO_NODES),
    "exchange": TokenExchange(
        half="dispatch", num_tokens=_sizes(1, 65536, 9), top_k=8.0, row_bytes=7168.0, span=TWO_NODES
    ),
}


@pytest.mark.parametrize("name", WORKS)
def test_million_queries(benchmark: Any, name: str) -> None:
    model = device_cost_model(H100)
    cost = benchmark.pedantic(lambda: model.price(WORKS[name]), rounds=2, warmup_rounds=0)
    assert np.all(np.isfinite(cost.time_s))
    assert benchmark.stats.stats.max < MOST_S
