"""The event simulation against closed forms and against small cases derived by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cost_models.agents.calls import CallSpeed
from cost_models.agents.edges import (
    FanIn,
    barrier_e2e_s,
    barrier_ttft_s,
    best_chunk_tokens,
    interrupted_e2e_s,
    items_e2e_s,
    overlap_ttft_s,
    pipeline_share,
    quota_prefill_tokens,
    staircase_ttft_s,
)
from planner.ir.agent_graph import EdgeKind
from planner.simulate.agent_job import Discipline, JobTrace, SimCall, SimEdge, simulate_agent_job


def _shape(n: int, p: float, *, layers: int = 2, d: float = 0.02, e: float = 0.05) -> FanIn:
    speed = CallSpeed(prefill_tokens_per_s=p, decode_s_per_token=d, overhead_s=e)
    return FanIn(
        num_proposers=n,
        prompt_tokens=300,
        proposer_tokens=512,
        aggregator_tokens=512,
        proposer=speed,
        aggregator=speed,
        layers=layers,
    )


def _boundaries(total: int, chunk: int, growth: int = 1) -> tuple[float, ...]:
    found: list[float] = []
    at, size = 0, chunk
    while at < total:
        at = min(total, at + size)
        found.append(float(at))
        size *= growth
    return tuple(found)


def _job(
    shape: FanIn,
    kind: EdgeKind,
    boundaries: tuple[float, ...],
    *,
    cached: bool = False,
    discipline: Discipline = "interrupt",
) -> JobTrace:
    def call(name: str, tokens: float, speed: CallSpeed, how: Discipline) -> SimCall:
        return SimCall(
            name=name,
            prompt_tokens=shape.prompt_tokens,
            output_tokens=int(tokens),
            overhead_s=speed.overhead_s,
            prefill_tokens_per_s=speed.prefill_tokens_per_s,
            decode_s_per_token=speed.decode_s_per_token,
            cached=cached,
            discipline=how,
        )

    layers = [[f"p{layer}.{i}" for i in range(shape.num_proposers)] for layer in range(shape.layers - 1)]
    calls = [call(name, shape.proposer_tokens, shape.proposer, "quota") for names in layers for name in names]
    calls.append(call("aggregator", shape.aggregator_tokens, shape.aggregator, discipline))
    edges = [
        SimEdge(source=source, target=target, kind=kind, boundaries=boundaries)
        for names, targets in zip(layers, [*layers[1:], ["aggregator"]], strict=True)
        for source in names
        for target in targets
    ]
    return simulate_agent_job(calls, edges, {})


@pytest.mark.parametrize("layers", [2, 3, 4])
@pytest.mark.parametrize(("n", "p"), [(3, 8000), (3, 1500), (6, 4000)])
def test_waiting_agrees_with_its_closed_form(n: int, p: float, layers: int) -> None:
    shape = _shape(n, p, layers=layers)
    last = _job(shape, "barrier", ()).call("aggregator")
    assert last.first_token_s == pytest.approx(barrier_ttft_s(shape), rel=1e-9)
    assert last.end_s == pytest.approx(barrier_e2e_s(shape), rel=1e-9)


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("chunk", [8, 16, 64, 128])
@pytest.mark.parametrize(("n", "p"), [(3, 8000), (6, 1500)])
def test_staircase_agrees_with_its_closed_form(n: int, p: float, chunk: int, layers: int) -> None:
    shape = _shape(n, p, layers=layers)
    last = _job(shape, "staircase", _boundaries(512, chunk)).call("aggregator")
    assert last.first_token_s == pytest.approx(staircase_ttft_s(shape, chunk), rel=0.01)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(("chunk", "growth"), [(8, 1), (16, 1), (50, 1), (128, 1), (16, 2)])
@pytest.mark.parametrize("p", [8000, 1500])
def test_interrupted_rounds_agree(p: float, chunk: int, growth: int, *, cached: bool) -> None:
    shape = _shape(3, p)
    boundaries = _boundaries(512, chunk, growth)
    last = _job(shape, "staircase", boundaries, cached=cached).call("aggregator")
    end_s, prefilled = interrupted_e2e_s(shape, boundaries, cached=cached)
    assert last.end_s == pytest.approx(end_s, rel=0.01)
    assert last.prefilled_tokens == pytest.approx(prefilled, rel=0.01)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("chunk", [16, 32, 128])
def test_quota_rounds_agree_on_prefilled_tokens(chunk: int, *, cached: bool) -> None:
    shape = _shape(3, 8000)
    trace = _job(shape, "staircase", _boundaries(512, chunk), cached=cached, discipline="quota")
    total = sum(c.prefilled_tokens for c in trace.calls)
    assert total == pytest.approx(quota_prefill_tokens(shape, chunk, cached=cached), rel=0.01)


def test_equal_agents_in_a_pipeline_take_their_share_of_serial_time() -> None:
    # no overhead, prefill for nothing: K rounds of c d on each of two agents
    shape = replace(_shape(1, 1e12, e=0.0), prompt_tokens=0.0)
    last = _job(shape, "staircase", _boundaries(512, 64), discipline="quota").call("aggregator")
    assert last.end_s == pytest.approx(pipeline_share(2, 8) * 2 * 512 * 0.02, rel=0.01)


@pytest.mark.parametrize(("n", "p", "chunk"), [(3, 8000, 32), (8, 2000, 64), (3, 8000, 512)])
def test_overlap_agrees_with_its_closed_form(n: int, p: float, chunk: int) -> None:
    shape = _shape(n, p)
    boundaries = _boundaries(512, chunk)
    last = _job(shape, "overlap", boundaries).call("aggregator")
    extra = shape.prompt_tokens / p if len(boundaries) == 1 else 0.0  # one chunk: nothing ran ahead
    assert last.first_token_s == pytest.approx(overlap_ttft_s(shape, chunk) + extra, rel=0.01)


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_items_agree_with_their_closed_form(slots: int) -> None:
    speed = CallSpeed(prefill_tokens_per_s=8000, decode_s_per_token=0.02, overhead_s=0.05)
    sizes = [30, 50, 20, 60]
    producer = SimCall(
        name="list",
        prompt_tokens=100,
        output_tokens=160,
        overhead_s=0.05,
        prefill_tokens_per_s=8000,
        decode_s_per_token=0.02,
    )
    tools = [SimCall(name=f"t{k}", fixed_s=1.5, pool="tools", priority=k) for k in range(4)]
    edges = [
        SimEdge(source="list", target=f"t{k}", kind="items", boundaries=(float(sum(sizes[: k + 1])),))
        for k in range(4)
    ]
    trace = simulate_agent_job([producer, *tools], edges, {"tools": slots})
    assert trace.end_s == pytest.approx(items_e2e_s(speed, 100, sizes, 1.5, slots), rel=1e-9)


def test_published_settings_of_mixture_of_agents() -> None:
    # three proposers, 512 tokens each, 20 ms a token, 8000 prefill tokens/s: the paper's headline is -93 %
    shape = _shape(3, 8000)
    wait = _job(shape, "barrier", ()).call("aggregator").first_token_s
    stair = _job(shape, "staircase", _boundaries(512, 32)).call("aggregator").first_token_s
    assert wait == pytest.approx(10.63, abs=0.01)
    assert stair == pytest.approx(0.85, abs=0.01)
    assert wait is not None
    assert stair is not None
    assert 1 - stair / wait >= 0.92


@pytest.mark.parametrize("cached", [False, True])
def test_best_chunk_is_near_the_scanned_best(*, cached: bool) -> None:
    shape = _shape(3, 8000)
    ends = {c: interrupted_e2e_s(shape, _boundaries(512, c), cached=cached)[0] for c in range(8, 257)}
    guess = round(best_chunk_tokens(shape, cached=cached))
    assert ends[guess] <= 1.04 * min(ends.values())


def test_any_join_starts_with_the_first_and_slots_are_kept() -> None:
    calls = [
        SimCall(name="slow", fixed_s=5.0),
        SimCall(name="fast", fixed_s=1.0),
        SimCall(name="next", fixed_s=1.0, join=1, pool="one"),
        SimCall(name="other", fixed_s=2.0, pool="one"),
    ]
    edges = [SimEdge(source="slow", target="next"), SimEdge(source="fast", target="next")]
    trace = simulate_agent_job(calls, edges, {"one": 1})
    # the other tool holds the only slot from 0 to 2
    assert (trace.call("next").start_s, trace.call("next").end_s) == (2.0, 3.0)


def test_pause_is_the_longest_gap_between_tokens() -> None:
    shape = _shape(3, 8000)
    last = _job(shape, "staircase", _boundaries(512, 256)).call("aggregator")
    # the second round's prompt: 300 + 3 * 512 + what was written in the first
    written = int((256 * 0.02 - 0.05 - (300 + 3 * 256) / 8000) / 0.02)
    assert last.num_rounds == 2
    assert last.longest_pause_s == pytest.approx(0.05 + (300 + 1536 + written) / 8000 + 0.02, abs=0.021)


def test_unknown_call_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown call"):
        simulate_agent_job([SimCall(name="a")], [SimEdge(source="a", target="b")], {})
