"""A request trace: when requests came and how long they were."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTrace:
    """Requests in order of arrival; the three columns have equal length.

    `arrival_s` counts from the first request, seconds; it is empty for a trace without times.
    `prefix_share` is the share of prompt tokens that an unbounded prefix cache would have held
    (None where the trace does not say). `blocks` are per request the hashes of its prompt's blocks of
    `block_tokens` tokens, each standing for its block and all before it; `session`, `tenant` and
    `priority` say whose request it is. `ttft_s` and `e2e_s` are what was measured: seconds from a request's
    arrival to its first and its last token. What the trace does not say is empty.
    """

    source: str
    arrival_s: tuple[float, ...]
    input_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    prefix_share: float | None = None
    block_tokens: int = 0
    blocks: tuple[tuple[int, ...], ...] = ()
    session: tuple[int, ...] = ()
    tenant: tuple[int, ...] = ()
    priority: tuple[int, ...] = ()
    ttft_s: tuple[float, ...] = ()
    e2e_s: tuple[float, ...] = ()

    @property
    def num_requests(self) -> int:
        """Requests in the trace."""
        return len(self.input_tokens)
