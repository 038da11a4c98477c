"""Every kind of work is priced, elementwise, with spread and provenance; bad work is refused."""

import dataclasses
import time

import numpy as np
import pytest

from cost_models.formats import UnsupportedFormatError, executed_format
from cost_models.library import Pricing, device_cost_model
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
    ToolCall,
)
from hardware_profiles.calibration import device_curves
from hardware_profiles.loader import load_device, load_software
from hardware_profiles.provenance import Provenance

WIRE = LinkSpec(name="wire", latency_s=1e-6, bandwidth_bytes_per_s=400e9)
NET = LinkSpec(name="net", latency_s=5e-6, bandwidth_bytes_per_s=50e9)
SPAN = Span(ranks_per_level=(8, 2), links=(WIRE, NET))
ATTENTION = {
    "batch": 4.0,
    "kv_len": 2000.0,
    "num_heads": 32.0,
    "num_kv_heads": 8.0,
    "head_dim": 128.0,
    "v_head_dim": 128.0,
}
EXPERTS = {
    "num_tokens": 512.0,
    "hidden": 4096.0,
    "inter": 1536.0,
    "top_k": 8.0,
    "num_experts": 128.0,
    "ep": 8.0,
}
ENGINES = ("sglang-0.5.14", "trtllm-1.3.0rc20", "vllm-0.24.0")
EVERY_WORK = [
    Gemm(m=64.0, n=4096.0, k=4096.0),
    Gemm(m=64.0, n=4096.0, k=4096.0, fmt="fp8_block"),
    Attention(phase="prefill", q_len=2000.0, **ATTENTION),
    Attention(phase="decode", q_len=1.0, **ATTENTION),
    Attention(phase="decode", q_len=1.0, kv_fmt="fp8", **ATTENTION),
    Attention(phase="decode", q_len=1.0, kind="mla_absorbed", **ATTENTION),
    Attention(phase="prefill", q_len=100.0, kind="mla_absorbed", **ATTENTION),
    Attention(phase="prefill", q_len=100.0, kind="mla_expanded", **ATTENTION),
    ExpertGemm(num_tokens=64.0, hidden=4096.0, inter=1536.0, top_k=8.0, num_experts=128.0, ep=8.0),
    Stream(num_bytes=1e8, num_kernels=2.0),
    StateScan(phase="decode", num_tokens=32.0, batch=32.0, state_elems=1e6),
    *[
        Collective(op=op, num_bytes=1e7, span=SPAN)
        for op in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p", "broadcast")
    ],
    KvTransfer(num_bytes=1e9, link=NET, num_lanes=8.0),
    HostTransfer(num_bytes=1e9),
    ToolCall(mean_s=1.0, sigma_log=0.5),
]


@pytest.mark.parametrize("work", EVERY_WORK, ids=lambda w: f"{type(w).__name__}")
def test_every_kind_of_work_has_a_time_a_spread_and_a_provenance(work, device_of):
    cost = device_cost_model(device_of(), host_link=WIRE).price(work)
    assert np.all(np.isfinite(cost.time_s))
    assert np.all(cost.time_s > 0)
    assert np.all(cost.variance_s2 > 0)
    assert cost.provenance in (Provenance.ANALYTICAL, Provenance.ASSUMED)


def test_arrays_give_what_scalars_give(device_of):
    model = device_cost_model(device_of())
    m, n = np.array([1.0, 64.0, 4096.0])[:, None], np.array([512.0, 8192.0])[None, :]
    grid = model.price(Gemm(m=m, n=n, k=1024.0, fmt="fp8")).time_s
    single = [[float(model.price(Gemm(m=a, n=b, k=1024.0, fmt="fp8")).time_s) for b in n[0]] for a in m[:, 0]]
    np.testing.assert_allclose(grid, single, rtol=1e-13)


def test_a_million_kernel_queries_are_quick(device_of):
    model = device_cost_model(device_of())
    m = np.tile(np.arange(1.0, 1001.0), 1000)
    start = time.perf_counter()
    model.price(Gemm(m=m, n=4096.0, k=4096.0))
    assert time.perf_counter() - start < 5.0


