"""A plan without any replica names what is in the way, and a change that was tried."""

from __future__ import annotations

import pytest

from planner import plan


def infeasibility(**spec):
    found = plan(workload={"input_tokens": 1000, "output_tokens": 100}, **spec)
    assert found.status == "infeasible"
    assert found.infeasibility is not None
    return found.infeasibility


def test_too_little_memory_names_the_devices_that_suffice():
    why = infeasibility(model="llama-3.1-70b", cluster="1xh100")
    assert why.binding[0].name == "memory_bytes"
    count = int(why.relaxed["cluster.num_devices"])
    again = plan(
        model="llama-3.1-70b", cluster=f"{count}xh100", workload={"input_tokens": 1000, "output_tokens": 100}
    )
    assert again.status == "optimal"


def test_a_budget_of_devices_is_named_before_more_devices():
    why = infeasibility(
        model="llama-3.1-70b", cluster="8xh100", budget={"devices": 1}, objective="max_throughput"
    )
    assert why.relaxed == {"budget.num_devices": 2.0}


def test_a_degree_that_cannot_be_fixed_names_those_that_can():
    why = infeasibility(model="llama-3.1-70b", cluster="8xh100", fix={"tp": 3})
    assert why.binding[0].name == "fix.tp"
    assert "1, 2, 4, 8" in why.binding[0].message
    assert why.relaxed == {"fix.tp": 2.0}


@pytest.mark.parametrize(("cluster", "watts"), [("1xh100", 1275.0), ("8xh100", 10200.0)])
def test_a_part_of_a_server_draws_its_share(cluster, watts):
    found = plan(
        model="llama-3.1-8b",
        cluster=cluster,
        fix={"tp": 1},
        workload={"input_tokens": 1000, "output_tokens": 100},
    )
    assert found.predicted["power_w"].value == pytest.approx(watts)
