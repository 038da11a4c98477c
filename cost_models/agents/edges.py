"""Closed forms of the four kinds of edges between model calls.

Symbols: n equal proposers feed one aggregator; P prompt tokens before any proposal; O proposer output;
c chunk; e overhead, p prefill tokens/s, d seconds per token (subscript A: the aggregator). Each agent
runs one request at a time and nothing queues. Derived from the description of staircase streaming
(Wang et al., arXiv 2510.05059) and checked against an event simulation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cost_models.agents.calls import CallSpeed


@dataclass(frozen=True, slots=True, kw_only=True)
class FanIn:
    """n equal proposers (`layers` - 1 layers of them) and one aggregator. Lengths in tokens."""

    num_proposers: int
    prompt_tokens: float
    proposer_tokens: float
    aggregator_tokens: float
    proposer: CallSpeed
    aggregator: CallSpeed
    layers: int = 2

    @property
    def full_prompt_tokens(self) -> float:
        """Prompt of a consumer that has every proposal."""
        return self.prompt_tokens + self.num_proposers * self.proposer_tokens


def barrier_ttft_s(shape: FanIn) -> float:
    """Return seconds to the aggregator's first token when every layer waits for whole outputs.

    TTFT = sum over layers of (e + X/p + O d) + e + X_L/p_A + d_A, X_1 = P and X_l = P + n O after.
    """
    first = shape.proposer.whole_s(shape.prompt_tokens, shape.proposer_tokens)
    later = shape.proposer.whole_s(shape.full_prompt_tokens, shape.proposer_tokens)
    return first + (shape.layers - 2) * later + shape.aggregator.first_token_s(shape.full_prompt_tokens)


def barrier_e2e_s(shape: FanIn) -> float:
    """Return seconds to the aggregator's last token: TTFT + (O_A - 1) d_A."""
    return barrier_ttft_s(shape) + (shape.aggregator_tokens - 1) * shape.aggregator.decode_s_per_token


def staircase_ttft_s(shape: FanIn, first_chunk: float) -> float:
    """Return seconds to the aggregator's first token when it starts on first chunks.

    TTFT = (e + P/p + c d) + (L - 2)(e + (P + n c)/p + c d) + e + (P + n c)/p_A + d_A. Only the first
    chunk of a growing schedule counts.
    """
    partial = shape.prompt_tokens + shape.num_proposers * first_chunk
    first = shape.proposer.whole_s(shape.prompt_tokens, first_chunk)
    later = shape.proposer.whole_s(partial, first_chunk)
    return first + (shape.layers - 2) * later + shape.aggregator.first_token_s(partial)


def overlap_ttft_s(shape: FanIn, last_chunk: float) -> float:
    """Return seconds to the first token when prefill runs ahead and decode waits for the whole input.

    TTFT = T_last_proposer + e + n c_last / p_A + d_A, for two layers. Holds while the prefill of a
    round of chunks ends before the next round arrives.
    """
    done = shape.proposer.whole_s(shape.prompt_tokens, shape.proposer_tokens)
    return done + shape.aggregator.first_token_s(shape.num_proposers * last_chunk)


def items_e2e_s(
    producer: CallSpeed, prompt_tokens: float, item_tokens: Sequence[float], item_s: float, num_slots: int
) -> float:
    """Return seconds to the end of the last item's consumer when a list is consumed item by item.

    Item k is complete at e + P/p + d * (tokens up to k); `num_slots` consumers of `item_s` seconds each
    take them in order: start_k = max(ready_k, end of consumer k - num_slots).
    """
    ends: list[float] = []
    tokens = 0.0
    for k, size in enumerate(item_tokens):
        tokens += size
        ready = producer.whole_s(prompt_tokens, tokens)
        free = ends[k - num_slots] if k >= num_slots else 0.0
        ends.append(max(ready, free) + item_s)
    return max(ends, default=0.0)


def quota_prefill_tokens(shape: FanIn, chunk: float, *, cached: bool) -> float:
    """Return all prompt tokens prefilled by two layers when round k may write up to k/K of the answer.

    Without a cache n P + K P + n c K (K + 1) / 2 + c_A K (K - 1) / 2 with c_A = O_A / K; with an append-only
    prompt and a prefix cache n P + P + n O, the same as waiting.
    """
    n, total = shape.num_proposers, shape.proposer_tokens
    if cached:
        return n * shape.prompt_tokens + shape.prompt_tokens + n * total
    rounds = math.ceil(total / chunk)
    own = shape.aggregator_tokens / rounds
    inputs = n * (chunk * rounds * (rounds - 1) / 2 + total)
    return (n + rounds) * shape.prompt_tokens + inputs + own * rounds * (rounds - 1) / 2


