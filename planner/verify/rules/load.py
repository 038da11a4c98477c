"""Every pool can carry its rate, and is as fast at it as the plan says.

Step times are worked out again for the plan's own placement, one batch at a time, from the kernel
models. The checker's steady state is its own, so times may differ: by 10 % for a token, by 20 % for
the first token. A step that is 10 % longer carries 10 % less, and near saturation queues and batches
grow without bound, so the checker looks at 90 % of the rate. A plan that is slower than the checker
thinks is not wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

from planner.verify.report import Violation
from planner.verify.rule import SERVING, Case, Rule
from planner.verify.serving.load import LoadState
from planner.verify.serving.shards import sequence_bytes
from planner.verify.serving.view import PoolView, pool_views

TPOT_TOLERANCE = 0.10
TTFT_TOLERANCE = 0.20
RATE_TOLERANCE = TPOT_TOLERANCE
_CACHE_TOLERANCE = 0.05
_HALF_BLOCK_TOKENS = 8.0


def _check(case: Case) -> Iterator[Violation]:
    for view in pool_views(case):
        pool = view.pool
        rate = pool.predicted.get("request_rate_rps")
        if rate is None:
            yield Violation(message=f"pool {pool.name!r} does not say which rate it carries")
            continue
        state = view.load.at_rate(rate.value * (1 - RATE_TOLERANCE))
        if state is None or state.busy >= 1.0:
            yield Violation(
                message=f"pool {pool.name!r} cannot carry {rate.value:.4g} requests per second",
                numbers=(("rate_rps", rate.value),),
            )
            continue
        yield from _times(view, state)
        yield from _sequences(view, state)


def _times(view: PoolView, state: LoadState) -> Iterator[Violation]:
    for name, own, tolerance in (
        ("tpot_s", state.tpot_s, TPOT_TOLERANCE),
        ("ttft_s", state.ttft_s, TTFT_TOLERANCE),
    ):
        claimed = view.pool.predicted.get(name)
        if claimed is not None and claimed.value < own * (1 - tolerance):
            yield Violation(
                message=f"pool {view.pool.name!r}: {name} is {own:.4g}, the plan says {claimed.value:.4g}",
                numbers=((f"own_{name}", own), (f"claimed_{name}", claimed.value)),
            )


def _sequences(view: PoolView, state: LoadState) -> Iterator[Violation]:
    pool = view.pool
    limit = pool.limits.get("max_num_seqs")
    if limit is not None and state.sequences > limit:
        yield Violation(
            message=f"pool {pool.name!r} runs {state.sequences:.0f} sequences per rank, limit {limit:g}",
            numbers=(("sequences", state.sequences), ("limit", float(limit))),
        )
    tokens = view.requests.context + _HALF_BLOCK_TOKENS
    for memory in pool.memory:
        cache = sum(part.num_bytes for part in memory.parts if part.name == "kv_cache")
        needed = state.sequences * sequence_bytes(view.load.pricer.model, pool, memory.stage, tokens)
        if needed > cache * (1 + _CACHE_TOLERANCE):
            yield Violation(
                message=f"pool {pool.name!r}: {state.sequences:.0f} sequences need {needed / 1e9:.2f} GB of "
                f"cache on a device of stage {memory.stage}, there is {cache / 1e9:.2f}",
                numbers=(("needed", needed), ("cache", cache)),
            )


RULE = Rule(
    says="every pool carries its rate as fast as the plan says",
    check=_check,
    kinds=SERVING,
    of_parts=True,
    requires=("locality", "memory"),
    of_steps=True,
    is_slow=True,
)
