"""The README of an export: what it is, what to check, how to start it."""

from __future__ import annotations

from planner.backends._protocol import ExportOptions
from planner.backends._vllm_arguments import checkpoint_format, needs_own_checkpoint, uses_side_channel
from planner.backends._vllm_flags import VLLM_VERSION
from planner.errors import shown
from planner.plan.schema import Plan


def _pool_table(plan: Plan, options: ExportOptions) -> list[str]:
    lines = [
        "| pool | role | servers | device | tp | pp | ep | attention dp | weights | KV | loads |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for pool in plan.pools:
        s = pool.strategy
        cells = (
            shown(pool.name),
            pool.role,
            pool.replicas,
            shown(pool.device),
            s.tp,
            s.pp,
            s.ep,
            s.attention_dp,
            pool.weight_dtype,
            pool.kv_dtype,
            shown(options.model_path(pool.model)),
        )
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return lines


def _cautions(plan: Plan) -> list[str]:
    lines: list[str] = []
    fmt = checkpoint_format(plan)
    for pool in plan.pools:
        if needs_own_checkpoint(pool, fmt):
            lines.append(
                f"- Pool {shown(pool.name)} wants weights in {pool.weight_dtype}: pass a checkpoint in that "
                "format with `newel export --model-path`. vLLM finds its format in its config.json."
            )
        if "gpu_memory_utilization" not in pool.limits and "memory_fraction" not in pool.limits:
            lines.append(
                f"- Pool {shown(pool.name)}: the plan sets no memory fraction, so vLLM's own default holds."
            )
    if any(uses_side_channel(pool) for pool in plan.pools):
        lines.append(
            "- Prefill and decode servers exchange KV caches through NIXL (`pip install nixl`), which uses "
            "UCX: NCCL variables do not apply to it, set UCX_NET_DEVICES where it must choose a network."
        )
    return lines


def readme(plan: Plan, options: ExportOptions, paths: list[str]) -> str:
    """Return the README of an export of shell scripts that holds the files `paths`."""
    nodes = sorted(p for p in paths if p.startswith("nodes/"))
    routers = sorted(p for p in paths if p.startswith("router"))
    lines = [
        "# Launch files",
        "",
        f"For vLLM {VLLM_VERSION} and later. Plan {shown(plan.name)}, status {plan.status}.",
        "",
        *_pool_table(plan, options),
        "",
        "## Start",
        "",
        "1. Put the right addresses into `hosts.env`; every node must reach the others under them.",
        "2. Copy this folder to every node, at any path, and on each node run its script:",
        *(f"   `bash {path}`" for path in nodes),
    ]
    if routers:
        lines.append("3. When all servers answer on /health, start the router (any host that reaches them):")
        lines += [f"   `bash {path}`" for path in routers]
    else:
        lines.append(f"3. The server listens on port {options.base_port}.")
    lines += ["", "Each process sees only the devices of its placement (CUDA_VISIBLE_DEVICES)."]
    lines += ["A server of several processes waits until the last of them has started.", ""]
    cautions = _cautions(plan)
    if cautions:
        lines += ["## Before you start", "", *cautions, ""]
    return "\n".join(lines)