def test_a_format_without_arithmetic_is_refused_and_its_fallback_named(device_of):
    device = device_of(peaks={"bf16": 312e12, "int8": 624e12})
    with pytest.raises(UnsupportedFormatError) as caught:
        device_cost_model(device).price(Gemm(m=1.0, n=1.0, k=1.0, fmt="fp8"))
    assert caught.value.fallback == "w8a16"
    assert executed_format({"bf16": 312e12}, "fp8") == "w8a16"
    assert executed_format({"bf16": 312e12, "fp8": 1.0}, "fp8") == "fp8"
    assert executed_format({"bf16": 312e12}, "fp32") is None


@pytest.mark.parametrize("bad", [-1.0, float("nan"), np.array([3.0, -2.0])])
def test_negative_sizes_are_refused(bad, device_of):
    with pytest.raises(ValueError, match=r"Gemm\.m must not be negative"):
        device_cost_model(device_of()).price(Gemm(m=bad, n=1.0, k=1.0))


def test_a_host_transfer_without_a_host_link_is_refused(device_of):
    with pytest.raises(ValueError, match="host link"):
        device_cost_model(device_of()).price(HostTransfer(num_bytes=1.0))


def test_both_half_precisions_use_the_same_curves():
    model = device_cost_model(load_device("a100"))
    for work in (Gemm(m=64.0, n=4096.0, k=4096.0), ExpertGemm(**EXPERTS)):
        other = dataclasses.replace(work, fmt="fp16")
        assert model.price(other).time_s == model.price(work).time_s
        assert model.price(other).provenance == Provenance.CALIBRATED


def test_calibrated_devices_say_so_and_are_surer_than_others():
    work = Gemm(m=64.0, n=4096.0, k=4096.0)
    known, unknown = (device_cost_model(load_device(name)).price(work) for name in ("h100", "mi300x"))
    assert known.provenance == Provenance.CALIBRATED
    assert unknown.provenance == Provenance.ANALYTICAL
    assert known.sigma_log < unknown.sigma_log


def test_an_engines_own_curve_wins_and_an_unknown_engine_widens_the_interval():
    device, work = load_device("h100"), Gemm(m=64.0, n=4096.0, k=4096.0, fmt="fp8")
    own = device_cost_model(device, load_software("trtllm")).price(work)
    anyone = device_cost_model(device).price(work)
    assert "trtllm" in own.origin
    assert own.sigma_log < anyone.sigma_log


def test_an_unknown_engine_runs_the_quickest_measured_kernel_and_the_average_one_where_asked():
    device = load_device("h100")
    work = Gemm(m=np.array([1.0, 64.0, 4096.0]), n=8192.0, k=8192.0, fmt="fp8")
    anyone = device_cost_model(device).price(work)
    engines = ("vllm-0.24.0", "sglang-0.5.14", "trtllm-1.3.0rc20")
    pricing = Pricing(quant="dynamic")
    each = [
        device_cost_model(device, pricing=pricing, kernel_software=(name,)).price(work) for name in engines
    ]
    quickest = device_cost_model(device, pricing=dataclasses.replace(pricing, unknown="quickest"))
    assert quickest.price(work).time_s == pytest.approx(np.min([cost.time_s for cost in each], axis=0))
    assert "quickest of" in anyone.origin
    average = device_cost_model(device, pricing=pricing).price(work)
    assert "quickest" not in average.origin
    assert (quickest.price(work).time_s <= average.time_s * 1.3).all()


def test_software_decides_who_quantises_activations():
    device, work = load_device("h100"), Gemm(m=4096.0, n=4096.0, k=4096.0, fmt="fp8")
    software = load_software("vllm")
    dynamic = software.model_copy(update={"static_quantisation": False})
    static_s, dynamic_s = (device_cost_model(device, s).price(work).time_s for s in (software, dynamic))
    assert dynamic_s > static_s


