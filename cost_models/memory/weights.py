"""Bytes of weights in a format, scales included."""

from __future__ import annotations

from cost_models.cost import FloatArray
from cost_models.formats import number_format


def weight_bytes(num_elements: float | FloatArray, fmt: str) -> float | FloatArray:
    """Return the bytes of `num_elements` weights stored as `fmt`.

    Source: bits per weight of the format, with scales and zero points (`cost_models.formats`).
    """
    return num_elements * number_format(fmt).weight_bytes
