"""An engine on hosts of one's own: a script per process, a YAML file per pool, a router, a README.

Layout of the export::

    hosts.env                       where each node of the plan is reached
    <pool>/config.yaml              flags that all processes of the pool share
    <pool>/server-S-process-P.sh    one process of the engine; process 0 of a server listens
    nodes/<node>.sh                 starts everything that belongs on a node
    router.sh                       one endpoint in front of the servers
    README.md

Names reach the shell only through ``shlex.quote`` and YAML, never as source text.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from planner.backends._engine import Endpoint, Engine
from planner.backends._launch import Argument, Launch, Reference, command_words, parse_words, safe_text
from planner.backends._layout import Server, pool_slugs, servers, slug
from planner.backends._protocol import ExportedFile, ExportOptions
from planner.backends._readme import readme
from planner.errors import InputError
from planner.plan.schema import Plan

HEADER = "#!/usr/bin/env bash\n{comment}\nset -euo pipefail\n"
HERE = 'here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"\n'
NEXT_LINE = " \\\n  "
_FILLED_IN = re.compile(r"^(http://)?\$\{?\w+\}?(:\d+)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedServer:
    """A server with its number in the plan and the folder of its pool."""

    server: Server
    serial: int
    folder: str

    def script(self, rank: int) -> str:
        """Return the path of the script of a process."""
        return f"{self.folder}/server-{self.server.number}-process-{rank}.sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """The shell variables that hold the addresses of the nodes."""

    variables: Mapping[str, str]

    @classmethod
    def of(cls, placed: Sequence[PlacedServer]) -> Hosts:
        """Return variables for the nodes that `placed` stand on."""
        nodes = sorted({p.node for one in placed for p in one.server.processes})
        return cls(variables={node: f"HOST_{i}" for i, node in enumerate(nodes)})

    def reference(self, node: str) -> Reference:
        """Return the address of a node, filled in by the shell."""
        return Reference(name=self.variables[node])

    def file(self, options: ExportOptions) -> ExportedFile:
        """Return hosts.env, which sets the variables."""
        lines = ["# Where each node of the plan is reached. Edit the right-hand sides, nothing else."]
        for node, variable in self.variables.items():
            address = safe_text(options.address(node), "placement.devices")
            lines.append(f"{variable}={shlex.quote(address)}")
        return ExportedFile(path="hosts.env", text="\n".join(lines) + "\n")


def shell_word(word: str | Reference) -> str:
    """Return a word as the shell wants it: references expand, everything else is quoted."""
    if isinstance(word, Reference):
        return f'"${{{word.name}}}{word.suffix}"'
    return shlex.quote(word)


def placed_servers(plan: Plan, options: ExportOptions, *, stage_major: bool) -> list[PlacedServer]:
    """Return the servers of a plan in the order of its pools."""
    folders = pool_slugs(plan)
    found: list[PlacedServer] = []
    for pool in plan.pools:
        for server in servers(plan, pool, stage_major=stage_major):
            serial = options.first_server + len(found)
            found.append(PlacedServer(server=server, serial=serial, folder=folders[pool.name]))
    return found


def node_scripts(hosts: Hosts, scripts: Sequence[tuple[str, str]]) -> list[ExportedFile]:
    """Return a script per node that starts its `scripts`, given as (node, path)."""
    found: list[ExportedFile] = []
    taken: list[str] = []
    for node in hosts.variables:
        mine = [path for where, path in scripts if where == node]
        taken.append(slug(node, taken))
        if not mine:
            continue
        text = HEADER.format(comment=f"# Starts every process of node {taken[-1]}.") + HERE
        text += "trap 'kill $(jobs -p) 2>/dev/null || true' INT TERM\n"
        text += "".join(f'"$here/../{path}" &\n' for path in mine) + "wait\n"
        found.append(ExportedFile(path=f"nodes/{taken[-1]}.sh", text=text, mode=0o755))
    return found


def shell_lines(arguments: Mapping[str, Argument]) -> list[str]:
    """Return arguments as words of a shell, one flag with its value each."""
    words = command_words(arguments)
    lines: list[str] = []
    for word in words:
        if isinstance(word, str) and word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += " " + shell_word(word)
    return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class HostExport:
    """The scripts that run `engine` for one plan."""

    engine: Engine
    plan: Plan
    options: ExportOptions

    def files(self) -> tuple[ExportedFile, ...]:
        """Return scripts, configurations and a README; see the module for their layout.

        Raises
        ------
        InputError
            If the plan contradicts itself or breaks a rule of the engine.
        """
        placed = placed_servers(self.plan, self.options, stage_major=self.engine.stage_major)
        hosts = Hosts.of(placed)
        files = [hosts.file(self.options), *self._configs()]
        scripts: list[tuple[str, str]] = []
        for one in placed:
            for rank, process in enumerate(one.server.processes):
                files.append(self._script(one, rank, hosts))
                scripts.append((process.node, one.script(rank)))
        files += node_scripts(hosts, scripts)
        files += self._routers(placed, hosts)
        paths = [f.path for f in files]
        files.append(ExportedFile(path="README.md", text=readme(self.engine, self.plan, self.options, paths)))
        self._check(files)
        return tuple(sorted(files, key=lambda f: f.path))

    def _configs(self) -> list[ExportedFile]:
        import yaml

        folders = pool_slugs(self.plan)
        return [
            ExportedFile(
                path=f"{folders[pool.name]}/config.yaml",
                text=yaml.safe_dump(
                    self.engine.pool_arguments(self.plan, pool, self.options), sort_keys=False
                ),
            )
            for pool in self.plan.pools
        ]

    @property
    def _command(self) -> str:
        return f"exec {shlex.join(self.engine.command)} "

    def _script(self, one: PlacedServer, rank: int, hosts: Hosts) -> ExportedFile:
        engine, server = self.engine, one.server
        process = server.processes[rank]
        text = HEADER.format(
            comment=f"# Pool {one.folder}, server {server.number}, process {rank} of {len(server.processes)}."
        )
        text += HERE + '. "$here/../hosts.env"\n'
        text += f"export CUDA_VISIBLE_DEVICES={','.join(str(i) for i in process.indexes)}\n"
        environment = engine.environment(self.plan, server.pool, one.serial, hosts.reference(process.node))
        for name, value in environment.items():
            text += f"export {name}={shell_word(value)}\n"
        own = engine.server_arguments(server, one.serial, hosts.reference(server.processes[0].node))
        own |= engine.process_arguments(server, rank, self.options.base_port + one.serial)
        words = ['--config "$here/config.yaml"', *shell_lines(own)]
        text += self._command + NEXT_LINE.join(words) + "\n"
        return ExportedFile(path=one.script(rank), text=text, mode=0o755)

    def _routers(self, placed: list[PlacedServer], hosts: Hosts) -> list[ExportedFile]:
        """Return one router per model of more than one server; it listens below the servers' ports."""
        found: list[ExportedFile] = []
        models = sorted({pool.model for pool in self.plan.pools})
        for number, model in enumerate(models):
            mine = [one for one in placed if one.server.pool.model == model]
            if len(mine) == 1:
                continue
            words = self.engine.router_arguments([self._endpoint(one, hosts) for one in mine])
            words += [
                "--host",
                "0.0.0.0",
                "--port",
                str(self.options.base_port - 1 - self.options.first_router - number),
            ]
            name = "router.sh" if len(models) == 1 else f"router-{number}.sh"
            text = HEADER.format(
                comment=f"# One endpoint in front of the servers (pip install {self.engine.router_package})."
            )
            text += HERE + '. "$here/hosts.env"\n'
            text += f"exec {shlex.join(self.engine.router)} " + _router_lines(words) + "\n"
            found.append(ExportedFile(path=name, text=text, mode=0o755))
        return found

    def _endpoint(self, one: PlacedServer, hosts: Hosts) -> Endpoint:
        variable = hosts.variables[one.server.processes[0].node]
        first = self.engine.first_transfer_port
        is_prefill = one.server.pool.role == "prefill"
        return Endpoint(
            role=one.server.pool.role,
            url=f"http://${{{variable}}}:{self.options.base_port + one.serial}",
            transfer_port=first + one.serial if first is not None and is_prefill else None,
        )

    def _check(self, files: Sequence[ExportedFile]) -> None:
        """Read the scripts back and hold every launch against the rules of the engine."""
        texts = {f.path: f.text for f in files}
        used: dict[tuple[str, str], str] = {}
        for path in sorted(p for p in texts if self._command in texts[p]):
            launch, node = self._read(path, texts)
            self.engine.check_launch(launch)
            ports = [f"port {launch.arguments['port']}"] if "port" in launch.arguments else []
            for item in (*launch.environment["CUDA_VISIBLE_DEVICES"].split(","), *ports):
                if (node, item) in used:
                    raise InputError(
                        f"the placement gives this to {used[node, item]} as well",
                        file=launch.file,
                        key=node,
                        value=item,
                    )
                used[node, item] = launch.file

    def _read(self, path: str, texts: dict[str, str]) -> tuple[Launch, str]:
        """Return the launch in a script, and the node whose script starts it."""
        import yaml

        script = texts[path]
        environment = {
            name: shlex.split(value)[0]
            for name, value in re.findall(r"^export (\w+)=(.*)$", script, flags=re.MULTILINE)
        }
        command = script[script.index(self._command) + len(self._command) :].replace("\\\n", " ")
        words = ["" if _FILLED_IN.match(word) else word for word in shlex.split(command)]
        own = parse_words(words, self.engine.flags)
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


def _router_lines(words: Sequence[str]) -> str:
    """Return the words of a router, one flag with its values a line; URLs hold references to hosts."""
    lines: list[str] = []
    for word in words:
        quoted = f'"{word}"' if word.startswith("http") else word
        if word.startswith("--"):
            lines.append(quoted)
        else:
            lines[-1] += " " + quoted
    return NEXT_LINE.join(lines)
