"""Every form against a value worked out by hand in the comments."""

import math

import numpy as np
import pytest

from cost_models.calibration.forms import form_of
from cost_models.communication.collectives import LevelConstants, collective_time_s
from cost_models.communication.fitted import fitted_terms, wire_factor
from cost_models.communication.transfers import host_transfer_time_s, kv_transfer_time_s
from cost_models.compute.attention import attended_pairs, decode_time_s, kv_row_bytes, prefill_time_s
from cost_models.compute.elementwise import scan_time_s, stream_time_s
from cost_models.compute.experts import active_experts, expert_time_s
from cost_models.compute.gemm import GemmSetting, gemm_time_s
from cost_models.facts import DeviceFacts
from cost_models.formats import FORMATS
from cost_models.roofline import roofline_s
from cost_models.work import (
    Attention,
    Collective,
    ExpertGemm,
    Gemm,
    HostTransfer,
    KvTransfer,
    LinkSpec,
    Span,
    StateScan,
    Stream,
)

FACTS = DeviceFacts(
    name="plain",
    family="none",
    kind="gpu",
    peaks_flops_per_s={"bf16": 100e12, "fp8": 200e12},
    memory_bandwidth_bytes_per_s=1e12,
    num_sms=100.0,
    l2_bytes=50e6,
)
GEMM = {
    "eff_64x64": 0.5,
    "memory_eff": 0.5,
    "launch_s": 1e-6,
    "extra_k": 24.0,
    "sharpness": 1.0,
    "wave_share": 0.25,
    "hot_gain": 1.0,
    "quant_eff": 0.5,
    "quant_launch_s": 2e-6,
}


def test_gemm_adds_waves_bytes_and_quantisation():
    # 2 x 3 = 6 tiles of 64 x 64 over 100 SMs: 0.06 waves, padded 0.75 * 0.06 + 0.25 = 0.295;
    # depth 1000 + 24: 2 * 64 * 64 * 100 * 1024 * 0.295 / (100e12 * 0.5) = 4.949e-6 s
    # bytes (150 * 1000 + 100 * 1000 + 100 * 150) * 2 = 530_000 over 0.5e12: 1.06e-6 s; launch 1e-6
    work = Gemm(m=100.0, n=150.0, k=1000.0)
    time_s = gemm_time_s(work, GEMM, FACTS, FORMATS["bf16"], GemmSetting())
    assert time_s == pytest.approx(1e-6 + 4.949e-6 + 1.06e-6, rel=1e-3)
    # fp8 layer: twice the peak; 150e3 + 100e3 + 2 * 15e3 = 280_000 bytes; pass 100e3 * 3 / 0.5e12 + 2e-6
    quantised = gemm_time_s(work, GEMM, FACTS, FORMATS["fp8"], GemmSetting())
    assert quantised == pytest.approx(1e-6 + 2.4745e-6 + 0.56e-6 + 0.6e-6 + 2e-6, rel=1e-3)
    bare = gemm_time_s(work, GEMM, FACTS, FORMATS["fp8"], GemmSetting(quant="none"))
    assert quantised - bare == pytest.approx(2.6e-6)
    # a static scale moves 0.6 of the bytes of the pass and has no launch of its own
    static = gemm_time_s(work, GEMM, FACTS, FORMATS["fp8"], GemmSetting(quant="static"))
    assert static - bare == pytest.approx(0.6 * 0.6e-6)
    light = gemm_time_s(work, GEMM, FACTS, FORMATS["fp8"], GemmSetting(quant="static", bare_launch_s=4e-7))
    assert static - light == pytest.approx(6e-7)


def test_gemm_takes_the_better_tile_and_nothing_takes_no_time():
    both = GEMM | {"eff_128x128": 1.0}
    work = Gemm(m=4096.0, n=4096.0, k=4096.0)
    small, chosen = (gemm_time_s(work, c, FACTS, FORMATS["bf16"], GemmSetting()) for c in (GEMM, both))
    assert chosen < small
    assert gemm_time_s(Gemm(m=0.0, n=1.0, k=1.0), GEMM, FACTS, FORMATS["bf16"], GemmSetting()) == 0.0
    with pytest.raises(ValueError, match="tile"):
        gemm_time_s(work, GEMM | {"eff_64x64": 0.0}, FACTS, FORMATS["bf16"], GemmSetting())


