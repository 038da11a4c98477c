"""Waiting for one of several equal servers, in the mean."""

from __future__ import annotations


def erlang_c(num_servers: int, load: float) -> float:
    """Return the probability that an arrival waits in M/M/c at `load` (busy share per server, below 1).

    By the recursion B(0) = 1, B(k) = a B(k-1) / (k + a B(k-1)) of Erlang's loss formula with a = c load,
    and C = B(c) / (1 - load (1 - B(c))).
    """
    offered = num_servers * load
    lost = 1.0
    for k in range(1, num_servers + 1):
        lost = offered * lost / (k + offered * lost)
    return lost / (1.0 - load * (1.0 - lost))


def mean_wait_s(num_servers: int, load: float, longest_s: float, spread: float, batch: int) -> float:
    """Return an upper estimate of the mean wait, seconds, at `num_servers` servers that are busy for `load`.

    Parameters
    ----------
    num_servers
        Servers behind one queue.
    load
        Share of their time that they work, below 1.
    longest_s
        The longest mean service time of any sort of arrival, seconds.
    spread
        Squared coefficient of variation of a service time, the largest of any sort.
    batch
        How many arrive at once.

    The wait of M/G/c after Lee and Longton (that of M/M/c times half of 1 + cv^2), with the longest sort
    in place of the mix: E[S^2] / E[S] is at most S_max (1 + cv^2). Batches of b add (b - 1) / 2 services, as
    in M^X/G/1 without the own batch, which the schedule of a run already has.
    """
    waits = erlang_c(num_servers, load)
    return waits / (num_servers * (1.0 - load)) * longest_s * (spread + batch) / 2.0
