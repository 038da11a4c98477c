"""TensorRT-LLM on hosts of one's own: ``trtllm-serve`` per server, under MPI where a server spans nodes.

Layout of the export::

    hosts.env                 where each node of the plan is reached
    <pool>/config.yaml        configuration that all servers of the pool share
    <pool>/server-S.sh        starts a server, from the node of its first rank
    nodes/<node>.sh           starts every server whose first rank is on the node
    disaggregated.yaml        prefill and decode servers, for the coordinator that router.sh starts
    README.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from planner.backends._checkpoint import FULL_PRECISION, checkpoint_format
from planner.backends._hosts import (
    HEADER,
    HERE,
    NEXT_LINE,
    Hosts,
    PlacedServer,
    node_scripts,
    placed_servers,
    shell_word,
)
from planner.backends._launch import safe_text
from planner.backends._protocol import Capabilities, ExportedFile, ExportOptions
from planner.backends._readme import pool_table
from planner.backends._trtllm_config import (
    CAPABILITIES,
    TRTLLM_VERSION,
    check_config,
    check_plan,
    pool_config,
)
from planner.errors import InputError, shown
from planner.plan.schema import Plan, Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrtllmBackend:
    """Writes shell scripts that run ``trtllm-serve`` on named hosts."""

    name: str = "trtllm"
    capabilities: Capabilities = CAPABILITIES

    def export(self, plan: Plan, options: ExportOptions) -> tuple[ExportedFile, ...]:
        """Return scripts, configurations and a README; see the module for their layout.

        Raises
        ------
        InputError
            If the plan has nothing to launch or contradicts itself.
        UnsupportedError
            If TensorRT-LLM cannot run a decision of the plan.
        """
        check_plan(self.name, plan)
        placed = placed_servers(plan, options, stage_major=True)
        hosts = Hosts.of(placed)
        files = [hosts.file(options), *_configs(placed)]
        files += [_server_script(one, hosts, options) for one in placed]
        leads = [(one.server.processes[0].node, _script_path(one)) for one in placed]
        files += node_scripts(hosts, leads)
        coordinators = _coordinators(plan, placed, options)
        files += coordinators
        files.append(ExportedFile(path="README.md", text=_readme(plan, placed, options)))
        _check(files, placed)
        return tuple(sorted(files, key=lambda f: f.path))


def _script_path(one: PlacedServer) -> str:
    return f"{one.folder}/server-{one.server.number}.sh"


def _configs(placed: Sequence[PlacedServer]) -> list[ExportedFile]:
    import yaml

    found: dict[str, str] = {}
    for one in placed:
        config = pool_config(one.server.pool, len(one.server.processes[0].indexes))
        path = _config_path(one)
        text = yaml.safe_dump(config, sort_keys=False)
        if found.setdefault(path, text) != text:
            raise InputError("two servers of one layout differ", file=path)
    return [ExportedFile(path=path, text=text) for path, text in found.items()]


def _config_path(one: PlacedServer) -> str:
    """Return the file of a server's configuration; servers that span more nodes have their own."""
    processes = len(one.server.processes)
    return f"{one.folder}/config.yaml" if processes == 1 else f"{one.folder}/config-x{processes}.yaml"


def _server_script(one: PlacedServer, hosts: Hosts, options: ExportOptions) -> ExportedFile:
    server = one.server
    config = _config_path(one).rpartition("/")[2]
    serve = [
        f"trtllm-serve {shell_word(safe_text(options.model_path(server.pool.model), 'model'))}",
        f'--config "$here/{config}"',
        "--host 0.0.0.0",
        f"--port {options.base_port + one.serial}",
    ]
    text = HEADER.format(
        comment=f"# Pool {one.folder}, server {server.number}: {len(server.processes)} process group(s)."
    )
    text += HERE + '. "$here/../hosts.env"\n'
    if len(server.processes) == 1:
        text += f"export CUDA_VISIBLE_DEVICES={_indexes(server.processes[0].indexes)}\n"
        text += "exec " + NEXT_LINE.join(serve) + "\n"
    else:
        groups: list[str] = []
        for process in server.processes:
            ranks = len(process.indexes)
            host = shell_word(hosts.reference(process.node).then(f":{ranks}"))
            groups.append(
                f"-n {ranks} -host {host} env CUDA_VISIBLE_DEVICES={_indexes(process.indexes)} "
                "trtllm-llmapi-launch " + " ".join(serve)
            )
        text += "exec mpirun --allow-run-as-root" + NEXT_LINE + (NEXT_LINE + ": ").join(groups) + "\n"
    return ExportedFile(path=_script_path(one), text=text, mode=0o755)


def _indexes(indexes: Sequence[int]) -> str:
    return ",".join(str(i) for i in indexes)


