"""Where the ranks of a replica run: its servers, and the processes that make up each server.

The plan numbers the ranks of a replica pipeline stage by pipeline stage (stage, attention data
parallel rank, prefill context rank, tensor rank; the last runs fastest), and so do SGLang
(``initialize_model_parallel`` in ``sglang/srt/distributed/parallel_state.py``, 0.5.23) and
TensorRT-LLM. vLLM numbers them data parallel rank first (data parallel, stage, prefill context, tensor):
``initialize_model_parallel`` in ``vllm/distributed/parallel_state.py``, vLLM 0.32. This module does
the renumbering.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import gcd

from planner.errors import InputError
from planner.plan.schema import Plan, Pool, StrategyModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device of the placement: index on a node."""

    node: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One launch on one node: the devices it may see, in the order of its ranks."""

    node: str
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One endpoint of a pool: a group of processes with equally many devices, the first one leads."""

    pool: Pool
    replica: int
    number: int
    data_parallel: int
    processes: tuple[Process, ...]


def slug(name: str, taken: Sequence[str] = ()) -> str:
    """Return `name` as lower-case letters, digits and dashes, distinct from the names `taken`.

    At most 40 characters, beginning and ending with a letter or digit, so that it can be part of a
    DNS-1123 label and of a file name.
    """
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
    base = "-".join(part for part in kept.split("-") if part)[:40].strip("-") or "x"
    if not base[0].isalpha():
        base = f"p-{base}"
    found, number = base, 2
    while found in taken:
        found, number = f"{base}-{number}", number + 1
    return found


def pool_slugs(plan: Plan) -> dict[str, str]:
    """Return the file and object names of the pools, by name of the pool."""
    slugs: dict[str, str] = {}
    for pool in plan.pools:
        if pool.name in slugs:
            raise InputError("two pools have the same name", key="pools.name", value=pool.name)
        slugs[pool.name] = slug(pool.name, tuple(slugs.values()))
    return slugs


def is_dense_data_parallel(strategy: StrategyModel) -> bool:
    """Return whether the data-parallel ranks share nothing: no experts are spread over them."""
    return strategy.attention_dp > 1 and strategy.ep == 1 and strategy.moe_tp == 1


def replica_size(strategy: StrategyModel) -> int:
    """Return the devices of one replica."""
    return strategy.tp * strategy.pp * strategy.attention_dp * strategy.cp


def local_devices(pool: Pool, num_processes: int) -> int:
    """Return the devices of each process of a server."""
    ranks = 1 if is_dense_data_parallel(pool.strategy) else pool.strategy.attention_dp
    return replica_size(pool.strategy) // pool.strategy.attention_dp * ranks // num_processes


def servers(plan: Plan, pool: Pool, *, stage_major: bool = False) -> tuple[Server, ...]:
    """Return the servers of a pool in the order of the placement.

    Their processes hold the ranks in the plan's order if `stage_major`, else in that of vLLM.

    Raises
    ------
    InputError
        If the placement does not fit the pool.
    """
    placed = sorted((r for r in plan.placement if r.pool == pool.name), key=lambda r: r.replica)
    if len(placed) != pool.replicas:
        raise InputError(
            f"pool {pool.name!r} has {pool.replicas} replicas but {len(placed)} are placed",
            key="placement",
            value=len(placed),
        )
    found: list[Server] = []
    for replica in placed:
        devices = tuple(_device(text) for text in replica.devices)
        engines = _engines(devices, pool)
        groups = [[e] for e in engines] if is_dense_data_parallel(pool.strategy) else [engines]
        for group in groups:
            parts = _stages(devices if len(group) > 1 else group[0], pool) if stage_major else group
            found.append(
                Server(
                    pool=pool,
                    replica=replica.replica,
                    number=len(found),
                    data_parallel=len(group),
                    processes=_processes(parts),
                )
            )
    return tuple(found)


def _stages(devices: tuple[Device, ...], pool: Pool) -> list[tuple[Device, ...]]:
    """Return the devices of each pipeline stage, in the order of the plan's ranks."""
    stage = len(devices) // pool.strategy.pp
    return [devices[i : i + stage] for i in range(0, len(devices), stage)]


def _device(text: str) -> Device:
    node, slash, index = text.rpartition("/")
    if not slash or not node or not (index.isascii() and index.isdigit()):
        raise InputError(
            "a device of the placement is not <node>/<index>", key="placement.devices", value=text
        )
    return Device(node=node, index=int(index))


def _engines(devices: tuple[Device, ...], pool: Pool) -> list[tuple[Device, ...]]:
    """Return the devices of each data-parallel rank, in the order of vLLM's ranks."""
    strategy = pool.strategy
    if len(devices) != replica_size(strategy):
        raise InputError(
            f"a replica of pool {pool.name!r} needs {replica_size(strategy)} devices",
            key="placement.devices",
            value=len(devices),
        )
    block = strategy.cp * strategy.tp
    stage = strategy.attention_dp * block
    return [
        tuple(devices[s * stage + d * block + k] for s in range(strategy.pp) for k in range(block))
        for d in range(strategy.attention_dp)
    ]


def _processes(parts: list[tuple[Device, ...]]) -> tuple[Process, ...]:
    """Return the processes of a server: equally many devices each, none spanning nodes.

    A process holds whole parts (data-parallel ranks or stages) where the nodes allow that, else equal
    shares of one. vLLM's multiprocessing executor and SGLang want every one of their ``--nnodes`` to
    be of one size, so a node that holds more gets several processes.
    """
    flat = [device for part in parts for device in part]
    runs = [len(list(run)) for _, run in groupby(flat, key=lambda d: d.node)]
    size = gcd(*runs)
    if size % len(parts[0]):
        size = gcd(size, len(parts[0]))
    chunks = [flat[i : i + size] for i in range(0, len(flat), size)]
    return tuple(Process(node=c[0].node, indexes=tuple(d.index for d in c)) for c in chunks)
