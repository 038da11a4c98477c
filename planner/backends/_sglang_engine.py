"""SGLang as an engine of exporters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from planner.backends import _sglang_arguments as sglang
from planner.backends._checkpoint import checkpoint_format
from planner.backends._engine import Endpoint, Engine
from planner.backends._launch import Argument, Launch, Reference
from planner.backends._layout import Server
from planner.backends._protocol import ExportOptions
from planner.backends._sglang_flags import FLAGS, SGLANG_VERSION
from planner.backends._sglang_rules import check_launch
from planner.errors import shown
from planner.plan.schema import Plan, Pool

_FIRST_BOOTSTRAP_PORT = 8998


@dataclass(frozen=True, slots=True, kw_only=True)
class SglangEngine(Engine):
    """SGLang's HTTP server, NIXL between prefill and decode, and its own router."""

    def check_plan(self, backend: str, plan: Plan) -> None:
        """Refuse by name what SGLang cannot run."""
        sglang.check_plan(backend, plan)

    def pool_arguments(self, plan: Plan, pool: Pool, options: ExportOptions) -> dict[str, Argument]:
        """Return the arguments that all processes of a pool share."""
        found = sglang.pool_arguments(pool, options, checkpoint_format(plan))
        if "redundant_experts" in pool.limits:
            found |= _expert_arguments(plan, pool)
        return found

    def server_arguments(self, server: Server, serial: int, leader: Reference) -> dict[str, Argument]:
        """Return the rendezvous of a server, and where a prefill server hands its caches over."""
        found = sglang.server_arguments(server, serial, leader)
        if server.pool.role == "prefill":
            found["disaggregation-bootstrap-port"] = _FIRST_BOOTSTRAP_PORT + serial
        return found

    def process_arguments(self, server: Server, rank: int | Reference, port: int) -> dict[str, Argument]:
        """Return the arguments of one process; only the first listens to requests."""
        found: dict[str, Argument] = {}
        if len(server.processes) > 1:
            found["node-rank"] = rank
        return found if rank != 0 else {**found, "host": "0.0.0.0", "port": port}

    def environment(
        self,
        plan: Plan,  # noqa: ARG002 - the protocol of engines
        pool: Pool,
        serial: int,  # noqa: ARG002
        own_address: Reference,  # noqa: ARG002
    ) -> dict[str, str | Reference]:
        """Return the layers per stage."""
        return dict(sglang.pool_environment(pool))

    def router_arguments(self, endpoints: Sequence[Endpoint]) -> list[str]:
        """Return the arguments of sglang-router; a prefill server is named with its bootstrap port."""
        if endpoints[0].role == "aggregated":
            return ["--policy", "power_of_two", "--worker-urls", *(e.url for e in endpoints)]
        words = ["--pd-disaggregation", "--prefill-policy", "cache_aware", "--decode-policy", "power_of_two"]
        for endpoint in endpoints:
            words += [f"--{endpoint.role}", endpoint.url]
            words += [] if endpoint.transfer_port is None else [str(endpoint.transfer_port)]
        return words

    def check_launch(self, launch: Launch) -> None:
        """Hold a launch against the rules of SGLang."""
        check_launch(launch)

    def cautions(self, plan: Plan) -> list[str]:
        """Return what concerns checkpoints and the network of the hand-over."""
        fmt = checkpoint_format(plan)
        lines = [
            f"Pool {shown(pool.name)} wants weights in {pool.weight_dtype}: pass a checkpoint in that format "
            "with `newel export --model-path`. SGLang finds its format in its config.json."
            for pool in plan.pools
            if sglang.needs_own_checkpoint(pool, fmt)
        ]
        if any(pool.role != "aggregated" for pool in plan.pools):
            lines.append(
                "Prefill and decode servers exchange KV caches through NIXL (`pip install nixl`), which uses "
                "UCX: NCCL variables do not apply to it, set UCX_NET_DEVICES where it must choose a network."
            )
        if any(pool.strategy.ep > 1 for pool in plan.pools):
            lines.append(
                "Experts are spread over ranks with SGLang's default exchange. Where DeepEP is installed, "
                "add `moe-a2a-backend: deepep` to config.yaml."
            )
        return lines


def _expert_arguments(plan: Plan, pool: Pool) -> dict[str, Argument]:
    """Return where experts and copies stand at first; without a map the server balances by itself."""
    import json

    maps = plan.details.get("expert_maps")
    slots = cast("dict[str, object]", maps).get(pool.name) if isinstance(maps, dict) else None
    if slots is None:
        return {"enable-eplb": True}
    return {"init-expert-location": json.dumps({"physical_to_logical_map": slots}, separators=(",", ":"))}


ENGINE = SglangEngine(
    name="sglang",
    title="SGLang",
    version=SGLANG_VERSION,
    command=("python3", "-m", "sglang.launch_server"),
    bare="",
    image=f"lmsysorg/sglang:v{SGLANG_VERSION}",
    router=("python3", "-m", "sglang_router.launch_router"),
    router_package="sglang-router",
    stage_major=True,
    first_transfer_port=_FIRST_BOOTSTRAP_PORT,
    capabilities=sglang.CAPABILITIES,
    flags=FLAGS,
)
