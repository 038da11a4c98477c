"""Number formats: stored bits with scales, the arithmetic they run on, and what replaces them.

A format is storable everywhere; it can only be multiplied where the device has a peak for its
arithmetic. `executed_format` names what an engine really runs instead, so that a fallback is a
decision of the caller and never silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class UnsupportedFormatError(ValueError):
    """The device has no arithmetic for a format; `fallback` is what an engine would run instead."""

    def __init__(self, fmt: str, device: str, fallback: str | None) -> None:
        self.fmt = fmt
        self.fallback = fallback
        hint = f"; engines run it weight-only as {fallback}" if fallback else ""
        super().__init__(f"{device} has no peak for format {fmt!r}{hint}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberFormat:
    """One weight format with the activations that it is multiplied by.

    Parameters
    ----------
    weight_bits
        Bits stored per weight, scales and zero points included.
    activation_bits
        Bits per activation element as the matrix unit reads it, scales included.
    peaks
        Keys of a device's peak table that can run it, in order of preference.
    fallback
        Format with the same stored weights that runs where no such peak exists; "" for none.
    quantises
        Whether activations are quantised before the product.
    source
        Where the bits come from.
    """

    name: str
    weight_bits: float
    activation_bits: float
    peaks: tuple[str, ...]
    fallback: str = ""
    quantises: bool = False
    source: str

    @property
    def weight_bytes(self) -> float:
        """Bytes stored per weight, scales included."""
        return self.weight_bits / 8.0

    @property
    def activation_bytes(self) -> float:
        """Bytes per activation element."""
        return self.activation_bits / 8.0


_OCP = "OCP Microscaling Formats v1.0: 32 elements share an 8-bit scale"
_HALF = ("bf16", "fp16")
_FP4 = ("nvfp4", "fp4", "mxfp4")

_ALL = (
    NumberFormat(name="bf16", weight_bits=16, activation_bits=16, peaks=_HALF, source="IEEE-like half word"),
    NumberFormat(
        name="fp16", weight_bits=16, activation_bits=16, peaks=("fp16", "bf16"), source="IEEE 754 binary16"
    ),
    NumberFormat(
        name="fp32", weight_bits=32, activation_bits=32, peaks=("fp32", "tf32"), source="IEEE 754 binary32"
    ),
    NumberFormat(
        name="fp8",
        weight_bits=8,
        activation_bits=8,
        peaks=("fp8",),
        fallback="w8a16",
        quantises=True,
        source="E4M3 with a scale per tensor or channel, under 0.01 bit per weight",
    ),
    NumberFormat(
        name="fp8_block",
        weight_bits=8 + 32 / (128 * 128),
        activation_bits=8 + 32 / 128,
        peaks=("fp8",),
        fallback="w8a16",
        quantises=True,
        source="DeepSeek-V3 report: fp32 scale per 128x128 weight block and 1x128 activation group",
    ),
    NumberFormat(
        name="int8",
        weight_bits=8,
        activation_bits=8,
        peaks=("int8",),
        fallback="w8a16",
        quantises=True,
        source="W8A8, a scale per channel, under 0.01 bit per weight",
    ),
    NumberFormat(
        name="w8a16",
        weight_bits=8,
        activation_bits=16,
        peaks=_HALF,
        source="weight-only 8 bit (integer or E4M3), a scale per channel",
    ),
    NumberFormat(
        name="w4a16",
        weight_bits=4 + 16 / 128 + 4 / 128,
        activation_bits=16,
        peaks=_HALF,
        source="AWQ / GPTQ, groups of 128 with fp16 scale and 4-bit zero point",
    ),
    NumberFormat(name="mxfp4", weight_bits=4.25, activation_bits=16, peaks=_HALF, source=_OCP),
    NumberFormat(
        name="mxfp4_mxfp8",
        weight_bits=4.25,
        activation_bits=8.25,
        peaks=("fp8",),
        fallback="mxfp4",
        quantises=True,
        source=_OCP,
    ),
    NumberFormat(
        name="nvfp4",
        weight_bits=4.5,
        activation_bits=4.5,
        peaks=_FP4,
        fallback="w4a16",
        quantises=True,
        source="NVIDIA NVFP4: 16 elements share an E4M3 scale",
    ),
)
FORMATS: Mapping[str, NumberFormat] = {fmt.name: fmt for fmt in _ALL}

ALIASES: Mapping[str, str] = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "e4m3": "fp8",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
    "fp8_static": "fp8",
    "sq": "int8",
    "w8a8": "int8",
    "int8_wo": "w8a16",
    "int4_wo": "w4a16",
    "int4": "w4a16",
    "awq": "w4a16",
    "gptq": "w4a16",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4_mxfp8",
    "fp4": "nvfp4",
}


def number_format(name: str) -> NumberFormat:
    """Return the format called `name` or one of its aliases.

    Raises
    ------
    ValueError
        If no format has that name.
    """
    lowered = name.strip().lower()
    found = FORMATS.get(ALIASES.get(lowered, lowered))
    if found is None:
        raise ValueError(f"unknown number format {name!r}; known: {', '.join(sorted(FORMATS))}")
    return found


def peak_key(peaks: Mapping[str, float], fmt: NumberFormat) -> str | None:
    """Return the key of the device peak that runs `fmt`, or None."""
    return next((key for key in fmt.peaks if key in peaks), None)


def executed_format(peaks: Mapping[str, float], name: str) -> str | None:
    """Return the format that an engine executes for weights stored as `name`; None if it cannot.

    The answer differs from `name` where the device lacks the arithmetic: FP8 weights on A100 run
    weight-only as w8a16. The caller says so in its diagnostics.
    """
    seen: NumberFormat = number_format(name)
    while peak_key(peaks, seen) is None:
        if not seen.fallback:
            return None
        seen = FORMATS[seen.fallback]
    return seen.name
