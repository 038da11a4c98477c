"""Devices with round data-sheet numbers, so that expected times can be worked out by hand."""

import pytest

from hardware_profiles.schema import DeviceProfile


def make_device(name="plain", **changes):
    facts = {
        "memory_bytes": 80e9,
        "memory_bandwidth_bytes_per_s": 2e12,
        "num_sms": 100,
        "l2_bytes": 40e6,
        "tdp_w": 500,
        "idle_w": 50,
    }
    peaks = {"bf16": 500e12, "fp8": 1000e12}
    peaks = changes.pop("peaks", peaks)
    rest = {key: changes.pop(key) for key in ("family", "curves") if key in changes}
    facts |= changes
    as_fact = lambda value: {"value": value, "source": "test"}  # noqa: E731
    return DeviceProfile.model_validate(
        {
            "name": name,
            "vendor": "test",
            "family": "none",
            **{key: as_fact(value) for key, value in facts.items()},
            "peak_flops_per_s": {key: as_fact(value) for key, value in peaks.items()},
            "scale_up_link": "wire",
            "scale_up_domain": 8,
            "host_link": "host",
            "default_node": "node",
            "sources": {"test": {"title": "test", "url": "none", "date": "2026-01-01"}},
            **rest,
        }
    )


@pytest.fixture
def device_of():
    return make_device