@pytest.mark.parametrize(
    ("q_len", "kv_len", "window", "pairs"),
    [(4, 4, 0, 10), (2, 5, 0, 9), (1, 7, 0, 7), (4, 4, 2, 7), (3, 6, 2, 6), (3, 4, 3, 8), (4, 4, 9, 10)],
)
def test_pairs_are_those_of_counting(q_len, kv_len, window, pairs):
    counted = sum(min(position, window or position) for position in range(kv_len - q_len + 1, kv_len + 1))
    found = attended_pairs(*(np.array(float(x)) for x in (q_len, kv_len, window)))
    assert counted == pairs == found


def attention(**changes):
    fields = {
        "phase": "decode", "batch": 10.0, "q_len": 1.0, "kv_len": 1000.0, "num_heads": 8.0,
        "num_kv_heads": 2.0, "head_dim": 100.0, "v_head_dim": 100.0,
    }  # fmt: skip
    return Attention(**(fields | changes))


def test_decode_is_the_root_of_squares_plus_ramp():
    constants = {
        "memory_eff": 0.8, "eff": 0.5, "unit_s": 1e-5, "launch_s": 3e-6, "ramp_bytes": 1e6,
        "hot_gain": 1.0, "hot_share": 1.0,
    }  # fmt: skip
    # bytes 10 * 1000 * 2 * 200 * 2 = 8e6: Tm = 1e-5; Tu = 10 * 2 / 100 * 1e-5 = 2e-6;
    # Tc = 2 * 10 * 8 * 1000 * 200 / 50e12 = 6.4e-7; ramp 1e-6 (1 - e^-8)
    expected = 3e-6 + math.sqrt(1e-10 + 4e-12 + 6.4e-7**2) + 1e-6 * (1.0 - math.exp(-8.0))
    assert decode_time_s(attention(), constants, FACTS) == pytest.approx(expected)
    assert decode_time_s(attention(), constants, FACTS, replay=True) < expected
    assert kv_row_bytes(attention(kv_fmt="fp8")) == 400.0
    assert kv_row_bytes(attention(kind="mla_absorbed", head_dim=576.0, v_head_dim=512.0)) == 1152.0


def test_prefill_adds_work_tail_blocks_and_bytes():
    constants = {
        "eff": 0.5, "extra_tokens": 10.0, "tail": 0.2, "softmax_width": 0.0, "block_s": 1e-7,
        "memory_eff": 0.5, "launch_s": 3e-6,
    }  # fmt: skip
    work = attention(phase="prefill", batch=1.0, q_len=100.0, kv_len=100.0)
    # pairs 5050 + 500; flops 2 * 8 * 200 * 5550 = 17.76e6; longest 2 * 200 * 100 * 100 * 0.2 * 100 = 80e6
    # over 50e12; 8 blocks * 1e-7 / 100; bytes 100 * 8 * 400 + 200 * 800 = 480e3 over 0.5e12
    expected = 3e-6 + (17.76e6 + 80e6) / 50e12 + 8e-9 + 480e3 / 0.5e12
    assert prefill_time_s(work, constants, FACTS) == pytest.approx(expected)


def test_experts_count_pairs_padding_weights_and_absent_tokens():
    constants = {
        "eff": 0.5, "memory_eff": 0.5, "launch_s": 1e-5, "tile_rows": 20.0, "sharpness": 1.0,
        "activation_eff": 0.5, "absent_eff": 0.25,
    }  # fmt: skip
    work = ExpertGemm(
        num_tokens=1000.0, hidden=100.0, inter=50.0, top_k=2.0, num_experts=8.0, ep=2.0, routing="balanced"
    )
    # 1000 pairs on 4 experts, padded by 40: 2 * 1040 * 3 * 100 * 50 / 50e12; weights 4 * 15000 * 2 / 0.5e12;
    # activations 1000 * 700 / 0.5e12
    expected = 1e-5 + 31.2e6 / 50e12 + 120e3 / 0.5e12 + 700e3 / 0.5e12
    assert expert_time_s(work, constants, FACTS, FORMATS["bf16"]) == pytest.approx(expected)
    gathered = ExpertGemm(
        num_tokens=1000.0, hidden=100.0, inter=50.0, top_k=2.0, num_experts=8.0, ep=2.0, routing="balanced",
        all_tokens_present=True,
    )  # fmt: skip
    more = expert_time_s(gathered, constants, FACTS, FORMATS["bf16"]) - expected
    assert more == pytest.approx(1000.0 * 400.0 / 0.25e12)


