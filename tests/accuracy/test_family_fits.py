"""Curves that devices of a family share per engine, and kernels that one table lacks."""

from __future__ import annotations

import numpy as np
import pytest

from cost_models.calibration.forms import Form
from cost_models.calibration.solver import Constant
from hardware_profiles.calibration import family_curves
from planner.accuracy.fitting import Sample, fit_curves, fit_family, outdone_kernels, version_of

SIZES = np.geomspace(1.0, 100.0, 20)


def sample(slope: float, software: str = "trtllm-1.3", kernel: str = "") -> Sample:
    form = Form(
        name="gemm",
        operation="moe",
        fmt="nvfp4",
        spec={"slope": Constant(start=1.0, low=1e-3, high=1e3)},
        predict=lambda constants: constants["slope"] * SIZES,
    )
    return Sample(
        form=form,
        measured_s=slope * SIZES,
        software=software,
        engine=software.split("-", maxsplit=1)[0],
        kernel=kernel,
        held_out=np.arange(SIZES.size) % 3 == 0,
    )


def test_a_kernel_that_siblings_leave_for_a_quicker_one_does_not_stand_for_its_engine() -> None:
    both = [sample(1.0, kernel="quick"), sample(3.0, kernel="slow")]
    by_device = {"b200": both, "gb300": [sample(3.0, kernel="slow")], "b60": [sample(9.0, kernel="own")]}
    outdone = outdone_kernels(by_device)
    assert outdone["gb300"] == {("moe", "nvfp4", "trtllm", "slow")}
    assert not outdone["b200"]
    assert not outdone["b60"]
    names = {c.software for c in fit_curves(by_device["gb300"], "test", outdone["gb300"])}
    assert names == {"trtllm-1.3:slow"}
    assert "trtllm-1.3" in {c.software for c in fit_curves(both, "test", outdone["b200"])}


def test_a_family_has_a_curve_per_engine_of_its_newest_version_and_usual_kernel() -> None:
    by_device = {
        "b200": [sample(1.0, kernel="quick"), sample(3.0, kernel="slow")],
        "gb200": [sample(1.2, kernel="quick")],
        "gb300": [sample(3.0, kernel="slow")],
        "b300": [sample(8.0, "sglang-0.5.9"), sample(2.0, "sglang-0.5.10")],
        "b60": [sample(2.2, "sglang-0.5.10")],
    }
    curves = {c.software: c for c in fit_family(by_device, "test", engines=True)}
    assert set(curves) == {"pooled", "trtllm-1.3", "sglang-0.5.10"}
    assert curves["trtllm-1.3"].constants["slope"] == pytest.approx(1.1, rel=0.1)
    assert curves["sglang-0.5.10"].constants["slope"] == pytest.approx(2.1, rel=0.1)
    assert curves["trtllm-1.3"].held_out_mape == pytest.approx(18.3, abs=3.0)
    assert "each device in turn" in curves["trtllm-1.3"].fitted
    assert {c.software for c in fit_family(by_device, "test")} == {"pooled"}


def test_versions_are_compared_by_their_numbers() -> None:
    assert version_of("sglang-0.5.10") > version_of("sglang-0.5.9")
    assert version_of("trtllm-1.3.0rc20") > version_of("trtllm-1.3.0rc9")


@pytest.mark.parametrize("family", ["hopper", "blackwell"])
def test_engines_of_a_shipped_family_err_less_on_new_devices_than_the_pooled_curve(family: str) -> None:
    curves = family_curves(family)
    pooled = {(c.operation, c.fmt): c.held_out_mape for c in curves if c.software == "pooled"}
    gains = [
        pooled[c.operation, c.fmt] - c.held_out_mape
        for c in curves
        if c.software != "pooled" and c.operation.startswith(("attention", "mla", "gemm"))
    ]
    assert len(gains) > 20
    assert np.median(gains) > 0.0
