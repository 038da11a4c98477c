"""Spreads of predictions: which runs have wider ones."""

from __future__ import annotations

import pytest

from cost_models.serving.uncertainty import FRONT_END_TOKENS_PER_S, handover_sigma, streaming_sigma


def test_first_tokens_are_less_sure_where_a_front_end_may_decide() -> None:
    assert streaming_sigma(0.3, FRONT_END_TOKENS_PER_S) == pytest.approx(0.3)
    assert streaming_sigma(0.3, 2.0 * FRONT_END_TOKENS_PER_S) > 0.9


def test_first_tokens_behind_a_prefill_pool_are_less_sure() -> None:
    assert handover_sigma(0.3) > 1.0
