"""What an inference engine is to an exporter: its command, its arguments, its rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.backends._launch import Argument, Launch, Reference, Takes
from planner.backends._layout import Server
from planner.backends._protocol import Capabilities, ExportOptions
from planner.plan.schema import Plan, Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server as a router sees it: role of its pool, URL, port of its KV hand-over if it has one."""

    role: str
    url: str
    transfer_port: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine(ABC):
    """An engine whose servers are groups of equal processes, each started by one command.

    `title` and `version` are what a reader calls it, `command` the words before its arguments, `bare` the
    argument that stands first and without a flag ("" if none), `image` its public container image,
    `router` the command of its router and `router_package` the distribution that has it. `stage_major`
    says whether its ranks are numbered like the plan's (stage first) or data-parallel rank first. Where
    a router must know at which port prefill servers hand KV caches over, that of the plan's server number
    s is `first_transfer_port` + s.
    """

    name: str
    title: str
    version: str
    command: tuple[str, ...]
    bare: str
    image: str
    router: tuple[str, ...]
    router_package: str
    stage_major: bool
    first_transfer_port: int | None
    capabilities: Capabilities
    flags: Mapping[str, Takes]

    @abstractmethod
    def check_plan(self, backend: str, plan: Plan) -> None:
        """Refuse by name what the engine cannot run (UnsupportedError)."""

    @abstractmethod
    def pool_arguments(self, plan: Plan, pool: Pool, options: ExportOptions) -> dict[str, Argument]:
        """Return the arguments that all processes of a pool share."""

    @abstractmethod
    def server_arguments(self, server: Server, serial: int, leader: Reference) -> dict[str, Argument]:
        """Return the arguments that tie the processes of the plan's `serial`-th server to its `leader`."""

    @abstractmethod
    def process_arguments(self, server: Server, rank: int | Reference, port: int) -> dict[str, Argument]:
        """Return the arguments of one process; the first listens on `port`.

        A rank that is filled in later is that of a process other than the first.
        """

    @abstractmethod
    def environment(
        self, plan: Plan, pool: Pool, serial: int, own_address: Reference
    ) -> dict[str, str | Reference]:
        """Return the environment of a process of the plan's `serial`-th server, devices excluded."""

    @abstractmethod
    def router_arguments(self, endpoints: Sequence[Endpoint]) -> list[str]:
        """Return the arguments of the router in front of `endpoints`, without its own address."""

    @abstractmethod
    def check_launch(self, launch: Launch) -> None:
        """Hold a launch against the rules of the engine (InputError)."""

    @abstractmethod
    def cautions(self, plan: Plan) -> list[str]:
        """Return what a user must see to before the start, one sentence or two each."""
