"""Dispatch and combine around routed experts, worked out by hand."""

import csv

import numpy as np
import pytest

from cost_models.communication.exchange import copies_sent, exchange_time_s
from cost_models.library import device_cost_model
from cost_models.work import LinkSpec, Span, TokenExchange
from hardware_profiles.loader import load_device
from planner.accuracy.kernels import read_kernels
from planner.accuracy.score import score_kernels

FAST = LinkSpec(name="fast", latency_s=1e-6, bandwidth_bytes_per_s=100e9, kind="nvlink")
SLOW = LinkSpec(name="slow", latency_s=1e-5, bandwidth_bytes_per_s=10e9, kind="infiniband")
PLAIN = {
    "launch_s": 1e-5, "eff": 1.0, "network_eff": 0.5, "network_s": 1e-6, "token_s": 0.0, "peer_s": 0.0,
    "mid_s": 0.0, "mid_bytes": 1.0,
}  # fmt: skip


def test_copies_are_made_per_device_and_node_or_per_expert():
    # 2 nodes of 2: a token with 2 experts misses a given device with (3/4)^2, a given node with 1/4
    local, across = copies_sent(np.array(2.0), 2, 2, per_expert=False)
    assert (float(local), float(across)) == pytest.approx((3 * 7 / 16, 3 / 4))
    local, across = copies_sent(np.array(2.0), 2, 2, per_expert=True)
    assert (float(local), float(across)) == (0.5, 1.0)
    assert float(copies_sent(np.array(2.0), 1, 4, per_expert=False)[1]) == 0.0


def test_an_exchange_over_two_nodes():
    # 1e6 tokens of 1 KB: 1.3125 GB inside at 100 GB/s, 0.75 GB outside at 5 GB/s; start 1 us (1 + log2 2)
    span = Span(ranks_per_level=(2, 2), links=(FAST, SLOW))
    work = TokenExchange(
        half="dispatch", num_tokens=1e6, top_k=2.0, row_bytes=1e3, span=span, kernel="normal"
    )
    wires = ((1.3125 / 100) ** 4 + (0.75 / 5) ** 4) ** 0.25
    assert float(exchange_time_s(work, PLAIN)) == pytest.approx(1.2e-5 + wires, rel=1e-6)
    alone = TokenExchange(
        half="dispatch", num_tokens=1e6, top_k=2.0, row_bytes=1e3,
        span=Span(ranks_per_level=(1,), links=(FAST,)), kernel="normal",
    )  # fmt: skip
    assert float(exchange_time_s(alone, PLAIN)) == 0.0


@pytest.mark.parametrize("half", ["dispatch", "combine"])
@pytest.mark.parametrize("ranks", [(8,), (8, 4)])
def test_the_best_kernel_is_the_quicker_one_and_rises_with_tokens(half, ranks):
    device = load_device("h100")
    own = LinkSpec(name=device.scale_up_link, latency_s=1e-6, bandwidth_bytes_per_s=450e9, kind="nvlink")
    span = Span(ranks_per_level=ranks, links=(own, SLOW)[: len(ranks)])
    tokens = np.geomspace(1, 1e6, 200)

    def time_s(kernel):
        work = TokenExchange(
            half=half, num_tokens=tokens, top_k=8.0, row_bytes=7168.0, span=span, kernel=kernel
        )
        return device_cost_model(device).price(work).time_s

    best = time_s("best")
    assert np.array_equal(best, np.minimum(time_s("normal"), time_s("low_latency")))
    assert np.all(np.diff(best) > 0)


def test_a_device_without_measurements_borrows_from_others():
    span = Span(ranks_per_level=(8,), links=(FAST,))
    work = TokenExchange(half="combine", num_tokens=64.0, top_k=8.0, row_bytes=14336.0, span=span)
    known, unknown = (device_cost_model(load_device(name)).price(work) for name in ("h100", "mi300x"))
    assert float(unknown.time_s) > 0
    assert known.provenance < unknown.provenance
    assert float(known.sigma_log) < float(unknown.sigma_log)


def test_a_table_of_exchanges_counts_each_half(tmp_path):
    # H100 rows of ai-dynamo/aiconfigurator (Apache-2.0, NVIDIA), SGLang 0.5.12 and 0.5.6
    rows = [
        ("h100_sxm", "deepep_low_latency", 1, 8, 128, 7168, 8, "", 39.83, 72.38),
        ("h100_sxm", "deepep_normal", 1, 8, 4096, 7168, 8, 20, 491.24, 972.51),
        ("h100_sxm", "deepep_normal", 4, 32, 4096, 7168, 8, 20, 1801.0, ""),
        ("h100_sxm", "deepep_normal", 1, 8, 4096, 7168, 8, 4, 2000.0, 3000.0),
        ("h100_sxm", "carrier_pigeon", 1, 8, 4096, 7168, 8, "", 1.0, ""),
        ("h100_sxm", "deepep_normal", 1, 8, 4096, 7168, 8, 20, "", ""),
    ]
    path = tmp_path / "exchange.csv"
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(
            [
                "gpu",
                "impl",
                "nodes",
                "n_gpus",
                "tokens_per_rank",
                "hidden",
                "topk",
                "sms",
                "dispatch_us",
                "combine_us",
            ]
        )
        writer.writerows(rows)
    scores = score_kernels(read_kernels(path))
    assert sum(s.num_rows for s in scores) == 9
    assert sum(s.num_refused for s in scores) == 4
    assert all(s.model.mape < 30 for s in scores if s.model is not None)
