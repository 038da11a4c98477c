"""The replay of packings finds out what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from cost_models.sequences.times import SequenceCosts
from planner.errors import VerificationError
from planner.ir.packing import Group, Microbatch, Packing, PackingProblem
from planner.search.packing import PackingOptions, pack
from planner.simulate.packing_replay import replay_packing

PROBLEM = PackingProblem(
    lengths=(100, 90, 40, 30, 20, 10, 10, 5),
    num_ranks=4,
    largest_degree=4,
    chunked=True,
    costs=SequenceCosts(
        token_s=0.1,
        attention=((0.001, 0), (0.002, 16)),
        exchange_bytes_per_token=1.0,
        near_bytes_per_s=100.0,
        far_bytes_per_s=10.0,
        ranks_per_node=2,
        microbatch_s=0.5,
        rank_tokens=50,
        kv_share=0.1,
    ),
)
GOOD = pack(PROBLEM, PackingOptions())


def test_a_found_packing_passes() -> None:
    assert replay_packing(PROBLEM, GOOD) == pytest.approx(GOOD.time_s)


def _first(change: Callable[[Group], Group]) -> Packing:
    return replace(GOOD, groups=(change(GOOD.groups[0]), *GOOD.groups[1:]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (replace(GOOD, groups=GOOD.groups[1:]), "every sequence once"),
        (replace(GOOD, groups=(*GOOD.groups, GOOD.groups[0])), "every sequence once"),
        (_first(lambda g: replace(g, first_rank=g.first_rank + 1)), "misplaced"),
        (_first(lambda g: replace(g, degree=3)), "misplaced"),
        (_first(lambda g: replace(g, first_rank=4)), "outside"),
        (replace(GOOD, time_s=GOOD.time_s * 0.9), "states"),
        (replace(GOOD, bound_s=GOOD.time_s * 1.1), "bound"),
        (
            replace(
                GOOD,
                groups=(
                    Group(first_rank=0, degree=4, microbatches=(Microbatch(sequences=tuple(range(8))),)),
                ),
            ),
            "do not fit",
        ),
        (
            replace(
                GOOD,
                groups=(
                    Group(
                        first_rank=0,
                        degree=4,
                        microbatches=(Microbatch(sequences=tuple(range(8)), num_chunks=4),),
                    ),
                ),
            ),
            "alone",
        ),
    ],
)
def test_wrong_packings_are_found_out(wrong: Packing, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        replay_packing(PROBLEM, wrong)
