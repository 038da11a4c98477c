"""Low-communication outer loops: workers train alone for H steps, then exchange what they have learnt.

A worker is a site. Every `steps` local steps it sends the difference between the last common parameters and
its own (the outer gradient) in `bits` per value, all workers average it, and an outer optimizer moves the
common parameters. With `fragments` the model goes out in that many parts, one every steps / fragments steps;
with `overlap_steps` a part is on its way for that many steps of compute before anybody waits for it.

Sources: DiLoCo (Douillard 2023, arXiv 2311.08105, algorithm 1); Streaming DiLoCo (Douillard 2025, arXiv
2501.18512, sections 2.2 to 2.4).
"""

from __future__ import annotations

from dataclasses import dataclass

_BITS_PER_BYTE = 8.0
OUTER_STATE_BYTES = 8.0
"""Common parameters and Nesterov momentum in 32 bit, bytes per parameter (DiLoCo, algorithm 1)."""
OUTER_PASS_BYTES = 36.0
"""Bytes of memory that an outer step moves per parameter: parameters, common ones and momentum are read and
written (24), the difference is written and its mean read (8), packed and unpacked (4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OuterLoop:
    """One setting of an outer loop.

    Parameters
    ----------
    steps
        Local steps between two exchanges of the same parameter (H).
    bits
        Bits per value of the outer gradient on the wire.
    fragments
        Parts in which the model is exchanged (P).
    overlap_steps
        Local steps during which an exchange may go on (tau).
    """

    steps: int
    bits: int = 32
    fragments: int = 1
    overlap_steps: int = 0

    @property
    def is_possible(self) -> bool:
        """Whether every part has arrived before the next one leaves: P tau <= H, at most a part per step."""
        return self.fragments * max(self.overlap_steps, 1) <= self.steps

    def fragment_bytes(self, num_params: float) -> float:
        """Return what one part is on the wire, bytes."""
        return num_params * self.bits / _BITS_PER_BYTE / self.fragments

    def exposed_s(self, step_s: float, exchange_s: float) -> float:
        """Return what waiting for exchanges adds to a step in the mean, seconds.

        P max(0, C - tau T) / H for parts that take C each and local steps of T.
        """
        return self.fragments * max(0.0, exchange_s - self.overlap_steps * step_s) / self.steps

    def mean_step_s(self, step_s: float, exchange_s: float, update_s: float = 0.0) -> float:
        """Return the mean time of a step: T + (P max(0, C - tau T) + U) / H, seconds.

        `update_s` is the outer optimizer over all parameters.
        """
        return step_s + self.exposed_s(step_s, exchange_s) + update_s / self.steps

    def utilisation(self, step_s: float, exchange_s: float) -> float:
        """Return the share of the time in which workers compute."""
        return step_s / self.mean_step_s(step_s, exchange_s)

    def less_traffic(self, gradient_bytes: float = 4.0) -> float:
        """Return how many times less is sent than with a reduction of gradients in every step."""
        return self.steps * gradient_bytes * _BITS_PER_BYTE / self.bits


def ring_all_reduce_s(slowest_pass_s: float, num_sites: int) -> float:
    """Return an all-reduce over a ring of sites, seconds: 2 (n - 1) passes of an n-th over the slowest link.

    Source: ring bound, Patarasuk and Yuan 2009 (doi 10.1016/j.jpdc.2008.09.002).
    """
    return 2.0 * (num_sites - 1) * slowest_pass_s
