"""What every export of a training job shares: the job, its nodes, launch scripts, a README.

Layout of an export::

    hosts.env                where the first node of the job is reached
    launch.sh RANK           starts the processes of one node (torchrun); RANK is the number of the node
    nodes/<node>.sh          the same for a node by name
    README.md

Names reach the shell only through ``shlex.quote``, never as source text.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from planner.backends._launch import safe_text
from planner.backends._layout import slug
from planner.backends._protocol import Capabilities, ExportedFile, ExportOptions
from planner.errors import InputError, UnsupportedError, shown
from planner.ir.model_graph import ModelGraph
from planner.ir.parser import parse_ir
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.plan.schema import Plan, Pool, TrainingSettings

ROLE = "trainer"
NO_CACHE = {"none": ""}
"""A training job has no KV cache."""
_HEADER = "#!/usr/bin/env bash\nset -euo pipefail\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRanks:
    """The devices of the job on one node, in rank order."""

    node: str
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The one job of a plan with its model and its nodes, first ranks first."""

    plan: Plan
    pool: Pool
    settings: TrainingSettings
    model: ModelGraph
    nodes: tuple[NodeRanks, ...]

    @property
    def per_node(self) -> int:
        """Ranks of one node."""
        return len(self.nodes[0].indexes)

    @property
    def num_micro(self) -> int:
        """Micro-batches of one data-parallel rank per step."""
        return self.settings.sequences // (self.pool.strategy.dp * self.settings.micro_batch)

    def refuse(
        self, name: str, message: str, *, allowed: str | None = None, hint: str | None = None
    ) -> UnsupportedError:
        """Return the error for a decision that a runtime cannot express."""
        degree = name in type(self.pool.strategy).model_fields
        where, value = (
            ("strategy", getattr(self.pool.strategy, name))
            if degree
            else ("training", getattr(self.settings, name))
        )
        key = f"pools[0].{where}.{name}"
        return UnsupportedError(message, key=key, value=value, allowed=allowed, hint=hint)


def job_of(backend: str, capabilities: Capabilities, plan: Plan) -> Job:
    """Return the job of a plan, held against what a backend can express.

    Raises
    ------
    InputError
        If the plan has nothing to launch or contradicts itself.
    UnsupportedError
        Naming the decision that cannot be expressed.
    """
    capabilities.check(backend, plan)
    if len(plan.pools) != 1 or plan.pools[0].training is None:
        raise InputError("a training plan is one job", key="pools", value=len(plan.pools))
    pool, settings = plan.pools[0], plan.pools[0].training
    s = pool.strategy
    if not settings.rank_tokens and settings.global_batch % (s.dp * settings.micro_batch):
        raise InputError(
            "data-parallel ranks and micro-batches do not make the global batch",
            key="pools[0].training.global_batch",
            value=settings.global_batch,
        )
    nodes = _nodes(plan, pool)
    if sum(len(node.indexes) for node in nodes) != s.tp * s.pp * s.dp * s.cp:
        raise InputError("the placement does not fit the degrees", key="placement", value=len(nodes))
    return Job(plan=plan, pool=pool, settings=settings, model=_model(plan), nodes=nodes)


def _model(plan: Plan) -> ModelGraph:
    root = parse_ir(plan.problem) if plan.problem else None
    payload = cast("Problem[object]", root).payload if isinstance(root, Problem) else None
    if not isinstance(payload, TrainingProblem):
        raise InputError("the plan does not say which model it trains", key="problem")
    return payload.model


def _nodes(plan: Plan, pool: Pool) -> tuple[NodeRanks, ...]:
    seats = [replica for replica in plan.placement if replica.pool == pool.name]
    if len(seats) != 1:
        raise InputError("the job is not placed once", key="placement", value=len(seats))
    found: dict[str, list[int]] = {}
    last = ""
    for text in seats[0].devices:
        node, slash, index = text.rpartition("/")
        if not slash or not node or not (index.isascii() and index.isdigit()) or len(index) > 6:
            raise InputError("a device is not <node>/<index>", key="placement.devices", value=text)
        if node != last and node in found:
            raise InputError("the ranks of a node are not together", key="placement.devices", value=node)
        found.setdefault(safe_text(node, "placement.devices"), []).append(int(index))
        last = node
    sizes = {len(indexes) for indexes in found.values()}
    if len(sizes) != 1:
        raise InputError("the nodes have different numbers of ranks", key="placement", value=sorted(sizes))
    return tuple(NodeRanks(node=node, indexes=tuple(indexes)) for node, indexes in found.items())


