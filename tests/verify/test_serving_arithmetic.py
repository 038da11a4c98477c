"""The checker's own arithmetic against numbers worked out by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from math import isclose
from pathlib import Path

import pytest

from cost_models.work import Span
from planner.ir.workload import Lengths, ServingWorkload, Slo
from planner.verify.placing import device_of, position
from planner.verify.serving.load import Requests, waiting
from planner.verify.serving.shards import sequence_bytes, stage_weight_bytes
from planner.verify.serving.spans import span_at

sys.path.insert(0, str(Path(__file__).parents[1]))
from mutants.cases import group, plain_engine, serving_pool, serving_problem


def test_weights_of_llama_70b_on_eight_ranks() -> None:
    # Per layer: q 8192x8192, k and v 8192x1024, o 8192x8192, three maps 8192x28672, two norms 8192.
    problem = serving_problem()
    pool = serving_pool(problem, strategy={"tp": 8})
    maps = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672) / 8
    tables = 2 * 128256 * 8192 / 8
    norms = (80 * 2 + 1) * 8192
    assert stage_weight_bytes(problem.payload.model, pool, 0) == 2 * (maps + tables + norms)


def test_pipeline_stages_share_the_weights_and_the_ends_hold_the_tables() -> None:
    problem = serving_problem()
    whole = stage_weight_bytes(problem.payload.model, serving_pool(problem, strategy={"tp": 4}), 0)
    split = serving_pool(problem, strategy={"tp": 4, "pp": 2})
    halves = [stage_weight_bytes(problem.payload.model, split, stage) for stage in range(2)]
    assert sum(halves) == whole


@pytest.mark.parametrize(("tp", "heads"), [(1, 8), (8, 1), (16, 1)])
def test_cache_of_a_token_is_split_by_kv_heads_and_then_copied(tp: int, heads: int) -> None:
    problem = serving_problem()
    pool = serving_pool(problem, strategy={"tp": tp})
    assert sequence_bytes(problem.payload.model, pool, 0, 100) == 100 * 80 * heads * 2 * 128 * 2


def test_latent_cache_is_whole_on_every_rank_and_split_by_decode_context() -> None:
    # DeepSeek-V3 keeps 512 + 64 elements per token and layer, in 61 layers.
    problem = serving_problem("deepseek-v3")
    pool = serving_pool(problem, strategy={"tp": 8, "ep": 8})
    whole = 100 * 61 * 576 * 2
    assert sequence_bytes(problem.payload.model, pool, 0, 100) == whole
    split = serving_pool(problem, strategy={"tp": 8, "ep": 8, "decode_cp": 4})
    assert sequence_bytes(problem.payload.model, split, 0, 100) == whole / 4


@pytest.mark.parametrize(
    ("positions", "ranks"),
    [
        ([0, 1, 2, 3], (4,)),
        ([0, 1, 8, 9], (2, 2)),
        (list(range(16)), (8, 2)),
        ([0, 8], (1, 2)),
        ([6, 7, 8], (2, 2)),
    ],
)
def test_spans_follow_the_placement(positions: list[int], ranks: tuple[int, ...]) -> None:
    span: Span = span_at(positions, group(2))
    assert span.ranks_per_level == ranks


def test_positions_follow_the_names_of_the_nodes() -> None:
    named = group(2, node_names=("beta", "alpha"))
    at = {text: position(d, named) for text in ("beta/3", "alpha/0") if (d := device_of(text))}
    assert at == {"beta/3": 3, "alpha/0": 8}
    unnamed = group(20, node_names=())
    device = device_of("rack/h100-12/5")
    assert device is not None
    assert position(device, unnamed) == 12 * 8 + 5
    assert device_of("h100-12") is None


def test_requests_are_weighted_by_their_stay() -> None:
    lengths = Lengths(samples=((100, 1, 0.5), (200, 11, 0.5)))
    requests = Requests.of(ServingWorkload(lengths=lengths, slo=Slo(), prefix_hit_share=0.5))
    assert requests.mean_steps == 5.0
    assert requests.mean_new == 75.0
    assert requests.context == 200 + 11 / 2  # only the second kind decodes: 10 steps after 200 tokens


def test_many_samples_keep_their_means_in_few_bins() -> None:
    samples = tuple((100 + 7 * i, 1 + i % 13, 1 / 300) for i in range(300))
    requests = Requests.of(ServingWorkload(lengths=Lengths(samples=samples), slo=Slo()))
    assert len(requests.bins) <= 7
    assert isclose(sum(b.share for b in requests.bins), 1.0)
    assert isclose(sum(b.share * b.tokens for b in requests.bins), sum(i * w for i, _, w in samples))


def test_waiting_is_exact_for_one_exponential_server() -> None:
    # M/M/1 at load 0.8 with mean service 1 s waits 4 s; exponential service has a variation of 1.
    spread = [(0.5, 1.0 - 1e-9), (0.5, 1.0 + 1e-9)]
    deterministic = waiting(0.8, spread, 1, 1.0)[1]
    assert isclose(deterministic, 2.0, rel_tol=1e-6)  # M/D/1 waits half as long as M/M/1
    two = [(0.5, 0.0), (0.5, 2.0)]  # variation 1
    assert isclose(waiting(0.8, two, 1, 1.0)[1], 4.0)
    assert waiting(1.0, two, 1, 1.0)[0] == 1.0


def test_rates_and_latencies_move_as_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    from mutants.test_structure import dense

    from planner.verify.rule import Case
    from planner.verify.serving.load import Limits
    from planner.verify.serving.view import pool_views

    monkeypatch.setattr("planner.verify.serving.view.load_software", lambda _: plain_engine())
    plan, problem = dense()
    (view,) = pool_views(Case(plan=plan, problem=problem))
    states = [view.load.at_rate(rate) for rate in (0.5, 1.0, 2.0, 4.0)]
    found = [s for s in states if s is not None]
    assert len(found) == 4
    assert all(a.tpot_s < b.tpot_s and a.ttft_s < b.ttft_s for a, b in pairwise(found))
    assert view.load.at_rate(1e6) is None
    loose = view.load.highest(Limits(tpot_s=0.1))
    tight = view.load.highest(Limits(tpot_s=0.04))
    assert 0.0 < tight < loose
    assert view.load.highest(Limits(tpot_s=1e-6)) == 0.0
    at_p99 = replace(Limits(tpot_s=0.04), percentile=99.0)
    assert view.load.highest(at_p99) < tight
