"""The torch timer against a stand-in for torch: what it runs and how it times, without the library."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from planner.accuracy.torch_timer import TorchTimer
from planner.errors import InputError


class Array:
    def __init__(self, shape):
        self.shape = shape

    def copy_(self, other):
        assert self.shape == other.shape


def fake_torch(calls):
    def device(name):
        if name == "quantum":
            raise RuntimeError("Expected one of cpu, cuda device type\nmore text")
        return SimpleNamespace(type=name)

    def linear(x, weight):
        calls.append(("linear", x.shape, weight.shape))

    def attend(query, key, value, *, is_causal, enable_gqa):
        assert enable_gqa
        calls.append(("attend", query.shape, key.shape, value.shape, is_causal))

    functional = SimpleNamespace(linear=linear, scaled_dot_product_attention=attend)
    return SimpleNamespace(
        device=device,
        zeros=lambda *shape, **_: Array(shape),
        randn=lambda *shape, **_: Array(shape),
        empty=lambda *shape, **_: Array(shape),
        empty_like=lambda other: Array(other.shape),
        nn=SimpleNamespace(functional=functional),
        uint8=np.uint8,
        bfloat16="bfloat16",
        float32="float32",
    )


@pytest.fixture
def calls(monkeypatch):
    found = []
    monkeypatch.setitem(sys.modules, "torch", fake_torch(found))
    return found


def test_a_cpu_is_timed(calls):
    timer = TorchTimer.on("cpu")
    assert (timer.name, timer.formats) == ("cpu", ("bf16", "fp32"))
    assert timer.gemm_s(3, 5, 7, "fp32") >= 0.0
    assert set(calls) == {("linear", (3, 7), (5, 7))}
    assert timer.copy_s(1000) >= 0.0


def test_prefill_is_causal_and_decode_sees_everything(calls):
    timer = TorchTimer.on("cpu")
    sizes = {"batch": 2, "q_len": 4, "kv_len": 4, "heads": 8, "kv_heads": 2, "head_dim": 16}
    timer.attention_s(sizes, "bf16")
    assert set(calls) == {("attend", (2, 8, 4, 16), (2, 2, 4, 16), (2, 2, 4, 16), True)}
    calls.clear()
    timer.attention_s(sizes | {"q_len": 1, "kv_len": 9}, "bf16")
    assert set(calls) == {("attend", (2, 8, 1, 16), (2, 2, 9, 16), (2, 2, 9, 16), False)}


def test_an_unknown_torch_device_is_refused_in_one_line(calls):
    with pytest.raises(InputError, match="no such device") as caught:
        TorchTimer.on("quantum")
    assert "more text" not in str(caught.value)
