"""Rules that every exported vLLM launch must pass; they read the arguments as they stand in the files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from planner.backends._launch import (
    Launch,
    hold,
    known_flags,
    known_values,
    layer_partition,
    visible_devices,
)
from planner.backends._vllm_flags import (
    CHOICES,
    ENVIRONMENT,
    FLAGS,
    KV_ROLES,
    KV_TRANSFER_KEYS,
    VLLM_VERSION,
)


def check_launch(launch: Launch) -> None:
    """Hold a launch of vLLM against all rules.

    Raises
    ------
    InputError
        Naming the file, the flag and what is wrong with it.
    """
    hold(launch, _RULES)


def _batch_limits(launch: Launch) -> Iterator[tuple[str, str]]:
    tokens, seqs = "max-num-batched-tokens", "max-num-seqs"
    if {tokens, seqs} <= launch.arguments.keys() and launch.count(tokens) < launch.count(seqs):
        yield tokens, "vLLM wants at least as many batched tokens as sequences"


def _world(launch: Launch) -> int:
    flags = ("tensor-parallel-size", "pipeline-parallel-size", "prefill-context-parallel-size")
    world = launch.count("data-parallel-size")
    for flag in flags:
        world *= launch.count(flag)
    return world


def _devices(launch: Launch) -> Iterator[tuple[str, str]]:
    nodes = launch.count("nnodes")
    if _world(launch) != nodes * launch.num_devices:
        yield (
            "tensor-parallel-size",
            f"the degrees need {_world(launch)} devices, the launch has {nodes} x {launch.num_devices}",
        )


def _ranks(launch: Launch) -> Iterator[tuple[str, str]]:
    nodes, rank = launch.count("nnodes"), launch.count("node-rank", 0)
    if rank >= nodes:
        yield "node-rank", f"the ranks of {nodes} processes end at {nodes - 1}"
    if rank and "headless" not in launch.arguments:
        yield "headless", "only the first process of a server may listen"
    if nodes > 1 and "master-addr" not in launch.arguments:
        yield "master-addr", "several processes need the address of the first"


def _context_parallel(launch: Launch) -> Iterator[tuple[str, str]]:
    if launch.count("tensor-parallel-size") % launch.count("decode-context-parallel-size"):
        yield "decode-context-parallel-size", "it must divide the tensor-parallel size"


def _transfer(launch: Launch) -> Iterator[tuple[str, str]]:
    import json

    value = launch.arguments.get("kv-transfer-config")
    if value is None:
        return
    config = cast("dict[str, str]", json.loads(value) if isinstance(value, str) else value)
    if not config.keys() <= KV_TRANSFER_KEYS:
        yield "kv-transfer-config", f"the keys are {', '.join(sorted(KV_TRANSFER_KEYS))}"
    if config.get("kv_role") not in KV_ROLES:
        yield "kv-transfer-config", f"kv_role is one of {', '.join(sorted(KV_ROLES))}"
    if "VLLM_NIXL_SIDE_CHANNEL_HOST" not in launch.environment:
        yield "kv-transfer-config", "the other pool cannot reach a side channel on localhost"


_RULES = (
    known_flags(f"vLLM {VLLM_VERSION}", FLAGS, ENVIRONMENT),
    known_values(FLAGS, CHOICES),
    _batch_limits,
    _devices,
    visible_devices,
    _ranks,
    _context_parallel,
    layer_partition("VLLM_PP_LAYER_PARTITION", "pipeline-parallel-size"),
    _transfer,
)