def test_random_routing_leaves_experts_idle():
    # one token, 2 of 8: exactly 2 in both; 4 tokens: 8 (1 - (3/4)^4) = 5.46875 instead of 8
    one, four, eight, two = (np.array(x) for x in (1.0, 4.0, 8.0, 2.0))
    assert active_experts(one, two, eight, one, random=True) == pytest.approx(2.0)
    assert active_experts(four, two, eight, one, random=True) == pytest.approx(5.46875)
    assert active_experts(four, two, eight, one, random=False) == 8.0


def test_streams_and_scans():
    constants = {"memory_eff": 0.5, "launch_s": 1e-6, "eff": 0.1}
    assert stream_time_s(Stream(num_bytes=1e6, num_kernels=3.0), constants, FACTS) == pytest.approx(5e-6)
    # state 10 * 1000 * 8 / 0.5e12 = 1.6e-7; 4 * 20 * 1000 / 10e12 = 8e-9
    scan = StateScan(phase="decode", num_tokens=20.0, batch=10.0, state_elems=1000.0)
    assert scan_time_s(scan, constants, FACTS) == pytest.approx(1e-6 + 1.6e-7 + 8e-9)


WIRE = LinkSpec(name="wire", latency_s=1e-6, bandwidth_bytes_per_s=100e9)
SLOW = LinkSpec(name="slow", latency_s=1e-5, bandwidth_bytes_per_s=10e9)
PLAIN = {"software_s": 0.0, "eff": 1.0, "ramp_bytes": 0.0}


def span(*ranks):
    return Span(ranks_per_level=ranks, links=(WIRE, SLOW)[: len(ranks)])


def plain(op, link):
    return LevelConstants(main=PLAIN)


@pytest.mark.parametrize(
    ("op", "ranks", "factor"),
    [("all_reduce", 8, 1.75), ("all_gather", 8, 0.875), ("all_to_all", 4, 0.75), ("p2p", 2, 1.0)],
)
def test_wire_factors_are_those_of_nccl_tests(op, ranks, factor):
    assert wire_factor(op, ranks) == factor


def test_one_level_collective():
    # 8 ranks: hops min(14, 2 * 3 + 1) = 7; 1.75 * 1e9 / 100e9
    work = Collective(op="all_reduce", num_bytes=1e9, span=span(8))
    assert collective_time_s(work, plain) == pytest.approx(7e-6 + 1.75e-2, rel=1e-6)


def test_two_levels_add_latency_and_overlap_wires():
    # inside 1.75e9 / 100e9 = 17.5 ms, outside (1e9 / 8) / 10e9 = 12.5 ms; hops 7 and 2
    work = Collective(op="all_reduce", num_bytes=1e9, span=span(8, 2))
    wires = (17.5e-3**4 + 12.5e-3**4) ** 0.25
    assert collective_time_s(work, plain) == pytest.approx(7e-6 + 2e-5 + wires, rel=1e-6)


def test_all_to_all_sends_outside_what_leaves_the_node():
    # 16 ranks in 2 nodes: half of the buffer leaves over the slow link, 15/16 over the fast one
    work = Collective(op="all_to_all", num_bytes=1e9, span=span(8, 2))
    wires = ((1e9 * 15 / 16 / 100e9) ** 4 + (0.5e9 / 10e9) ** 4) ** 0.25
    assert collective_time_s(work, plain) == pytest.approx(1e-6 + 1e-5 + wires, rel=1e-6)


def test_point_to_point_takes_the_slowest_level_and_alone_takes_nothing():
    work = Collective(op="p2p", num_bytes=1e9, span=span(8, 2))
    assert collective_time_s(work, plain) == pytest.approx(1e-5 + 0.1, rel=1e-6)
    assert collective_time_s(Collective(op="all_reduce", num_bytes=1e9, span=span(1)), plain) == 0.0


def test_the_engines_kernel_serves_small_messages_only():
    small = {"software_s": 0.0, "eff": 0.1, "ramp_bytes": 0.0}
    slow_start = {"software_s": 1e-3, "eff": 1.0, "ramp_bytes": 0.0}

    def both(op, link):
        return LevelConstants(main=slow_start, small=small)

    few, many = (
        collective_time_s(Collective(op="all_reduce", num_bytes=b, span=span(8)), both) for b in (1e3, 1e9)
    )
    assert few == pytest.approx(7e-6 + 1.75e3 / 10e9, rel=1e-4)
    assert many == pytest.approx(1e-3 + 7e-6 + 1.75e-2, rel=1e-4)


