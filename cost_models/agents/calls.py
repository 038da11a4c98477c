"""A model call at constant speed: overhead, prefill, decode."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSpeed:
    """Speed of calls to one model: fixed overhead (round trip, queue, tokenising), prefill and decode."""

    prefill_tokens_per_s: float
    decode_s_per_token: float
    overhead_s: float

    def first_token_s(self, prompt_tokens: float) -> float:
        """Return seconds from the call to its first token: overhead + prefill + one decode step."""
        return self.prefill_s(prompt_tokens) + self.decode_s_per_token

    def prefill_s(self, prompt_tokens: float) -> float:
        """Return seconds from the call to the end of prefill."""
        return self.overhead_s + prompt_tokens / self.prefill_tokens_per_s

    def whole_s(self, prompt_tokens: float, output_tokens: float) -> float:
        """Return seconds from the call to its last token."""
        return self.prefill_s(prompt_tokens) + output_tokens * self.decode_s_per_token
