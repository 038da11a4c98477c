"""Whatever happens to an engine, no request and no token is lost, and nothing is left in it."""

from __future__ import annotations

from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.simulate.serving_engine import Engine
from planner.simulate.serving_request import Request
from tests.simulate.test_serving_engine import model, request

_REQUESTS = st.lists(
    st.tuples(st.floats(0.0, 2.0), st.integers(1, 900), st.integers(0, 60)), min_size=1, max_size=40
)


_ENGINES = st.fixed_dictionaries(
    {
        "stages": st.integers(1, 4),
        "ranks": st.integers(1, 3),
        "cache_tokens": st.sampled_from([1200, 4000, 10**9]),
        "max_sequences": st.sampled_from([1, 3, 1000]),
        "prompt_wait_steps": st.sampled_from([0, 5]),
    }
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(wanted=_REQUESTS, kind=_ENGINES, fails_s=st.none() | st.floats(0.05, 1.5))
def test_everything_that_comes_leaves(
    wanted: list[tuple[float, int, int]], kind: dict[str, int], fails_s: float | None
) -> None:
    engine = Engine(model=model(**kind))
    everyone = [request(*one) for one in sorted(wanted)]
    waiting: list[Request] = list(everyone)
    failed_s = inf if fails_s is None else fails_s
    while waiting:
        one = waiting.pop(0)
        if one.ready_s >= failed_s:
            lost = engine.fail(failed_s, failed_s + 0.4)
            failed_s = inf
            for again in lost:
                again.ready_s = engine.down_until_s
            waiting = sorted([*lost, one, *waiting], key=lambda r: r.ready_s)
            continue
        engine.advance(one.ready_s)
        min(engine.ranks, key=lambda rank: rank.load).admit(one)
    engine.advance(inf)
    for one, (_, tokens, steps) in zip(everyone, sorted(wanted), strict=True):
        assert one.arrival_s <= one.start_s <= one.first_s <= one.finish_s < inf
        assert (one.context - one.produced, one.steps + one.produced) == (tokens, steps)
    assert len({id(one) for one in engine.ended}) == len(engine.ended) == len(everyone)
    for rank in engine.ranks:
        assert (rank.running, rank.decoding, rank.context_tokens, len(rank.queue)) == (0, 0, 0, 0)
        assert rank.cached_tokens == rank.promised_tokens == 0.0
        assert rank.current is None