def test_fitted_group_sizes_are_interpolated_over_the_log_of_ranks():
    constants = {
        "alpha_s_n2": 2e-6, "alpha_s_n8": 6e-6, "eff_n2": 0.5, "eff_n8": 0.9,
        "mid_s_n2": 0.0, "mid_s_n8": 4e-6, "mid_bytes_n2": 1e6, "mid_bytes_n8": 1e6,
    }  # fmt: skip
    # 4 ranks lie halfway: alpha 4 us, eff 0.7, mid 2 us sqrt(0.25)
    terms = fitted_terms("all_gather", np.array(0.25e6), 4, WIRE, constants)
    assert terms.latency_s == pytest.approx(4e-6 + 1e-6)
    assert terms.wire_s == pytest.approx(0.25e6 * 0.75 / 70e9)


def test_switch_reduction_halves_the_traffic():
    switch = LinkSpec(name="switch", latency_s=1e-6, bandwidth_bytes_per_s=100e9, in_network_reduction=True)
    work = Collective(op="all_reduce", num_bytes=1e9, span=Span(ranks_per_level=(8,), links=(switch,)))
    assert collective_time_s(work, plain) == pytest.approx(2e-6 + 1.125e9 / 100e9)


def test_transfers():
    constants = {"software_s": 1e-3, "eff": 0.5}
    moved = kv_transfer_time_s(KvTransfer(num_bytes=1e9, link=SLOW, num_lanes=4.0), constants)
    assert moved == pytest.approx(1e-3 + 1e-5 + 1e9 / 20e9)
    assert host_transfer_time_s(HostTransfer(num_bytes=1e9), constants, 50e9, 2e-6) == pytest.approx(
        1e-3 + 2e-6 + 0.04
    )


def test_rooflines():
    assert roofline_s(Gemm(m=1.0, n=1000.0, k=1000.0), FACTS) == pytest.approx(2.004e6 / 1e12)
    assert roofline_s(Gemm(m=1e4, n=1e4, k=1e4), FACTS) == pytest.approx(2e12 / 100e12)
    assert roofline_s(Collective(op="all_reduce", num_bytes=1e9, span=span(8, 2)), FACTS) == pytest.approx(
        0.0175
    )
    with pytest.raises(ValueError, match="no roofline"):
        roofline_s(Stream(num_bytes=1.0), FACTS)


def test_decode_kernels_split_caches_and_hold_so_many_query_heads():
    bare = {
        "memory_eff": 0.5,
        "eff": 1e9,
        "unit_s": 1e-6,
        "launch_s": 0.0,
        "ramp_bytes": 1.0,
        "hot_gain": 0.0,
    }
    work = Attention(
        phase="decode", batch=4.0, q_len=1.0, kv_len=256.0, num_heads=64.0, num_kv_heads=2.0,
        head_dim=128.0, v_head_dim=128.0,
    )  # fmt: skip

    def time_s(**more):
        return float(decode_time_s(work, {**bare, **more}, FACTS))

    # the pass over partial results: half of combine_s at combine_keys
    assert time_s(combine_s=2e-6, combine_keys=256.0) - time_s() == pytest.approx(1e-6)
    # 32 query heads per KV head where kernels hold 16: 1 + 2^4 reads
    memory_s, unit_s = 4 * 256 * 2 * 256 * 2 / 0.5e12, 8 / FACTS.num_sms * 1e-6
    ramp_s = time_s() - np.hypot(memory_s, unit_s)
    assert time_s(group_limit=16.0) == pytest.approx(17 * np.hypot(memory_s, unit_s) + ramp_s)
    # 8 units on 8 or more multiprocessors are one whole wave
    assert time_s(unit_s=1.0, wave_share=1.0) == pytest.approx(1.0 * np.ceil(8 / FACTS.num_sms), rel=1e-3)
    # each unit passes over its keys
    assert time_s(unit_s=0.0, key_s=1.0) == pytest.approx(8 / FACTS.num_sms * 256, rel=1e-3)


def test_shared_curves_leave_out_what_one_kernel_does():
    shape = {"phase": "decode", "batch": 8.0, "q_len": 1.0, "kv_len": np.geomspace(64, 65536, 40)}
    heads = {"num_heads": 32.0, "num_kv_heads": 8.0, "head_dim": 128.0, "v_head_dim": 128.0}
    spec = form_of(Attention(**shape, **heads), FACTS).spec
    assert {name for name, constant in spec.items() if constant.own} == {
        "group_limit",
        "key_s",
        "single_share",
    }