def interrupted_e2e_s(shape: FanIn, boundaries: Sequence[float], *, cached: bool) -> tuple[float, float]:
    """Return (seconds to the last token, tokens prefilled by the aggregator) of a staircase of two layers.

    The aggregator writes until the next round's chunks are there, at least one token a round, and
    restarts with all chunks so far and its own text so far; a late round takes the newest chunks.
    `boundaries` are the cumulative tokens at which proposers hand over; the last is O. This is the
    exact recursion over rounds; with a cache a round prefills only what is new.
    """
    arrivals = [shape.proposer.whole_s(shape.prompt_tokens, b) for b in boundaries]
    inputs = [shape.num_proposers * b for b in boundaries]
    _, end_s, prefilled = staircase_rounds(
        Rounds(
            arrivals_s=tuple(arrivals),
            input_tokens=tuple(inputs),
            prompt_tokens=shape.prompt_tokens,
            output_tokens=shape.aggregator_tokens,
            cached=cached,
        ),
        shape.aggregator,
    )
    return end_s, prefilled


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """What a staircase consumer meets: when round k's chunks are all there, and their tokens by then."""

    arrivals_s: tuple[float, ...]
    input_tokens: tuple[float, ...]
    prompt_tokens: float
    output_tokens: float
    cached: bool


def staircase_rounds(rounds: Rounds, speed: CallSpeed) -> tuple[float, float, float]:
    """Return (first token, last token, tokens prefilled) of a consumer; times in seconds.

    Its last token is written on the whole input: what is done before waits for the last chunks, and is asked
    once more.
    """
    now, written, prefilled, known, k = 0.0, 0, 0.0, 0.0, 0
    first_s: float | None = None
    last = len(rounds.arrivals_s) - 1
    total = max(math.ceil(rounds.output_tokens), 1)
    while True:
        if written >= total - 1:
            k = last
        now = max(now, rounds.arrivals_s[k])
        while k < last and rounds.arrivals_s[k + 1] <= now:
            k += 1
        prompt = rounds.prompt_tokens + rounds.input_tokens[k] + written
        new = prompt - known if rounds.cached else prompt
        ready = now + speed.prefill_s(new)
        prefilled += new
        first_s = ready + speed.decode_s_per_token if first_s is None else first_s
        if k == last:
            return first_s, ready + (total - written) * speed.decode_s_per_token, prefilled
        # whole tokens by the time the next chunks arrive, one at least
        step_s = speed.decode_s_per_token
        fits = math.floor((rounds.arrivals_s[k + 1] - ready) / step_s + 1e-9) if step_s > 0 else total
        tokens = min(max(fits, 1), total - 1 - written)
        now = ready + tokens * step_s
        written += tokens
        known = prompt + tokens
        k += 1


def pipeline_share(num_agents: int, num_steps: int) -> float:
    """Return the share of serial time that a chain of equal agents takes: (K + L - 1) / (K L).

    L agents hand over K equal steps each; two agents can never gain more than a factor of 2.
    """
    return (num_steps + num_agents - 1) / (num_steps * num_agents)


def best_chunk_tokens(shape: FanIn, *, cached: bool) -> float:
    """Return the chunk near which two layers end soonest.

    c* = sqrt((O/d)(e + Xbar/p)) with Xbar = P + n O/2 + O_A/4 without a cache, sqrt(O e/d) with an
    append-only prompt and a cache. It is a starting point of a search: where O_A is well below O it is
    up to 14 % off.
    """
    decode_s = shape.proposer.decode_s_per_token
    mean_prompt = 0.0
    if not cached:
        mean_prompt = (
            shape.prompt_tokens
            + shape.num_proposers * shape.proposer_tokens / 2
            + shape.aggregator_tokens / 4
        )
    round_s = shape.aggregator.prefill_s(mean_prompt)
    return math.sqrt(shape.proposer_tokens / decode_s * round_s)
