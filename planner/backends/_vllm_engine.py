"""vLLM as an engine of exporters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.backends import _vllm_arguments as vllm
from planner.backends._checkpoint import checkpoint_format
from planner.backends._engine import Endpoint, Engine
from planner.backends._launch import Argument, Launch, Reference
from planner.backends._layout import Server
from planner.backends._protocol import ExportOptions
from planner.backends._vllm_flags import FLAGS, VLLM_VERSION
from planner.backends._vllm_rules import check_launch
from planner.errors import shown
from planner.plan.schema import Plan, Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmEngine(Engine):
    """``vllm serve`` with its multiprocessing executor and NIXL between prefill and decode."""

    def check_plan(self, backend: str, plan: Plan) -> None:
        """Refuse by name what vLLM cannot run."""
        vllm.check_plan(backend, plan)

    def pool_arguments(self, plan: Plan, pool: Pool, options: ExportOptions) -> dict[str, Argument]:
        """Return the arguments that all processes of a pool share."""
        connector = vllm.connector_of(plan, pool)
        return vllm.pool_arguments(pool, options, checkpoint_format(plan), connector)

    def server_arguments(self, server: Server, serial: int, leader: Reference) -> dict[str, Argument]:
        """Return the arguments that tie the processes of a server together."""
        return vllm.server_arguments(server, serial, leader)

    def process_arguments(self, server: Server, rank: int | Reference, port: int) -> dict[str, Argument]:
        """Return the arguments of one process; all but the first are headless."""
        found: dict[str, Argument] = {}
        if len(server.processes) > 1:
            found["node-rank"] = rank
        if rank != 0:
            return {**found, "headless": True}
        return {**found, "host": "0.0.0.0", "port": port}

    def environment(
        self, plan: Plan, pool: Pool, serial: int, own_address: Reference
    ) -> dict[str, str | Reference]:
        """Return layers per stage and the side channel of NIXL."""
        found: dict[str, str | Reference] = dict(sorted(vllm.pool_environment(pool).items()))
        if vllm.uses_side_channel(pool):
            found["VLLM_NIXL_SIDE_CHANNEL_HOST"] = own_address
            found["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(vllm.side_channel_port(plan, serial))
        return found

    def router_arguments(self, endpoints: Sequence[Endpoint]) -> list[str]:
        """Return the arguments of vllm-router."""
        if endpoints[0].role == "aggregated":
            return ["--policy", "power_of_two", "--worker-urls", *(e.url for e in endpoints)]
        words = ["--vllm-pd-disaggregation", "--prefill-policy", "cache_aware"]
        words += ["--decode-policy", "power_of_two"]
        return words + [word for e in endpoints for word in (f"--{e.role}", e.url)]

    def check_launch(self, launch: Launch) -> None:
        """Hold a launch against the rules of vLLM."""
        check_launch(launch)

    def cautions(self, plan: Plan) -> list[str]:
        """Return what concerns checkpoints, memory and the network of NIXL."""
        lines: list[str] = []
        fmt = checkpoint_format(plan)
        for pool in plan.pools:
            if vllm.needs_own_checkpoint(pool, fmt):
                lines.append(
                    f"Pool {shown(pool.name)} wants weights in {pool.weight_dtype}: pass a checkpoint in "
                    "that format with `newel export --model-path`. vLLM finds its format in its config.json."
                )
            if "gpu_memory_utilization" not in pool.limits and "memory_fraction" not in pool.limits:
                lines.append(
                    f"Pool {shown(pool.name)}: the plan sets no memory fraction, so vLLM's own default holds."
                )
        if any(vllm.uses_side_channel(pool) for pool in plan.pools):
            lines.append(
                "Prefill and decode servers exchange KV caches through NIXL (`pip install nixl`), which uses "
                "UCX: NCCL variables do not apply to it, set UCX_NET_DEVICES where it must choose a network."
            )
        return lines


ENGINE = VllmEngine(
    name="vllm",
    title="vLLM",
    version=VLLM_VERSION,
    command=("vllm", "serve"),
    bare="model",
    image=f"vllm/vllm-openai:v{VLLM_VERSION}",
    router=("vllm-router",),
    router_package="vllm-router",
    stage_major=False,
    first_transfer_port=None,
    capabilities=vllm.CAPABILITIES,
    flags=FLAGS,
)
