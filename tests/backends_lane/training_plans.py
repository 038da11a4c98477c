"""Training plans of different shapes, whose exports are held against the training software."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from planner.backends import BACKENDS, ExportOptions
from planner.errors import UnsupportedError
from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan

_LLAMA = "llama-3.1-8b"
_EXPERTS = "deepseek-v3"
_WHOLE = {"recompute": "full", "recompute_layers": 0}
_ALL = "optimizer_and_parameters"
SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "replicated": (_LLAMA, "8xh100", {"tp": 4, "pp": 1, "cp": 1, "dp": 2, "zero": 0}),
    "fsdp": (_LLAMA, "2x8xh100@ib400", {"tp": 1, "pp": 1, "cp": 1, "dp": 16, "zero": 3, "recompute": "full"}),
    "hsdp": (_LLAMA, "2x8xh100@ib400", {"tp": 2, "pp": 1, "cp": 1, "dp": 8, "dp_shard": 4, "zero": 2}),
    "states": (_LLAMA, "8xh100", {"tp": 1, "pp": 1, "cp": 1, "dp": 8, "zero": 1, "recompute": "full"}),
    "tensor": (_LLAMA, "8xh100", {"tp": 4, "pp": 1, "cp": 1, "dp": 2, "zero": 2, "sequence_parallel": False}),
    "selective": (_LLAMA, "8xh100", {"tp": 2, "pp": 1, "cp": 1, "zero": 3, "recompute": "selective"}),
    "offload": (_LLAMA, "8xh100", {"pp": 1, "cp": 1, "zero": 3, "recompute": "selective", "offload": _ALL}),
    "offloaded states": (
        _LLAMA,
        "8xh100",
        {"tp": 1, "pp": 1, "cp": 1, "zero": 2, **_WHOLE, "offload": "optimizer"},
    ),
    "offloaded": (_LLAMA, "8xh100", {"tp": 1, "pp": 1, "cp": 1, "zero": 3, **_WHOLE, "offload": _ALL}),
    "groups": (_LLAMA, "2x8xh100@ib400", {"tp": 1, "pp": 1, "cp": 1, "dp_shard": 8, "zero": 3, **_WHOLE}),
    "context": (_LLAMA, "8xh100", {"tp": 1, "pp": 1, "cp": 4, "dp": 2, "zero": 3}),
    "pipeline": (_LLAMA, "2x8xh100@ib400", {"tp": 2, "pp": 4, "cp": 1, "zero": 2, "schedule": "1f1b"}),
    "chunks": (
        _LLAMA,
        "2x8xh100@ib400",
        {"tp": 2, "pp": 4, "cp": 1, "zero": 2, "schedule": "interleaved", "num_chunks": 4},
    ),
    "zero bubble": (_LLAMA, "2x8xh100@ib400", {"tp": 2, "pp": 4, "cp": 1, "zero": 2, "schedule": "zb-h1"}),
    "v shape": (_LLAMA, "2x8xh100@ib400", {"tp": 2, "pp": 4, "cp": 1, "zero": 2, "schedule": "zb-v"}),
    "wide tensor": (_LLAMA, "2x8xh100@ib400", {"tp": 16, "pp": 1, "cp": 1, "dp": 1, "zero": 0}),
    "experts": (
        _EXPERTS,
        "64x8xh100@ib400",
        {"tp": 1, "pp": 1, "cp": 1, "ep": 64, "etp": 1, "zero": 3, **_WHOLE},
    ),
    "experts in a pipeline": (
        _EXPERTS,
        "64x8xh100@ib400",
        {"tp": 1, "pp": 8, "cp": 1, "ep": 64, "etp": 1, "zero": 2, "schedule": "1f1b", **_WHOLE},
    ),
}
"""(model, cluster, decisions) by name of the shape."""


def plans() -> Iterator[tuple[str, Plan]]:
    """Plan every shape."""
    for name, (model, cluster, fixed) in SHAPES.items():
        large = model == _EXPERTS
        spec = {
            "kind": "training",
            "model": model,
            "cluster": cluster,
            "workload": {"global_batch": 4096 if large else 64, "seq_len": 4096},
            "objective": "min_step_time",
            "schedule": ["1f1b", "interleaved", "zb-h1", "zb-v"],
            "offload": ["none", "optimizer", "optimizer_and_parameters"],
            "fix": {"offload": "none", **fixed},
        }
        yield name, make_plan(spec, Run())


def hold(
    backend: str, file: str, refused: Mapping[str, str], defect: Callable[[Plan, str], str | None]
) -> int:
    """Hold the export of every plan against `defect`, print one line each and return an exit code.

    `refused` are the decisions that plans of a shape must be refused for; all others must be accepted.
    """
    count = 0
    for name, plan in plans():
        word, why = _finding(backend, file, plan, refused.get(name), defect)
        word = "REJECT" if why else word
        sys.stdout.write(f"{word:6} {backend} {name}" + (f": {why}" if why else "") + "\n")
        sys.stdout.flush()
        count += why is not None
    sys.stdout.write(f"{count} defects\n")
    return 1 if count else 0


def _finding(
    backend: str, file: str, plan: Plan, meant: str | None, defect: Callable[[Plan, str], str | None]
) -> tuple[str, str | None]:
    try:
        files = {found.path: found.text for found in BACKENDS.get(backend).export(plan, ExportOptions())}
    except UnsupportedError as error:
        return "refuse", None if meant and meant in str(error) else str(error)
    return "ok", f"{meant} is not refused" if meant else defect(plan, files[file])
