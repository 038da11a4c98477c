"""More work is never faster; a better device is never slower; on shipped devices and on made-up ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models.library import Pricing, device_cost_model
from cost_models.work import Attention, Collective, ExpertGemm, Gemm, LinkSpec, Span
from hardware_profiles.loader import load_device

DEVICES = ("a100", "h100", "b200", "l40s", "rtx-4090", "mi300x")
MODELS = {name: device_cost_model(load_device(name)) for name in DEVICES}
REPLAY = {name: device_cost_model(load_device(name), pricing=Pricing(replay=True)) for name in DEVICES}
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
SIZES = st.integers(min_value=1, max_value=20_000)
SLACK = 1.0 + 1e-9


def assert_rising(times):
    assert np.all(times[1:] * SLACK >= times[:-1])


def better(name, **factors):
    device = load_device(name)
    update = {}
    for field, factor in factors.items():
        if field == "peak":
            update["peak_flops_per_s"] = {
                key: fact.model_copy(update={"value": fact.value * factor})
                for key, fact in device.peak_flops_per_s.items()
            }
        else:
            fact = getattr(device, field)
            update[field] = fact.model_copy(update={"value": fact.value * factor})
    return device_cost_model(device.model_copy(update=update))


@SETTINGS
@given(name=st.sampled_from(DEVICES), n=SIZES, k=SIZES, fmt=st.sampled_from(["bf16", "w4a16", "int8"]))
def test_a_product_takes_longer_with_more_rows(name, n, k, fmt):
    m = np.arange(1.0, 700.0)
    assert_rising(MODELS[name].price(Gemm(m=m, n=float(n), k=float(k), fmt=fmt)).time_s)


@SETTINGS
@given(name=st.sampled_from(DEVICES), m=SIZES, k=SIZES)
def test_a_product_takes_longer_when_wider_or_deeper(name, m, k):
    size = np.arange(64.0, 9000.0, 64.0)
    assert_rising(MODELS[name].price(Gemm(m=float(m), n=size, k=float(k))).time_s)
    assert_rising(MODELS[name].price(Gemm(m=float(m), n=float(k), k=size)).time_s)


@SETTINGS
@given(
    name=st.sampled_from(DEVICES),
    phase=st.sampled_from(["prefill", "decode"]),
    batch=st.integers(1, 64),
    heads=st.sampled_from([(8, 1), (32, 8), (64, 64)]),
    window=st.sampled_from([0.0, 128.0, 4096.0]),
    kind=st.sampled_from(["gqa", "mla_absorbed"]),
)
def test_attention_takes_longer_with_more_context_and_more_sequences(name, phase, batch, heads, window, kind):
    shared = {
        "phase": phase,
        "num_heads": float(heads[0]),
        "num_kv_heads": float(heads[1]),
        "head_dim": 128.0,
        "v_head_dim": 128.0,
        "window": window,
        "kind": kind,
    }
    q_len = 1.0 if phase == "decode" else 300.0
    kv_len = np.arange(q_len, 9000.0, 37.0)
    model = MODELS[name]
    assert_rising(model.price(Attention(batch=float(batch), q_len=q_len, kv_len=kv_len, **shared)).time_s)
    many = np.arange(1.0, 300.0)
    assert_rising(model.price(Attention(batch=many, q_len=q_len, kv_len=5000.0, **shared)).time_s)
    if phase == "prefill":
        chunk = np.arange(1.0, 3000.0, 7.0)
        assert_rising(model.price(Attention(batch=1.0, q_len=chunk, kv_len=4000.0, **shared)).time_s)


@SETTINGS
@given(
    name=st.sampled_from(DEVICES),
    experts=st.sampled_from([(8, 2), (128, 8), (256, 8)]),
    ep=st.sampled_from([1.0, 4.0, 8.0]),
    routing=st.sampled_from(["random", "balanced"]),
)
def test_experts_take_longer_with_more_tokens_and_with_skew(name, experts, ep, routing):
    shared = {"hidden": 4096.0, "inter": 1536.0, "num_experts": float(experts[0]), "top_k": float(experts[1])}
    tokens = np.unique(np.round(np.geomspace(1, 30_000, 300)))
    model = MODELS[name]
    work = ExpertGemm(num_tokens=tokens, ep=ep, routing=routing, **shared)
    assert_rising(model.price(work).time_s)
    skew = np.linspace(1.0, ep, 30)
    work = ExpertGemm(num_tokens=500.0, ep=ep, skew=skew, routing=routing, **shared)
    assert_rising(model.price(work).time_s)


@SETTINGS
@given(
    op=st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p"]),
    ranks=st.sampled_from([(2,), (8,), (8, 2), (8, 16), (72, 20)]),
    name=st.sampled_from(DEVICES),
)
def test_collectives_take_longer_with_more_bytes_and_slower_links(op, ranks, name):
    device = load_device(name)
    num_bytes = np.geomspace(1e2, 1e10, 200)

    def time_s(factor):
        links = (
            LinkSpec(name=device.scale_up_link, latency_s=1e-6, bandwidth_bytes_per_s=300e9 * factor),
            LinkSpec(name="net", latency_s=5e-6, bandwidth_bytes_per_s=50e9 * factor),
        )[: len(ranks)]
        return (
            MODELS[name]
            .price(Collective(op=op, num_bytes=num_bytes, span=Span(ranks_per_level=ranks, links=links)))
            .time_s
        )

    assert_rising(time_s(1.0))
    assert np.all(time_s(2.0) <= time_s(1.0) * SLACK)


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("field", ["memory_bandwidth_bytes_per_s", "peak"])
def test_a_better_device_is_never_slower(name, field):
    works = [
        Gemm(m=np.geomspace(1, 20_000, 50), n=8192.0, k=4096.0),
        Attention(
            phase="decode", batch=np.geomspace(1, 500, 50), q_len=1.0, kv_len=3000.0,
            num_heads=32.0, num_kv_heads=8.0, head_dim=128.0, v_head_dim=128.0,
        ),
        Attention(
            phase="prefill", batch=1.0, q_len=np.geomspace(1, 30_000, 50), kv_len=30_000.0,
            num_heads=32.0, num_kv_heads=8.0, head_dim=128.0, v_head_dim=128.0,
        ),
        ExpertGemm(
            num_tokens=np.geomspace(1, 20_000, 50), hidden=4096.0, inter=1536.0, top_k=8.0, num_experts=128.0
        ),
    ]  # fmt: skip
    upgraded = better(name, **{field: 1.7})
    for work in works:
        assert np.all(upgraded.price(work).time_s <= MODELS[name].price(work).time_s * SLACK)


@pytest.mark.parametrize("name", DEVICES)
def test_a_replayed_benchmark_is_never_slower_than_serving(name):
    work = Gemm(m=np.geomspace(1, 5000, 40)[:, None], n=np.geomspace(128, 20_000, 40)[None, :], k=4096.0)
    assert np.all(REPLAY[name].price(work).time_s <= MODELS[name].price(work).time_s * SLACK + 1e-12)
