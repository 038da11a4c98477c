"""Rules that every exported vLLM launch must pass; they read the arguments as they stand in the files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from planner.backends._vllm_flags import (
    CHOICES,
    ENVIRONMENT,
    FLAGS,
    KV_ROLES,
    KV_TRANSFER_KEYS,
    VLLM_VERSION,
)
from planner.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One ``vllm serve``: flags without dashes (True for a switch), environment, devices it may see.

    `file` is the exported file it stands in. A value the launching shell fills in is given as "".
    """

    file: str
    arguments: Mapping[str, object]
    environment: Mapping[str, str]
    num_devices: int


def check_launch(launch: Launch) -> None:
    """Hold a launch against all rules.

    Raises
    ------
    InputError
        Naming the file, the flag and what is wrong with it.
    """
    for rule in _RULES:
        for flag, message in rule(launch):
            raise InputError(
                message, file=launch.file, key=flag, value=launch.arguments.get(flag, launch.environment)
            )


def parse_words(words: list[str]) -> dict[str, object]:
    """Return the words after ``vllm serve`` as flags and values (True for a switch).

    A bare first word is the model.
    """
    bare = bool(words) and not words[0].startswith("--")
    found: dict[str, object] = {"model": words[0]} if bare else {}
    position = int(bare)
    while position < len(words):
        flag = words[position].removeprefix("--")
        if FLAGS.get(flag) == "switch":
            found[flag], position = True, position + 1
        else:
            found[flag] = words[position + 1] if position + 1 < len(words) else ""
            position += 2
    return found


def _int(launch: Launch, flag: str, default: int = 1) -> int:
    value = launch.arguments.get(flag, default)
    return int(cast("Any", value)) if value != "" else default


def _known_flags(launch: Launch) -> Iterator[tuple[str, str]]:
    for flag in launch.arguments:
        if flag not in FLAGS:
            yield flag, f"vLLM {VLLM_VERSION} has no such flag that we know"
    for name in launch.environment:
        if name not in ENVIRONMENT:
            yield name, "an environment variable that vLLM does not read"


_TAKES: dict[str, Callable[[object], bool]] = {
    "int": lambda v: str(v).isdigit(),
    "fraction": lambda v: 0 < float(cast("Any", v)) <= 1,
    "switch": lambda v: v is True,
    "text": lambda v: bool(str(v)) and not str(v).startswith("-"),
    "json": lambda v: isinstance(v, Mapping | str),
}


def _values(launch: Launch) -> Iterator[tuple[str, str]]:
    for flag, value in launch.arguments.items():
        if value == "":
            continue
        if not _TAKES[FLAGS[flag]](value):
            yield flag, f"the value must be of the kind {FLAGS[flag]}"
        elif flag in CHOICES and str(value) not in CHOICES[flag]:
            yield flag, f"the value must be one of {', '.join(sorted(CHOICES[flag]))}"


def _batch_limits(launch: Launch) -> Iterator[tuple[str, str]]:
    tokens, seqs = "max-num-batched-tokens", "max-num-seqs"
    if {tokens, seqs} <= launch.arguments.keys() and _int(launch, tokens) < _int(launch, seqs):
        yield tokens, "vLLM wants at least as many batched tokens as sequences"


def _world(launch: Launch) -> int:
    flags = ("tensor-parallel-size", "pipeline-parallel-size", "prefill-context-parallel-size")
    world = _int(launch, "data-parallel-size")
    for flag in flags:
        world *= _int(launch, flag)
    return world


def _devices(launch: Launch) -> Iterator[tuple[str, str]]:
    nodes = _int(launch, "nnodes")
    if _world(launch) != nodes * launch.num_devices:
        yield (
            "tensor-parallel-size",
            f"the degrees need {_world(launch)} devices, the launch has {nodes} x {launch.num_devices}",
        )
    visible = launch.environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        indexes = visible.split(",")
        if len(set(indexes)) != len(indexes) or len(indexes) != launch.num_devices:
            yield "CUDA_VISIBLE_DEVICES", f"the launch needs {launch.num_devices} different devices"


def _ranks(launch: Launch) -> Iterator[tuple[str, str]]:
    nodes, rank = _int(launch, "nnodes"), _int(launch, "node-rank", 0)
    if rank >= nodes:
        yield "node-rank", f"the ranks of {nodes} processes end at {nodes - 1}"
    if rank and "headless" not in launch.arguments:
        yield "headless", "only the first process of a server may listen"
    if nodes > 1 and "master-addr" not in launch.arguments:
        yield "master-addr", "several processes need the address of the first"


def _context_parallel(launch: Launch) -> Iterator[tuple[str, str]]:
    if _int(launch, "tensor-parallel-size") % _int(launch, "decode-context-parallel-size"):
        yield "decode-context-parallel-size", "it must divide the tensor-parallel size"


def _partition(launch: Launch) -> Iterator[tuple[str, str]]:
    text = launch.environment.get("VLLM_PP_LAYER_PARTITION")
    if text is None:
        return
    parts = text.split(",")
    if len(parts) != _int(launch, "pipeline-parallel-size") or not all(p.isdigit() and int(p) for p in parts):
        yield "VLLM_PP_LAYER_PARTITION", "there must be one positive number per stage"


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
    _known_flags,
    _values,
    _batch_limits,
    _devices,
    _ranks,
    _context_parallel,
    _partition,
    _transfer,
)