def _coordinators(plan: Plan, placed: Sequence[PlacedServer], options: ExportOptions) -> list[ExportedFile]:
    """Return coordinator and its configuration for each model that is served disaggregated."""
    import yaml

    found: list[ExportedFile] = []
    models = sorted({pool.model for pool in plan.pools if pool.role != "aggregated"})
    for number, model in enumerate(models):
        suffix = "" if len(models) == 1 else f"-{number}"
        sections: dict[str, Any] = {}
        for role, section in (("prefill", "context_servers"), ("decode", "generation_servers")):
            urls = [
                f"{options.address(one.server.processes[0].node)}:{options.base_port + one.serial}"
                for one in placed
                if one.server.pool.model == model and one.server.pool.role == role
            ]
            sections[section] = {"num_instances": len(urls), "urls": urls}
        port = options.base_port - 1 - options.first_router - number
        config = {"hostname": "0.0.0.0", "port": port, "backend": "pytorch", **sections}
        name = f"disaggregated{suffix}.yaml"
        found.append(ExportedFile(path=name, text=yaml.safe_dump(config, sort_keys=False)))
        text = HEADER.format(comment="# One endpoint in front of the prefill and decode servers.") + HERE
        text += f'exec trtllm-serve disaggregated -c "$here/{name}"\n'
        found.append(ExportedFile(path=f"router{suffix}.sh", text=text, mode=0o755))
    return found


def _readme(plan: Plan, placed: Sequence[PlacedServer], options: ExportOptions) -> str:
    has_pairs = any(pool.role != "aggregated" for pool in plan.pools)
    lines = [
        "# Launch files",
        "",
        f"For TensorRT-LLM {TRTLLM_VERSION} and later. Plan {shown(plan.name)}, status {plan.status}.",
        "",
        *pool_table(plan, options),
        "",
        "## Start",
        "",
        "1. Put the right addresses into `hosts.env`" + (" and `disaggregated*.yaml`." if has_pairs else "."),
        "2. Copy this folder to every node, at the same path, and run the scripts in `nodes/`.",
    ]
    if has_pairs:
        lines.append("3. When all servers answer on /health, start `router*.sh` on a host that reaches them.")
    else:
        lines.append("3. Servers listen at: " + ", ".join(_address(one, options) for one in placed) + ".")
    if not has_pairs and len(placed) > 1:
        lines.append(
            "   TensorRT-LLM has no router for whole servers; use any HTTP load balancer, or Dynamo."
        )
    if any(len(one.server.processes) > 1 for one in placed):
        lines.append("")
        lines.append("Servers over several nodes start under Open MPI, which needs ssh between the nodes.")
    cautions = _cautions(plan)
    if cautions:
        lines += ["", "## Before you start", "", *cautions]
    return "\n".join(lines) + "\n"


def _address(one: PlacedServer, options: ExportOptions) -> str:
    return f"`{options.address(one.server.processes[0].node)}:{options.base_port + one.serial}`"


def _cautions(plan: Plan) -> list[str]:
    fmt = checkpoint_format(plan)
    return [
        f"- Pool {shown(pool.name)} wants weights in {pool.weight_dtype}: pass a checkpoint in that format "
        "with `newel export --model-path`. TensorRT-LLM quantises nothing while it loads."
        for pool in plan.pools
        if needs_own_checkpoint(pool, fmt)
    ]


def needs_own_checkpoint(pool: Pool, checkpoint_fmt: str) -> bool:
    """Return whether the plan's weight format must come with a checkpoint other than the model's own."""
    if pool.weight_dtype in FULL_PRECISION and checkpoint_fmt in ("", *FULL_PRECISION):
        return False
    return pool.weight_dtype != checkpoint_fmt


def _check(files: Sequence[ExportedFile], placed: Sequence[PlacedServer]) -> None:
    """Read the configurations back and hold them and the coordinators against their rules."""
    import yaml

    used: dict[tuple[str, int], str] = {}
    for one in placed:
        for process in one.server.processes:
            for index in process.indexes:
                if (process.node, index) in used:
                    raise InputError(
                        f"the placement gives this to {used[process.node, index]} as well",
                        file=_script_path(one),
                        key=process.node,
                        value=index,
                    )
                used[process.node, index] = _script_path(one)
    for file in files:
        if not file.path.endswith(".yaml"):
            continue
        config = cast("dict[str, Any]", yaml.safe_load(file.text))
        if "/" in file.path:
            check_config(config, file=file.path)
            continue
        for section in ("context_servers", "generation_servers"):
            part = config[section]
            if part["num_instances"] != len(part["urls"]) or not part["urls"]:
                raise InputError("there must be one url per instance", file=file.path, key=section)


BACKEND = TrtllmBackend()
