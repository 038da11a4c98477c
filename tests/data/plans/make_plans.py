"""Writes the hand-made plans of this folder: shapes that exporters and the checker must cope with.

Run it after a change of the plan's schema: python tests/data/plans/make_plans.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (2, 3)]

from mutants.cases import serving_problem  # noqa: E402

from planner.ir.printer import print_ir  # noqa: E402
from planner.plan.schema import ObjectiveResult, Plan, Pool, Replica, SolverInfo, StrategyModel  # noqa: E402

HERE = Path(__file__).resolve().parent


def pool(name="pool", role="aggregated", model="meta-llama/Llama-3.1-70B", **kw) -> Pool:
    strategy = StrategyModel(**kw.pop("strategy", {}))
    fields = {
        "replicas": 1,
        "device": "h100_sxm",
        "node_group": "h100",
        "weight_dtype": "bf16",
        "kv_dtype": "bf16",
        "engine": "vllm",
        "limits": {"max_num_seqs": 128, "max_num_batched_tokens": 8192, "gpu_memory_utilization": 0.9},
        "layers_per_stage": [80 // strategy.pp] * strategy.pp,
        "predicted": {},
        "memory": [],
    }
    return Pool(name=name, role=role, model=model, strategy=strategy, **{**fields, **kw})


def size(p: Pool) -> int:
    s = p.strategy
    return s.tp * s.pp * s.attention_dp * s.cp


def plan(name: str, *pools: Pool, node="h100-{}", per_node=8) -> Plan:
    placement, used = [], 0
    for p in pools:
        for r in range(p.replicas):
            ranks = range(used, used + size(p))
            devices = [f"{node.format(i // per_node)}/{i % per_node}" for i in ranks]
            placement.append(Replica(pool=p.name, replica=r, devices=devices))
            used += size(p)
    return Plan(
        kind="serving",
        name=name,
        status="feasible",
        objective=ObjectiveResult(
            name="max_throughput", unit="tokens/s", sense="max", value=1.0, bound=None, gap=None
        ),
        pools=list(pools),
        placement=placement,
        solver=SolverInfo(method="by hand", status="feasible", seed=0),
        problem=print_ir(serving_problem("deepseek-v3" if "deepseek" in name else "llama-3.1-70b")),
    )


DEEPSEEK = {
    "model": "deepseek-ai/DeepSeek-V3",
    "weight_dtype": "fp8_block",
    "layers_per_stage": [61],
}

PLANS = {
    "llama-tp8": plan("llama-tp8", pool(strategy={"tp": 8})),
    "llama-tp4-pp2": plan("llama-tp4-pp2", pool(strategy={"tp": 4, "pp": 2}, layers_per_stage=[41, 39])),
    "llama-tp4-replicas": plan("llama-tp4-replicas", pool(strategy={"tp": 4}, replicas=3)),
    "llama-tp4-pp3": plan(
        "llama-tp4-pp3", pool(strategy={"tp": 4, "pp": 3}, layers_per_stage=[27, 27, 26], weight_dtype="fp8")
    ),
    "llama-fp8-kv": plan("llama-fp8-kv", pool(strategy={"tp": 8}, kv_dtype="fp8", weight_dtype="fp8")),
    "deepseek-tp8-pp2-ep": plan(
        "deepseek-tp8-pp2-ep",
        pool(**{**DEEPSEEK, "layers_per_stage": [31, 30]}, strategy={"tp": 8, "pp": 2, "ep": 8}),
    ),
    "deepseek-dp16-ep": plan("deepseek-dp16-ep", pool(**DEEPSEEK, strategy={"attention_dp": 16, "ep": 16})),
    "deepseek-dp8-pp2-ep": plan(
        "deepseek-dp8-pp2-ep",
        pool(**{**DEEPSEEK, "layers_per_stage": [31, 30]}, strategy={"attention_dp": 8, "pp": 2, "ep": 8}),
    ),
    "deepseek-tp8-dp2-moe-tp": plan(
        "deepseek-tp8-dp2-moe-tp",
        pool(**DEEPSEEK, strategy={"tp": 8, "attention_dp": 2, "moe_tp": 16, "decode_cp": 8}),
    ),
    "llama-pair": plan(
        "llama-pair",
        pool("prefill", "prefill", strategy={"tp": 4}, replicas=2, kv_dtype="fp8"),
        pool("decode", "decode", strategy={"tp": 8}, kv_dtype="fp8"),
    ),
    "dense-data-parallel": plan("dense-data-parallel", pool(strategy={"tp": 2, "attention_dp": 4})),
    "metacharacters": plan(
        'it\'s "$(touch /tmp/owned)"; `id` && \u00fc',
        pool(
            "a pool; rm -rf / #\u00e9'\"",
            strategy={"tp": 4},
            replicas=4,
            model="org/model $(touch owned); `id` 'x' \"y\" \\ | & * ?",
        ),
        node="node {}; $(touch owned) 'n\"",
    ),
}


def main() -> None:
    for name, value in PLANS.items():
        (HERE / f"{name}.json").write_text(value.model_dump_json(indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
