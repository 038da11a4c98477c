"""Speculative decoding: tokens per step and seconds per token with a draft of k tokens.

Symbols: a acceptance rate (each drafted token is kept with probability a, given those before it), k drafted
tokens, t seconds of a step of the target that checks k tokens, d seconds per drafted token.
"""

from __future__ import annotations


def kept_tokens(acceptance: float, num_drafted: int) -> float:
    """Return the expected tokens of a step that checks k drafted ones: (1 - a^(k+1)) / (1 - a).

    Leviathan, Kalman, Matias (2023), equation 1: the kept ones and one of the target's own.
    """
    if acceptance >= 1.0:
        return num_drafted + 1.0
    return (1.0 - acceptance ** (num_drafted + 1)) / (1.0 - acceptance)


def serial_s_per_token(acceptance: float, num_drafted: int, step_s: float, draft_s: float) -> float:
    """Return seconds per token if draft and check follow each other: (t + k d) / kept tokens."""
    return (step_s + num_drafted * draft_s) / kept_tokens(acceptance, num_drafted)


def overlapped_s_per_token(acceptance: float, num_drafted: int, step_s: float, draft_s: float) -> float:
    """Return seconds per token if the next k tokens are drafted while the last k are checked.

    Every round takes max(t, k d). After a rejection the draft begins anew: in that round the target checks
    its first token alone, and one token comes of it. If that is kept the other k - 1 are checked beside the
    next draft, and as long as all are kept k per round. The chain of these rounds gives per token

        max(t, k d) (1 - a) (1 + a + a^k / (1 - a^k)),

    which tends to max(t / k, d) for a = 1 and to max(t, k d) for a = 0. The scheme is that of PEARL (Liu et
    al. 2024, pre- and post-verify); the closed form is derived here.
    """
    round_s = max(step_s, num_drafted * draft_s)
    if acceptance >= 1.0:
        return round_s / num_drafted
    all_kept = acceptance**num_drafted
    return round_s * (1.0 - acceptance) * (1.0 + acceptance + all_kept / (1.0 - all_kept))
