"""Machines as Calculon describes them: rates with steps of efficiency by the size of an operation.

The figures are those of its `systems/a100_80g.json` and `systems/a100_80e.json`; models are those of its
`models` folder (calculon-ai/calculon, Apache-2.0, commit caa4b11).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GIB = 1024.0**3
ELEMENT_BYTES = 2.0
"""All cases are in 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A rate per second whose efficiency grows in steps with the amount of one operation."""

    peak_per_s: float
    steps: tuple[tuple[float, float], ...]
    """(least amount, efficiency), ascending; the first starts at 0."""

    def time_s(self, amount: Floats) -> Floats:
        """Return the seconds that one operation of each amount takes."""
        starts = np.array([start for start, _ in self.steps])
        efficiency = np.array([share for _, share in self.steps])
        at = np.searchsorted(starts, amount, side="right") - 1
        return amount / (self.peak_per_s * efficiency[at])


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One tier: collectives move `scale` x (1 + `offset` / ranks) of their bytes, and start with a latency.

    `slowed` is the share of the processor that a transfer takes; where `filled`, groups divide `size`.
    """

    bytes_per_s: float
    latency_s: float
    size: int
    scale: dict[str, float]
    offset: float
    filled: bool
    slowed: float

    def time_s(self, op: str, num_bytes: Floats, ranks: Floats) -> Floats:
        """Return the seconds of one collective among `ranks`."""
        moved = num_bytes * self.scale[op]
        if op != "p2p":
            moved = moved * (1.0 + self.offset / ranks)
        return self.latency_s + moved / self.bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A device with the networks around it; arithmetic and memory traffic add up."""

    matrix: Rate
    vector: Rate
    memory: Rate
    memory_bytes: float
    host: Rate
    host_bytes: float
    networks: tuple[Network, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A decoder without vocabulary, which is all that Calculon counts."""

    hidden: int
    feedforward: int
    seq: int
    heads: int
    head_size: int
    blocks: int


def _a100(*, matrix: float, memory: tuple[float, float, float], capacity_bytes: float) -> Machine:
    mb, gflops = 1e6, 1e9
    low, middle, high = memory
    return Machine(
        matrix=Rate(
            peak_per_s=312e12,
            steps=((0.0, 0.1), (gflops, 0.6), (16 * gflops, 0.9), (128 * gflops, matrix)),
        ),
        vector=Rate(peak_per_s=78e12, steps=((0.0, 0.1), (gflops, 0.5), (16 * gflops, 0.95))),
        memory=Rate(peak_per_s=2048e9, steps=((0.0, 0.3), (mb, low), (10 * mb, middle), (100 * mb, high))),
        memory_bytes=capacity_bytes,
        host=Rate(peak_per_s=32e9, steps=((0.0, 0.3), (mb, 0.7), (10 * mb, 0.9), (100 * mb, 0.95))),
        host_bytes=512 * GIB,
        networks=(
            Network(
                bytes_per_s=300e9 * 0.65,
                latency_s=1e-5,
                size=8,
                scale={"p2p": 1.0, "reduce_scatter": 1.5, "all_gather": 1.5, "all_reduce": 2.0},
                offset=-1.0,
                filled=True,
                slowed=0.15,
            ),
            Network(
                bytes_per_s=25e9 * 0.9,
                latency_s=2e-5,
                size=65536,
                scale={"p2p": 1.0, "reduce_scatter": 1.0, "all_gather": 1.0, "all_reduce": 1.0},
                offset=0.0,
                filled=False,
                slowed=0.02,
            ),
        ),
    )


A100_80G = _a100(matrix=0.95, memory=(0.6, 0.75, 0.9), capacity_bytes=80 * GIB)
A100_ENDLESS = _a100(matrix=0.99, memory=(0.7, 0.9, 0.95), capacity_bytes=80e9 * GIB)
"""The machine of its memory figures: nothing is ever too large."""

MODELS = {
    "22B": Model(hidden=6144, feedforward=24576, seq=2048, heads=64, head_size=96, blocks=48),
    "175B": Model(hidden=12288, feedforward=49152, seq=2048, heads=96, head_size=128, blocks=96),
    "530B": Model(hidden=20480, feedforward=81920, seq=2048, heads=128, head_size=160, blocks=105),
    "1T": Model(hidden=25600, feedforward=102400, seq=2048, heads=160, head_size=160, blocks=128),
}
