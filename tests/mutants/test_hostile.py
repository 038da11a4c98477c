"""Plans with absurd numbers and names: the checker answers, exporters answer or refuse, none crashes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from planner.backends import BACKENDS, ExportOptions
from planner.errors import InputError
from planner.plan.schema import Plan
from planner.verify import verify_plan

from .test_structure import dense, with_pool

NUMBERS = [1, 2, 3, 7, 10**9, 10**18]
NAMES = ["", "/", "a/b", "../../etc/passwd", "$(id)", "\0", "-x", "x" * 500, "pool\n- evil: true"]
CHANGES: list[dict[str, Any]] = [
    *({"strategy": {degree: n}} for degree in ("tp", "pp", "attention_dp", "decode_cp") for n in NUMBERS[2:]),
    *({"replicas": n} for n in NUMBERS),
    *({"limits": {"token_budget": n, "max_num_seqs": 1}} for n in (0, -1, 1e308, 10**18)),
    *({"layers_per_stage": layers} for layers in ([], [0, 80], [-1, 81], [10**18, 80 - 10**18])),
    *({field: name} for field in ("name", "model", "device", "node_group", "kv_dtype") for name in NAMES),
]


@pytest.mark.parametrize("change", CHANGES, ids=[str(c)[:60] for c in CHANGES])
def test_an_absurd_pool_is_found_out(change: dict[str, Any]) -> None:
    plan, problem = dense()
    mutant = with_pool(**change)(plan)
    # Asking for two replicas is what the plan does anyway.
    assert verify_plan(mutant, problem).passed == (change == {"replicas": 2})
    for name in ("vllm", "kubernetes"):
        _answers(name, mutant)


def _answers(backend: str, plan: Plan) -> None:
    try:
        files = BACKENDS.get(backend).export(plan, ExportOptions())
    except InputError:
        return
    assert all(not f.path.startswith("/") and ".." not in f.path for f in files)


def test_random_devices_never_break_the_checker() -> None:
    plan, problem = dense()
    rng = random.Random(5)
    texts = ["h100-0/0", "h100-1/7", "h100-1/8", "/", "x/", "/3", "h100-0/99999999999", "h100-0/-1", "é/1"]
    for _ in range(40):
        devices = [rng.choice(texts) for _ in range(rng.choice([0, 1, 8]))]
        placement = [r.model_copy(update={"devices": devices}) for r in plan.placement]
        mutant = plan.model_copy(update={"placement": placement})
        assert not verify_plan(mutant, problem).passed
        _answers("vllm", mutant)
