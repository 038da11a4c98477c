"""Several node groups: limits are kept, pairs share a link, and the time limit holds."""

from __future__ import annotations

import time
from dataclasses import replace

from planner.diagnostics import Diagnostics
from planner.frontend.models import load_model
from planner.search.kinds.serving import search
from planner.search.serving_catalogue import build_catalogue
from planner.search.serving_mix import Aim, Program, solve_mix, uses_of
from planner.search.serving_pools import PoolTables
from planner.search.serving_question import question_of
from tests.serving_cases import cluster, costs, device, group, problem

SMALL = device("small-test", 24e9, 0.8e12, 120e12, 240e12, tdp=300.0)
LARGE = device("large-test", 40e9, 1.6e12, 200e12, None, tdp=400.0)
MIXED = cluster(group(SMALL, 2, per_node=4, price=1.0), group(LARGE, 1, per_node=4, price=1.7))


def case(**more):
    llama = load_model("llama-3.1-8b", diagnostics=Diagnostics())
    return problem(llama, MIXED, isl=1500, osl=120, ttft=1.2, tpot=0.06, max_num_seqs=64, **more)


def tables_of(asked):
    return PoolTables(catalogue=build_catalogue(asked, costs, Diagnostics(), lambda: False))


def test_devices_and_budgets_are_kept():
    asked = case()
    tables, question = tables_of(asked), question_of(asked)
    most = solve_mix(tables, question)
    tight = replace(question, budget=replace(question.budget, usd_per_hour=6.0))
    less = solve_mix(tables, tight)
    assert most is not None
    assert less is not None
    assert all(n <= count for n, count in zip(most.devices, (8, 4), strict=True))
    assert less.devices[0] * 1.0 + less.devices[1] * 1.7 <= 6.0 * (1 + 1e-9)
    assert less.total < most.total
    assert most.proved


def test_contexts_that_another_beats_are_left_out():
    asked = case()
    tables, question = tables_of(asked), question_of(asked)
    free = replace(question, limits=replace(question.limits, ttft_s=float("inf")))
    # without a limit on the first token the link does not matter: one context is enough
    assert len({use.context for use in uses_of(tables, free)} - {None}) == 1
    assert len({use.context for use in uses_of(tables, question)} - {None}) >= 1


def test_a_time_limit_gives_the_best_so_far_with_an_honest_gap():
    asked = case()
    began = time.monotonic()
    found = search(
        replace(asked, options=replace(asked.options, time_limit_s=0.05)), Diagnostics(), costs=costs
    )
    assert time.monotonic() - began < 5.0
    assert found.status in ("feasible", "nothing_found")
    if found.status == "feasible":
        assert found.objective.gap is not None
        assert found.objective.gap > 0.0


def test_a_side_without_its_other_is_left_out():
    asked = case()
    tables, question = tables_of(asked), question_of(asked)
    uses = uses_of(tables, question)
    program = Program(uses=uses, question=question, remaining_s=lambda: 1.0)
    whole = next(use for use in uses if use.context is None)
    prefill = next(use for use in uses if use.role == "prefill")
    decode = next(use for use in uses if use.role == "decode" and use.context == prefill.context)
    aim = Aim(prices=(1.0, 1.0), maximise_total=True)

    def mixed(*chosen):
        return program._mix(tuple((use, use.sizes[0]) for use in chosen), aim, None)

    alone = mixed(whole)
    assert mixed(whole, decode) == alone
    assert mixed(whole, prefill) == alone
    assert len(mixed(whole, prefill, decode).chosen) == 3