def argument_lines(arguments: Mapping[str, str | int | float | bool]) -> list[str]:
    """Return arguments as lines of a command: flags that are True stand alone, False ones are left out."""
    lines: list[str] = []
    for flag, value in arguments.items():
        if value is True:
            lines.append(f"--{flag}")
        elif value is not False:
            lines.append(f"--{flag} {shlex.quote(str(value))}")
    return lines


def argument_words(arguments: Mapping[str, str | int | float | bool]) -> list[str]:
    """Return arguments as the words that a program receives."""
    return [word for line in argument_lines(arguments) for word in shlex.split(line)]


def launch_files(
    job: Job,
    options: ExportOptions,
    *,
    program: Sequence[str],
    environment: Mapping[str, str],
    last: Sequence[str] = (),
) -> list[ExportedFile]:
    """Return hosts.env, launch.sh and a script per node.

    `program` and `last` are lines, quoted where they must be; the user's own words come between them.
    """
    first = safe_text(options.address(job.nodes[0].node), "placement.devices")
    hosts = f"# Where the first node of the job is reached.\nMASTER_ADDR={shlex.quote(first)}\n"
    hosts += f"MASTER_PORT={options.base_port}\n"
    text = _HEADER + 'here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"\n. "$here/hosts.env"\n'
    text += f'node_rank="${{1:?Give the number of this node, 0 to {len(job.nodes) - 1}.}}"\nshift\n'
    text += "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    words = [
        f"exec torchrun --nnodes {len(job.nodes)} --nproc-per-node {job.per_node}",
        '--node-rank "$node_rank" --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT"',
        *program,
        '"$@"',
        *last,
    ]
    text += " \\\n  ".join(words) + "\n"
    files = [
        ExportedFile(path="hosts.env", text=hosts),
        ExportedFile(path="launch.sh", text=text, mode=0o755),
    ]
    taken: list[str] = []
    for rank, node in enumerate(job.nodes):
        taken.append(slug(node.node, taken))
        devices = ",".join(map(str, node.indexes))
        script = _HEADER + 'here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"\n'
        script += f'export CUDA_VISIBLE_DEVICES={devices}\nexec "$here/../launch.sh" {rank} "$@"\n'
        files.append(ExportedFile(path=f"nodes/{taken[-1]}.sh", text=script, mode=0o755))
    return files


def readme(job: Job, runtime: str, notes: Sequence[str], options: ExportOptions) -> ExportedFile:
    """Return the README: what it is, how to start it, what to check."""
    s, settings = job.pool.strategy, job.settings
    degrees = " ".join(f"{name} {value}" for name, value in s.model_dump().items() if value > 1) or "one rank"
    step = job.plan.predicted.get("step_time_s")
    tokens = f"of up to {settings.seq_len}" if settings.rank_tokens else f"of {settings.seq_len}"
    micro = (
        f"micro-batches of up to {settings.rank_tokens} tokens per rank"
        if settings.rank_tokens
        else f"{job.num_micro} micro-batches of {settings.micro_batch} per data-parallel rank"
    )
    lines = [
        "# Launch files of a training job",
        "",
        f"For {runtime}. Plan {shown(job.plan.name)}, status {job.plan.status}.",
        "",
        f"- Degrees: {degrees}; {len(job.nodes)} nodes with {job.per_node} ranks each.",
        f"- A step: {settings.global_batch} sequences {tokens} tokens, {micro}.",
        *([f"- Predicted: {step.value:.4g} s per step, under {shown(job.pool.engine)}."] if step else []),
        f"- Model: {shown(options.model_path(job.pool.model))}.",
        "",
        "## Start",
        "",
        "1. Put the right address into `hosts.env` and copy this folder to every node.",
        "2. On each node run its script, `bash nodes/NAME.sh`, or `bash launch.sh RANK`; words after it are",
        "   passed on (paths of data and checkpoints, learning rate, ...).",
    ]
    if notes:
        lines += ["", "## Before you start", "", *(f"- {note}" for note in notes)]
    return ExportedFile(path="README.md", text="\n".join(lines) + "\n")
