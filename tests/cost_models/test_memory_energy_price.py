"""Bytes, watts and dollars against values worked out by hand."""

import math

import numpy as np
import pytest

from cost_models.cost import Cost
from cost_models.energy import device_power_w, energy_j
from cost_models.memory.kv_cache import blocks_of, capacity_tokens, kv_bytes_per_token, sequence_bytes
from cost_models.memory.weights import weight_bytes
from cost_models.memory.workspace import StepShape, activation_bytes, communication_bytes, graph_bytes
from cost_models.price import energy_usd_per_hour, usd_per_million_tokens
from hardware_profiles.loader import load_software, profile_names
from hardware_profiles.provenance import Provenance


@pytest.mark.parametrize(
    ("fmt", "bits"),
    [
        ("bf16", 16), ("fp8", 8), ("fp8_block", 8 + 1 / 512), ("mxfp4", 4.25), ("nvfp4", 4.5), ("int8", 8),
        ("w4a16", 4.15625), ("awq", 4.15625),
    ],
)  # fmt: skip
def test_weights_count_their_scales(fmt, bits):
    assert weight_bytes(1e9, fmt) == pytest.approx(1e9 * bits / 8)


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="known: bf16"):
        weight_bytes(1.0, "float3")


def test_kv_cache_comes_in_blocks():
    # Llama-3.1-70B, one layer: 8 heads * 256 * 2 bytes
    per_token = kv_bytes_per_token(8, 128, 128, "bf16")
    assert per_token == 4096
    assert kv_bytes_per_token(1, 576, 0, "fp8") == 576
    assert blocks_of(17, 16) == 2
    assert sequence_bytes(17, per_token, 16) == 32 * 4096
    assert capacity_tokens(100 * 4096.0, per_token, 16) == 96
    assert capacity_tokens(-1.0, per_token, 16) == 0


def test_activations_are_those_of_the_widest_moment():
    shape = StepShape(residual=100.0, attention=150.0, mlp=400.0, vocabulary=1000.0)
    # layer: 10 tokens * (200 + 600) * 2; head: 10 * 200 * 2 + 3 * 1000 * 6
    assert activation_bytes(shape, 10.0, 3.0) == max(16_000.0, 22_000.0)
    assert activation_bytes(shape, 1000.0, 3.0) == 1_600_000.0


def test_communication_and_graphs():
    assert communication_bytes(0) == 0.0
    assert communication_bytes(2, custom_all_reduce=False) == 2 * 16 * 2 * 4 * 1024 * 1024
    assert graph_bytes(10) == 240 * 1024 * 1024


def test_power_grows_from_idle_to_the_limit(device_of):
    device = device_of(tdp_w=700, idle_w=100)
    assert device_power_w(device, 0.0, 0.0) == 100.0
    assert device_power_w(device, 1.0, 1.0) == 700.0
    assert device_power_w(device, 0.0, 1.0) == pytest.approx(100 + 600 * 0.6)
    assert device_power_w(device, np.array([0.1, 0.5]), 0.2).shape == (2,)
    assert energy_j(500.0, 2.0) == 1000.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        device_power_w(device, 1.1, 0.0)


def test_prices():
    assert usd_per_million_tokens(3.6, 1000.0) == pytest.approx(1.0)
    assert usd_per_million_tokens(3.6, 0.0) == math.inf
    assert energy_usd_per_hour(10_000.0, 0.1, facility_factor=1.2) == pytest.approx(1.2)
    with pytest.raises(ValueError, match="not negative"):
        usd_per_million_tokens(-1.0, 1.0)
    with pytest.raises(ValueError, match="at least its load"):
        energy_usd_per_hour(1.0, 1.0, facility_factor=0.5)


def test_intervals_are_log_normal_and_grow_with_their_level():
    # variance t^2 (e^(0.2^2) - 1) is that of a sigma of 0.2 in the log; 90 % lies within 1.6449 sigma
    cost = Cost(
        time_s=np.array(2.0),
        variance_s2=np.array(4.0 * math.expm1(0.04)),
        provenance=Provenance.CALIBRATED,
    )
    low, high = cost.interval_s()
    assert cost.sigma_log == pytest.approx(0.2)
    assert high == pytest.approx(2.0 * math.exp(1.6448536 * 0.2))
    assert low * high == pytest.approx(4.0)
    assert cost.interval_s(0.5)[1] < high
    with pytest.raises(ValueError, match="between 0 and 1"):
        cost.interval_s(1.0)


def test_sums_widen_and_take_the_worst_provenance():
    one = Cost(time_s=np.array(1.0), variance_s2=np.array(0.01), provenance=Provenance.CALIBRATED)
    two = Cost(time_s=np.array(2.0), variance_s2=np.array(0.03), provenance=Provenance.ASSUMED)
    total = Cost.total([one, two])
    assert (total.time_s, total.variance_s2, total.provenance) == (3.0, 0.04, Provenance.ASSUMED)
    assert one.times(3.0).variance_s2 == pytest.approx(0.09)
    assert Cost.zero().interval_s() == (0.0, 0.0)


@pytest.mark.parametrize("name", profile_names("software"))
def test_software_profiles_are_plausible_and_name_their_kernels(name):
    profile = load_software(name)
    assert profile.kernel_software
    assert 0.0 <= profile.per_step_s.value < 0.05
    assert 0.5 < profile.memory_fraction.value <= 1.0
    assert 0.0 <= profile.overlap.value <= 1.0
