"""vLLM on hosts of one's own: a script per process, a YAML file per pool, a router, a README.

Layout of the export::

    hosts.env                       where each node of the plan is reached
    <pool>/config.yaml              flags that all processes of the pool share
    <pool>/server-S-process-P.sh    one ``vllm serve``; process 0 of a server listens
    nodes/<node>.sh                 starts everything that belongs on a node
    router.sh                       one endpoint in front of the servers
    README.md

Names reach the shell only through ``shlex.quote`` and YAML, never as source text.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any, cast

from planner.backends._layout import Process, Server, pool_slugs, servers, slug
from planner.backends._protocol import Capabilities, ExportedFile, ExportOptions
from planner.backends._readme import readme
from planner.backends._vllm_arguments import (
    CAPABILITIES,
    check_plan,
    checkpoint_format,
    command_line,
    group_arguments,
    pool_arguments,
    pool_environment,
    safe_text,
    side_channel_port,
    uses_side_channel,
)
from planner.backends._vllm_rules import Launch, check_launch, parse_words
from planner.errors import InputError
from planner.plan.schema import Plan

_HEADER = "#!/usr/bin/env bash\n{comment}\nset -euo pipefail\n"
_HERE = 'here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"\n'
_COMMAND = "exec vllm serve "
_NEXT_LINE = " \\\n  "
_FILLED_IN = re.compile(r"^(http://)?\$\{?\w+\}?(:\d+)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """A server with its number in the plan and the folder of its pool."""

    server: Server
    serial: int
    folder: str

    def script(self, rank: int) -> str:
        return f"{self.folder}/server-{self.server.number}-process-{rank}.sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hosts:
    """The shell variables that hold the addresses of the nodes."""

    variables: dict[str, str]

    def reference(self, node: str) -> str:
        return f'"${{{self.variables[node]}}}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmBackend:
    """Writes shell scripts that run ``vllm serve`` on named hosts."""

    name: str = "vllm"
    capabilities: Capabilities = CAPABILITIES

    def export(self, plan: Plan, options: ExportOptions) -> tuple[ExportedFile, ...]:
        """Return scripts, configurations and a README; see the module for their layout.

        Raises
        ------
        InputError
            If the plan has nothing to launch, contradicts itself or breaks a rule of vLLM.
        UnsupportedError
            If vLLM cannot run a decision of the plan.
        """
        check_plan(self.name, plan)
        placed = _placed_servers(plan)
        nodes = sorted({p.node for one in placed for p in one.server.processes})
        hosts = _Hosts(variables={node: f"HOST_{i}" for i, node in enumerate(nodes)})
        files = [_hosts_file(nodes, hosts, options)]
        files += _configs(plan, options)
        files += [
            _script(plan, one, rank, (hosts, options))
            for one in placed
            for rank in range(len(one.server.processes))
        ]
        files += _node_scripts(nodes, placed)
        files += _routers(plan, placed, hosts, options)
        files.append(ExportedFile(path="README.md", text=readme(plan, options, [f.path for f in files])))
        check_files(tuple(files))
        return tuple(sorted(files, key=lambda f: f.path))


def _placed_servers(plan: Plan) -> list[_Placed]:
    folders = pool_slugs(plan)
    found: list[_Placed] = []
    for pool in plan.pools:
        for server in servers(plan, pool):
            found.append(_Placed(server=server, serial=len(found), folder=folders[pool.name]))
    return found


def _hosts_file(nodes: list[str], hosts: _Hosts, options: ExportOptions) -> ExportedFile:
    lines = ["# Where each node of the plan is reached. Edit the right-hand sides, nothing else."]
    for node in nodes:
        address = safe_text(options.address(node), "placement.devices")
        lines.append(f"{hosts.variables[node]}={shlex.quote(address)}")
    return ExportedFile(path="hosts.env", text="\n".join(lines) + "\n")


def _configs(plan: Plan, options: ExportOptions) -> list[ExportedFile]:
    import yaml

    folders = pool_slugs(plan)
    return [
        ExportedFile(
            path=f"{folders[pool.name]}/config.yaml",
            text=yaml.safe_dump(pool_arguments(pool, options, checkpoint_format(plan)), sort_keys=False),
        )
        for pool in plan.pools
    ]


def _script(plan: Plan, one: _Placed, rank: int, context: tuple[_Hosts, ExportOptions]) -> ExportedFile:
    hosts, options = context
    process = one.server.processes[rank]
    text = _HEADER.format(
        comment=f"# Pool {one.folder}, server {one.server.number}, process {rank} "
        f"of {len(one.server.processes)}."
    )
    text += _HERE + '. "$here/../hosts.env"\n'
    for name, value in _environment(plan, one, process, hosts):
        text += f"export {name}={value}\n"
    words = ['--config "$here/config.yaml"', *_process_words(one, rank, hosts, options)]
    text += _COMMAND + _NEXT_LINE.join(words) + "\n"
    return ExportedFile(path=one.script(rank), text=text, mode=0o755)


def _environment(plan: Plan, one: _Placed, process: Process, hosts: _Hosts) -> list[tuple[str, str]]:
    pool = one.server.pool
    found = [("CUDA_VISIBLE_DEVICES", ",".join(str(i) for i in process.indexes))]
    found += sorted(pool_environment(pool).items())
    if uses_side_channel(pool):
        found.append(("VLLM_NIXL_SIDE_CHANNEL_HOST", hosts.reference(process.node)))
        found.append(("VLLM_NIXL_SIDE_CHANNEL_PORT", str(side_channel_port(plan, one.serial))))
    return found


def _process_words(one: _Placed, rank: int, hosts: _Hosts, options: ExportOptions) -> list[str]:
    """Return the words of the command that are this process's own, quoted, one flag each."""
    own = command_line(group_arguments(one.server, one.serial))
    words = [f"{own[i]} {shlex.quote(own[i + 1])}" for i in range(0, len(own), 2)]
    if len(one.server.processes) > 1:
        words.append(f"--node-rank {rank}")
        words.append(f"--master-addr {hosts.reference(one.server.processes[0].node)}")
    if rank:
        return [*words, "--headless"]
    return [*words, "--host 0.0.0.0", f"--port {options.base_port + one.serial}"]


