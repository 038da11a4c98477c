"""Waiting times against exact queues."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cost_models.serving.queueing import normal_quantile, waiting_time


def wait(rate: float, service: float, scv: float, servers: int, arrivals: float = 1.0) -> float:
    one = np.array([1.0])
    return float(waiting_time(rate * one, service * one, scv * one, servers * one, arrivals).mean_s[0])


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9, 0.99])
def test_one_server_is_pollaczek_khinchine(rho: float) -> None:
    assert wait(rho, 1.0, 1.0, 1) == pytest.approx(rho / (1 - rho))
    assert wait(rho, 1.0, 0.0, 1) == pytest.approx(rho / (1 - rho) / 2)


@pytest.mark.parametrize(("servers", "rho"), [(2, 0.7), (4, 0.8), (8, 0.9), (16, 0.95)])
def test_many_servers_are_close_to_erlang_c(servers: int, rho: float) -> None:
    load = rho * servers
    top = load**servers / math.factorial(servers) / (1 - rho)
    erlang = top / (sum(load**n / math.factorial(n) for n in range(servers)) + top)
    assert wait(rho, 1.0, 1.0, servers) == pytest.approx(erlang / (servers * (1 - rho)), rel=0.08)


def test_tail_of_one_exponential_server_is_exact() -> None:
    one = np.array([1.0])
    waiting = waiting_time(0.8 * one, one, one, one)
    assert float(waiting.exceeds(np.array([3.0]))[0]) == pytest.approx(0.8 * math.exp(-0.2 * 3.0))
    assert float(waiting.exceeds(np.array([-1.0]))[0]) == 1.0


def test_a_full_queue_waits_forever_and_one_customer_never() -> None:
    one = np.array([1.0])
    assert np.isinf(waiting_time(1.2 * one, one, one, one).mean_s[0])
    alone = waiting_time(0.9 * one, one, one, one, population=one)
    assert alone.mean_s[0] == 0.0


def test_bursts_wait_longer() -> None:
    assert wait(0.8, 1.0, 0.0, 2, arrivals=4.0) > wait(0.8, 1.0, 0.0, 2) > 0.0


def test_quantiles() -> None:
    assert normal_quantile(97.5) == pytest.approx(1.959964, rel=1e-6)
    assert normal_quantile(0.0) == 0.0
