"""Which curve prices an operation: the engine's own kernel before another engine's on the same device."""

from __future__ import annotations

import pytest

from cost_models.curves import CurveSet, NoCurveError
from hardware_profiles.provenance import Provenance
from hardware_profiles.schema import FittedCurve


def curve(software: str, value: float, error: float = 10.0, fmt: str = "bf16") -> FittedCurve:
    return FittedCurve(
        operation="gemm",
        fmt=fmt,
        form="gemm",
        software=software,
        constants={"value": value},
        num_rows=100,
        held_out_mape=error,
        held_out_p50=error,
        held_out_p90=error,
        bias=0.0,
        source="measured",
        sigma_log=error / 100.0,
    )


OWN = (curve("sglang-0.5.10", 1.0), curve("pooled", 2.0, 5.0), curve("vllm-0.24.0:slow", 3.0))
FAMILY = (curve("pooled", 4.0), curve("sglang-0.5.14", 5.0), curve("vllm-0.24.0", 6.0))


@pytest.mark.parametrize(
    ("software", "value", "provenance"),
    [
        (("sglang-0.5.10",), 1.0, Provenance.CALIBRATED),
        (("sglang-0.5.14",), 5.0, Provenance.ANALYTICAL),
        (("vllm-0.24.0",), 6.0, Provenance.ANALYTICAL),
        (("sglang-0.4",), 1.0, Provenance.CALIBRATED),
        (("trtllm-1.3",), 2.0, Provenance.CALIBRATED),
        ((), 2.0, Provenance.CALIBRATED),
    ],
)
def test_the_engines_kernel_comes_first(
    software: tuple[str, ...], value: float, provenance: Provenance
) -> None:
    chosen = CurveSet(own=OWN, shared=(FAMILY,), software=software).choose("gemm", "bf16")
    assert (chosen.constants["value"], chosen.provenance) == (value, provenance)


def test_a_device_without_curves_takes_its_family_s_and_then_any_format() -> None:
    anything = (curve("pooled", 7.0, fmt="any"),)
    curves = CurveSet(own=(), shared=(FAMILY, anything), software=("sglang-0.5.14",))
    assert curves.choose("gemm", "fp16").constants["value"] == 5.0
    assert curves.choose("gemm", "fp8").constants["value"] == 7.0
    with pytest.raises(NoCurveError):
        curves.choose("moe", "bf16")


def test_the_quickest_of_several_engines_is_told_where_it_was_judged() -> None:
    judged = curve("pooled", 2.0).model_copy(update={"quickest_mape": 9.0, "quickest_sigma_log": 0.2})
    own = (curve("sglang-0.5.10", 1.0), judged, curve("vllm-0.24.0", 3.0))
    curves = CurveSet(own=own, shared=(), software=("trtllm-1.3",))
    assert curves.choose("gemm", "bf16").is_stranger
    found = curves.quickest_of("gemm", "bf16")
    assert found is not None
    assert [chosen.constants["value"] for chosen in found[0]] == [1.0, 3.0]
    assert found[1] == 0.2
    assert not CurveSet(own=own, shared=(), software=("vllm-0.24.0",)).choose("gemm", "bf16").is_stranger
    assert CurveSet(own=OWN, shared=(FAMILY,)).quickest_of("gemm", "bf16") is None