def _node_scripts(nodes: list[str], placed: list[_Placed]) -> list[ExportedFile]:
    found: list[ExportedFile] = []
    taken: list[str] = []
    for node in nodes:
        taken.append(slug(node, taken))
        scripts = [
            one.script(rank)
            for one in placed
            for rank, process in enumerate(one.server.processes)
            if process.node == node
        ]
        text = _HEADER.format(comment=f"# Starts every process of node {taken[-1]}.") + _HERE
        text += "trap 'kill $(jobs -p) 2>/dev/null || true' INT TERM\n"
        text += "".join(f'"$here/../{script}" &\n' for script in scripts) + "wait\n"
        found.append(ExportedFile(path=f"nodes/{taken[-1]}.sh", text=text, mode=0o755))
    return found


def _routers(plan: Plan, placed: list[_Placed], hosts: _Hosts, options: ExportOptions) -> list[ExportedFile]:
    """Return one router per model that has more than one server; it listens below the servers' ports."""
    found: list[ExportedFile] = []
    models = sorted({pool.model for pool in plan.pools})
    for number, model in enumerate(models):
        mine = [one for one in placed if one.server.pool.model == model]
        if len(mine) == 1:
            continue
        urls = [(one.server.pool.role, _url(one, hosts, options)) for one in mine]
        if urls[0][0] == "aggregated":
            words = ["--policy power_of_two", "--worker-urls " + " ".join(url for _, url in urls)]
        else:
            words = ["--vllm-pd-disaggregation", "--prefill-policy cache_aware"]
            words += ["--decode-policy power_of_two", *(f"--{role} {url}" for role, url in urls)]
        words += ["--host 0.0.0.0", f"--port {options.base_port - 1 - number}"]
        name = "router.sh" if len(models) == 1 else f"router-{number}.sh"
        text = _HEADER.format(comment="# One endpoint in front of the servers (pip install vllm-router).")
        text += _HERE + '. "$here/hosts.env"\nexec vllm-router ' + _NEXT_LINE.join(words) + "\n"
        found.append(ExportedFile(path=name, text=text, mode=0o755))
    return found


def _url(one: _Placed, hosts: _Hosts, options: ExportOptions) -> str:
    reference = hosts.reference(one.server.processes[0].node)
    return f'"http://{reference[1:-1]}:{options.base_port + one.serial}"'


def check_files(files: tuple[ExportedFile, ...]) -> None:
    """Read the exported scripts back and hold every launch against the rules.

    Raises
    ------
    InputError
        Naming the file and the flag that breaks a rule.
    """
    texts = {f.path: f.text for f in files}
    launches = [_read(path, texts) for path in sorted(texts) if _COMMAND in texts[path]]
    used: dict[tuple[str, str], str] = {}
    for launch, node in launches:
        check_launch(launch)
        ports = [f"port {launch.arguments[flag]}" for flag in ("port",) if flag in launch.arguments]
        for item in (*launch.environment["CUDA_VISIBLE_DEVICES"].split(","), *ports):
            if (node, item) in used:
                raise InputError(
                    f"the placement gives this to {used[node, item]} as well",
                    file=launch.file,
                    key=node,
                    value=item,
                )
            used[node, item] = launch.file


def _read(path: str, texts: dict[str, str]) -> tuple[Launch, str]:
    """Return the launch in a script, and the node whose script starts it."""
    import yaml

    script = texts[path]
    environment = {
        name: shlex.split(value)[0]
        for name, value in re.findall(r"^export (\w+)=(.*)$", script, flags=re.MULTILINE)
    }
    command = script[script.index(_COMMAND) + len(_COMMAND) :].replace("\\\n", " ")
    own = parse_words(["" if _FILLED_IN.match(word) else word for word in shlex.split(command)])
    own.pop("config")
    folder = path.rsplit("/", 1)[0]
    shared = cast("dict[str, Any]", yaml.safe_load(texts[f"{folder}/config.yaml"]))
    launch = Launch(
        file=path,
        arguments={**shared, **own},
        environment=environment,
        num_devices=len(environment["CUDA_VISIBLE_DEVICES"].split(",")),
    )
    node = next(p for p in texts if p.startswith("nodes/") and f'/{path}"' in texts[p])
    return launch, node


BACKEND = VllmBackend()
