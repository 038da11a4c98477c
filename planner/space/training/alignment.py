"""What matrix products lose when their rows do not start on the boundaries that tensor cores like."""

from __future__ import annotations

_EFFICIENCY = {64: 1.0, 32: 0.94, 16: 0.82, 8: 0.7, 4: 0.35, 2: 0.25, 1: 0.2}
"""Relative efficiency by the largest power of two that divides a row of 16-bit elements.

Full at 128 bytes, tensor cores only from 16 bytes on without a penalty on Volta and Turing. Source: NVIDIA,
Matrix Multiplication Background User's Guide (2023), section 2.2, for the boundaries; the steps between are
read off Anthony et al. 2024 (arXiv 2401.14489), whose badly aligned models train 20 to 39 % slower.
"""


def alignment(*dims: float) -> float:
    """Return the relative efficiency of a product whose rows have these lengths (elements)."""
    return min(_EFFICIENCY[_power_of_two(dim)] for dim in dims)


def _power_of_two(dim: float) -> int:
    whole = int(dim)
    if whole != dim or whole < 1:
        return 1
    return min(64, whole & -whole)