def test_an_engine_that_tries_kernels_out_runs_the_quickest_measured_one():
    device, tuned = load_device("b200"), load_software("trtllm")
    assert "nvfp4" in tuned.tuned_formats
    fixed = tuned.model_copy(update={"tuned_formats": ()})
    work = Gemm(m=np.array([1.0, 64.0, 4096.0]), n=8192.0, k=8192.0, fmt="nvfp4")
    best = device_cost_model(device, tuned).price(work).time_s
    engines = [fixed.model_copy(update={"kernel_software": (name,)}) for name in ENGINES]
    each = [device_cost_model(device, engine).price(work).time_s for engine in engines]
    assert best == pytest.approx(np.min(each, axis=0), rel=0.01)
    assert (best < device_cost_model(device, fixed).price(work).time_s).any()
    other = dataclasses.replace(work, fmt="bf16")
    assert device_cost_model(device, tuned).price(other).time_s == pytest.approx(
        device_cost_model(device, fixed).price(other).time_s
    )


def test_devices_are_taken_to_reach_each_other_where_such_a_host_was_measured():
    device = load_device("l40s")
    link = LinkSpec(name=device.scale_up_link, latency_s=2e-6, bandwidth_bytes_per_s=32e9)
    work = Collective(op="all_reduce", num_bytes=2.0**24, span=Span(ranks_per_level=(8,), links=(link,)))
    served = device_cost_model(device, load_software("vllm")).price(work).time_s
    measured = device_cost_model(device, pricing=Pricing(all_reduce="custom")).price(work).time_s
    assert measured > 5.0 * served
    slow = next(c for c in device_curves("l40s") if c.operation == "custom_all_reduce")
    own = device.model_copy(update={"curves": (slow.model_copy(update={"software": "mine"}),)})
    assert device_cost_model(own, load_software("vllm")).price(work).time_s > 2.0 * served


def test_skewed_routing_is_slower_and_less_sure():
    model = device_cost_model(load_device("h100"))
    even, skewed = (model.price(ExpertGemm(**EXPERTS, skew=s)) for s in (1.0, 2.0))
    assert skewed.time_s > even.time_s
    assert skewed.sigma_log > even.sigma_log


def test_collectives_inside_a_node_use_what_was_measured_on_it():
    device = load_device("h100")
    model = device_cost_model(device)
    own = LinkSpec(name=device.scale_up_link, latency_s=1e-6, bandwidth_bytes_per_s=450e9)
    work = Collective(op="all_reduce", num_bytes=1e5, span=Span(ranks_per_level=(8,), links=(own,)))
    best, library = (
        device_cost_model(device, pricing=Pricing(all_reduce=kernel)).price(work).time_s
        for kernel in ("best", "library")
    )
    assert model.price(work).provenance == Provenance.CALIBRATED
    assert best < library
    eager = device_cost_model(device, pricing=Pricing(all_reduce="library_eager")).price(work).time_s
    assert 5e-6 < eager - library < 5e-5


@pytest.mark.parametrize(
    ("name", "fmt", "flops_per_s"), [("mi300x", "bf16", 708e12), ("mi300x", "fp8", 1273e12)]
)
def test_large_products_of_an_unmeasured_device_reach_its_stated_rate(
    name: str, fmt: str, flops_per_s: float
) -> None:
    model = device_cost_model(load_device(name), pricing=Pricing(quant="none"))
    m, n, k = 4096.0, 4864.0, 32896.0  # the shape that AMD measured
    reached = 2.0 * m * n * k / float(model.price(Gemm(m=m, n=n, k=k, fmt=fmt)).time_s)
    assert reached == pytest.approx(flops_per_s, rel=0.06)
    assert reached < flops_per_s


def test_a_format_without_a_rate_takes_the_share_of_16_bit_and_own_curves_none() -> None:
    device = load_device("tpu-v5e")
    model, size = device_cost_model(device, pricing=Pricing(quant="none")), 16384.0
    for fmt in ("bf16", "int8"):
        time_s = float(model.price(Gemm(m=size, n=size, k=size, fmt=fmt)).time_s)
        share = 2.0 * size**3 / time_s / device.peak_flops_per_s[fmt].value
        assert share == pytest.approx(184.3 / 197.0, rel=0.04)
    h100 = load_device("h100")
    stated = h100.model_copy(update={"reached_flops_per_s": {"bf16": h100.peak_flops_per_s["bf16"]}})
    same = [device_cost_model(d).price(Gemm(m=512.0, n=4096.0, k=4096.0)).time_s for d in (h100, stated)]
    assert float(same[0]) == float(same[1])
