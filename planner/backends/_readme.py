"""The README of an export: what it is, what to check, how to start it."""

from __future__ import annotations

from planner.backends._engine import Engine
from planner.backends._protocol import ExportOptions
from planner.errors import shown
from planner.plan.schema import Plan


def pool_table(plan: Plan, options: ExportOptions) -> list[str]:
    """Return the pools of a plan as a Markdown table."""
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


def readme(engine: Engine, plan: Plan, options: ExportOptions, paths: list[str]) -> str:
    """Return the README of an export of shell scripts that holds the files `paths`."""
    nodes = sorted(p for p in paths if p.startswith("nodes/"))
    routers = sorted(p for p in paths if p.startswith("router"))
    lines = [
        "# Launch files",
        "",
        f"For {engine.title} {engine.version} and later. Plan {shown(plan.name)}, status {plan.status}.",
        "",
        *pool_table(plan, options),
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
    cautions = [f"- {text}" for text in engine.cautions(plan)]
    if cautions:
        lines += ["## Before you start", "", *cautions, ""]
    return "\n".join(lines)
