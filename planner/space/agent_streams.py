"""Which edges stream, and in what chunks: the choices per consumer, priced by the closed forms.

A choice is priced as if the producers began together and nothing queued; the schedule then places it with
lags between starts and ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cost_models.agents.calls import CallSpeed
from cost_models.agents.edges import Rounds, staircase_rounds
from planner.ir.agent_graph import AgentGoal, EdgeKind

_GROWING_UP_TO = 128
OVERLAP_CHUNK_TOKENS = 64.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Producer:
    """A model call whose output streams: prompt and output in tokens, `brings` what reaches the consumer."""

    name: str
    speed: CallSpeed
    prompt_tokens: float
    output_tokens: float

    def ready_s(self, tokens: float) -> float:
        """Seconds from its start to its `tokens`-th token."""
        return self.speed.whole_s(self.prompt_tokens, min(tokens, self.output_tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """How a consumer streams.

    `starts_s`: least seconds from a producer's start to the consumer's start; `tail_s`: from a producer's
    end to the consumer's end (None: no such limit). `first_token_s` and `duration_s` count from the
    consumer's start.
    """

    kind: EdgeKind
    boundaries: tuple[float, ...]
    starts_s: dict[str, float]
    tail_s: float | None
    first_token_s: float
    duration_s: float
    prefilled_tokens: float
    ttft_s: float
    e2e_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A consumer of streams: `own_tokens` of its prompt come from elsewhere; `cached`: prefixes are kept."""

    speed: CallSpeed
    own_tokens: float
    output_tokens: float
    cached: bool


def chunk_schedules(longest: float, first: int) -> list[tuple[float, ...]]:
    """Return the schedules tried: equal chunks of rising size, and chunks that double."""
    return list(dict.fromkeys(chunks(longest, *kind) for kind in chunk_kinds(longest, first)))


def chunk_kinds(longest: float, first: int) -> list[tuple[int, int]]:
    """Return (first chunk, factor from chunk to chunk) of the schedules tried: equal ones first."""
    sizes: list[int] = []
    size = float(first)
    while size < longest:
        sizes.append(round(size))
        size *= 2**0.5
    return [(s, 1) for s in sizes] + [(s, 2) for s in sizes if s <= _GROWING_UP_TO]


def overlap_chunks(longest: float) -> tuple[float, ...]:
    """Return the chunks in which a prompt is prefilled ahead."""
    return chunks(longest, OVERLAP_CHUNK_TOKENS, 1)


def chunks(total: float, chunk: float, growth: int) -> tuple[float, ...]:
    """Return the cumulative tokens at which an output is handed over in chunks that grow by a factor."""
    found: list[float] = []
    at = 0.0
    while at < total:
        at = min(total, at + chunk)
        found.append(at)
        chunk *= growth
    return tuple(found)


def waiting(consumer: Consumer, producers: Sequence[Producer]) -> tuple[float, float]:
    """Return (first token, end) of a consumer that waits for all, from the producers' common start."""
    start = max(p.ready_s(p.output_tokens) for p in producers)
    prompt = consumer.own_tokens + sum(p.output_tokens for p in producers)
    return (
        start + consumer.speed.first_token_s(prompt),
        start + consumer.speed.whole_s(prompt, consumer.output_tokens),
    )


def staircase(consumer: Consumer, producers: Sequence[Producer], boundaries: tuple[float, ...]) -> Stream:
    """Return the staircase of a consumer with the given hand-overs."""
    arrivals = tuple(max(p.ready_s(b) for p in producers) for b in boundaries)
    inputs = tuple(sum(min(b, p.output_tokens) for p in producers) for b in boundaries)
    rounds = Rounds(
        arrivals_s=arrivals,
        input_tokens=inputs,
        prompt_tokens=consumer.own_tokens,
        output_tokens=consumer.output_tokens,
        cached=consumer.cached,
    )
    first_s, end_s, prefilled = staircase_rounds(rounds, consumer.speed)
    return Stream(
        kind="staircase",
        boundaries=boundaries,
        starts_s={p.name: p.ready_s(boundaries[0]) for p in producers},
        tail_s=max(end_s - arrivals[-1], 0.0),
        first_token_s=first_s - arrivals[0],
        duration_s=end_s - arrivals[0],
        prefilled_tokens=prefilled,
        ttft_s=first_s,
        e2e_s=end_s,
    )


def overlap(consumer: Consumer, producers: Sequence[Producer]) -> Stream | None:
    """Return prefill that runs ahead in chunks, None where a chunk's prefill does not keep up."""
    chunk = OVERLAP_CHUNK_TOKENS
    longest = max(p.output_tokens for p in producers)
    if longest <= chunk or not consumer.cached:
        return None
    per_round_s = consumer.speed.prefill_s(len(producers) * chunk)
    if per_round_s > chunk * min(p.speed.decode_s_per_token for p in producers):
        return None
    boundaries = overlap_chunks(longest)
    last = sum(min(p.output_tokens, boundaries[-1] - boundaries[-2]) for p in producers)
    start = max(p.ready_s(p.output_tokens) for p in producers)
    first = consumer.speed.first_token_s(last)
    whole = consumer.speed.whole_s(last, consumer.output_tokens)
    return Stream(
        kind="overlap",
        boundaries=boundaries,
        starts_s={p.name: p.ready_s(p.output_tokens) for p in producers},
        tail_s=whole,
        first_token_s=first,
        duration_s=whole,
        prefilled_tokens=consumer.own_tokens + sum(p.output_tokens for p in producers),
        ttft_s=start + first,
        e2e_s=start + whole,
    )


def best_stream(
    consumer: Consumer,
    producers: Sequence[Producer],
    allowed: frozenset[EdgeKind],
    goal: AgentGoal,
    limits: tuple[int, float],
) -> Stream | None:
    """Return the best way of streaming, None if waiting is as good.

    `limits` are (least first chunk in tokens, share by which the end may be later than the soonest end to win
    time to first token).
    """
    first_chunk, slack = limits
    choices: list[Stream] = []
    if "overlap" in allowed and (ahead := overlap(consumer, producers)) is not None:
        choices.append(ahead)
    if "staircase" in allowed and goal != "min_cost":
        longest = max(p.output_tokens for p in producers)
        choices += [staircase(consumer, producers, b) for b in chunk_schedules(longest, first_chunk)]
    wait_ttft_s, wait_e2e_s = waiting(consumer, producers)
    if not choices:
        return None
    soonest = min([wait_e2e_s, *(c.e2e_s for c in choices)])
    if goal == "min_ttft":
        fit = [c for c in choices if c.e2e_s <= soonest * (1 + slack)]
        best = min(fit, key=lambda c: (c.ttft_s, c.e2e_s), default=None)
        return best if best is not None and best.ttft_s < wait_ttft_s - 1e-9 else None
    best = min(choices, key=lambda c: (c.e2e_s, c.ttft_s))
    return best if best.e2e_s < wait_e2e_s - 1e-9 else None
