"""Time and memory of one training sequence (forward and backward) at a degree of context parallelism.

A rank is what computes one part of a sequence: a GPU, or a group of GPUs under tensor parallelism. With
degree d the tokens of a sequence lie on d ranks, balanced for causal attention, and attention heads are
exchanged (Ulysses) in all-to-alls. A sequence that does not fit may be run in chunks, one after the
other: keys and values stay, activations of one chunk at a time do, and all chunks but the last are run
forward once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

# Four all-to-alls (queries, keys, values, outputs) forward and four backward, in 16 bit.
_EXCHANGES = 8
_BYTES_PER_ELEMENT = 2
# Of the work of a pass forward and backward, what a second forward pass adds.
_FORWARD_SHARE = 1.0 / 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceCosts:
    """Coefficients of a model on a rank.

    Parameters
    ----------
    token_s
        Time per token of all that is linear in length, forward and backward.
    attention
        (time per query-key pair, window) of each kind of attention layer together; window 0: all pairs.
    exchange_bytes_per_token
        What one token's activations of one all-to-all add up to over all layers.
    near_bytes_per_s, far_bytes_per_s
        Bandwidth of a rank inside a node and between nodes.
    ranks_per_node
        Largest degree that stays inside a node.
    microbatch_s
        Time per micro-batch that does not depend on its tokens.
    rank_tokens
        Tokens whose activations fit on a rank.
    kv_share
        Keys and values of a token as a part of its activations: what chunks leave behind.
    """

    token_s: float
    attention: tuple[tuple[float, int], ...]
    exchange_bytes_per_token: float
    near_bytes_per_s: float
    far_bytes_per_s: float
    ranks_per_node: int
    microbatch_s: float
    rank_tokens: int
    kv_share: float

    def work_s(self, length: int) -> float:
        """Return the time of a sequence on one rank, were it to fit, without the fixed part, seconds."""
        pairs = sum(pair_s * attention_pairs(length, window) for pair_s, window in self.attention)
        return self.token_s * length + pairs

    def exchange_s(self, length: int, degree: int) -> float:
        """Return the time of a sequence's all-to-alls over `degree` ranks, seconds.

        A rank sends (d - 1) / d of its length / d tokens in each of 8 exchanges.

        Source: Jacobs et al., DeepSpeed Ulysses (arXiv 2309.14509), section 3.2; not overlapped.
        """
        if degree == 1:
            return 0.0
        bandwidth = self.near_bytes_per_s if degree <= self.ranks_per_node else self.far_bytes_per_s
        sent = length / degree * (degree - 1) / degree * self.exchange_bytes_per_token
        return _EXCHANGES * sent / bandwidth

    def num_chunks(self, length: int, degree: int) -> int:
        """Return in how many chunks a sequence fits `degree` ranks; 1 is whole, 0 that it does not fit.

        Chunks of length / n tokens fit where (length / n + kv_share length) / d is at most `rank_tokens`.
        """
        room = self.rank_tokens * degree
        if length <= room:
            return 1
        left = room - self.kv_share * length
        return ceil(length / left) if left >= 1.0 else 0

    def sequence_s(self, length: int, degree: int, num_chunks: int = 1) -> float:
        """Return the time of a sequence over `degree` ranks, without the fixed part, seconds."""
        again = 1.0 + _FORWARD_SHARE * (num_chunks - 1) / num_chunks
        return (self.work_s(length) / degree + self.exchange_s(length, degree)) * again


def attention_pairs(length: int, window: int) -> float:
    """Return the query-key pairs of causal attention: s^2 / 2, or what a sliding window leaves of it."""
    if window == 0 or length <= window:
        return length * length / 2.0
    return window * window / 2.0 + (length - window) * float(window)


def token_flops(num_active_params: float, *, recompute: bool) -> float:
    """Return the FLOPs per token of forward and backward: 6 per parameter, 8 with full recomputation.

    Source: Narayanan et al., SC 2021 (arXiv 2104.04473), appendix; Kaplan et al. (arXiv 2001.08361).
    """
    return (8.0 if recompute else 6.0) * num_active_params


def pair_flops(num_heads: int, head_dim: int, *, recompute: bool) -> float:
    """Return the FLOPs per query-key pair of a layer: 4 per element forward, 2.5 times that backward.

    Source: Dao, FlashAttention-2 (arXiv 2307.08691), section 4: the backward pass recomputes the scores.
    """
    return 4.0 * num_heads * head_dim * (4.5 if recompute else 3.5)


def exchange_bytes(hidden_size: int, num_layers: int) -> float:
    """Return the bytes of one token in one all-to-all, over all layers."""
    return float(_BYTES_PER_ELEMENT * hidden_size * num_layers)
