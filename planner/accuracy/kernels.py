"""Measured kernels as pieces of work: which columns mean what, and which rows cannot be priced.

The kind of a table is known by its header. Rows that agree in everything but sizes form one group and
are priced in one call. Every row ends up in a group or with a reason why not.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from planner.accuracy.table import FloatArray, Table, read_table
from planner.errors import InputError

_ENGINE = re.compile(r"vllm|sglang|trt-?llm|tensorrt-?llm")
EAGER = "eager"
_MAX_SIZE = 1e13
_HALVES = ("dispatch", "combine")
_EAGER = {("gemm", "fp8_block", "vllm")}
_ENGINE_NAMES = {"trt-llm": "trtllm", "tensorrt-llm": "trtllm", "tensorrtllm": "trtllm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of kernel table: the columns that tell it, its categories and its sizes.

    `at_most` names pairs of sizes of which the first may not exceed the second.
    """

    name: str
    required: tuple[str, ...]
    categories: tuple[str, ...]
    sizes: tuple[str, ...]
    optional_sizes: tuple[str, ...] = ()
    at_most: tuple[tuple[str, str], ...] = ()


KINDS = (
    Kind(
        name="attention",
        required=("phase", "batch", "kv_len", "heads", "head_dim", "time_us"),
        categories=("source", "gpu", "phase", "q_dtype", "kv_dtype", "kind"),
        sizes=("batch", "kv_len", "heads", "head_dim"),
        optional_sizes=("q_len", "kv_heads", "window"),
        at_most=(("q_len", "kv_len"), ("kv_heads", "heads")),
    ),
    Kind(
        name="moe",
        required=("tokens", "hidden", "inter", "topk", "experts", "time_us"),
        categories=("source", "gpu", "dtype", "routing", "kernel"),
        sizes=("tokens", "hidden", "inter", "topk", "experts"),
        optional_sizes=("tp", "ep"),
        at_most=(("topk", "experts"), ("ep", "experts"), ("tp", "inter")),
    ),
    Kind(
        name="exchange",
        required=("impl", "half", "n_gpus", "tokens_per_rank", "hidden", "topk", "time_us"),
        categories=("source", "gpu", "impl", "nodes", "n_gpus", "half", "sms"),
        sizes=("tokens_per_rank", "hidden", "topk"),
    ),
    Kind(
        name="collective",
        required=("op", "n_gpus", "message_bytes", "time_us"),
        categories=("source", "gpu", "system", "nodes", "op", "n_gpus", "impl", "dtype"),
        sizes=("message_bytes",),
    ),
    Kind(
        name="gemm",
        required=("m", "n", "k", "time_us"),
        categories=("source", "gpu", "dtype"),
        sizes=("m", "n", "k"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelGroup:
    """Rows of one table that differ in sizes only."""

    kind: str
    category: dict[str, str]
    sizes: dict[str, FloatArray]
    measured_s: FloatArray
    rows: NDArray[np.int64]

    @property
    def source(self) -> str:
        """Where the rows come from, without the kernel's own name."""
        return source_name(self.category["source"])

    @property
    def software(self) -> str:
        """Kernel software that the source names, or an empty string."""
        return software_of(self.category["source"])

    @property
    def kernel(self) -> str:
        """Name of the kernel where the table tells it; what is unlike the usual one counts as another.

        ``eager`` rows were not captured in a graph, so that their floor is launch overhead; 8-bit integer
        reductions do not get the in-switch path of half-precision ones.
        """
        text = self.category
        if (self.kind, text.get("dtype"), self.software.split("-")[0]) in _EAGER:
            return EAGER
        if self.kind == "collective":
            return "int8" if text["dtype"] == "int8" else ""
        parts = text["source"].split(":")
        return text.get("kernel", "") or (parts[2] if len(parts) > 2 and parts[0] == "aic" else "")

    def select(self, mask: NDArray[np.bool_]) -> KernelGroup:
        """Return the group with the rows that `mask` keeps."""
        return KernelGroup(
            kind=self.kind,
            category=self.category,
            sizes={name: column[mask] for name, column in self.sizes.items()},
            measured_s=self.measured_s[mask],
            rows=self.rows[mask],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTable:
    """All groups of a file, and how many rows were refused for which reason per (source, gpu)."""

    kind: str
    file: str
    num_rows: int
    groups: tuple[KernelGroup, ...]
    refused: dict[tuple[str, str], Counter[str]]


def source_name(source: str) -> str:
    """Return the source without the kernel suffix of ``aic:engine-version:kernel``."""
    return ":".join(source.split(":")[:2]) if source.startswith("aic:") else (source or "unstated")


def software_of(source: str) -> str:
    """Return the kernel software that a source names: ``vllm-0.24.0``, ``vllm`` or an empty string."""
    parts = source.split(":")
    if parts[0] == "aic" and len(parts) > 1:
        return parts[1]
    named = _ENGINE.search(source.lower())
    return _ENGINE_NAMES.get(named[0], named[0]) if named else ""


def read_kernels(path: Path, *, device: str = "") -> KernelTable:
    """Read a kernel table; its kind is detected from its header.

    `device` stands in where the file has no gpu column.

    Raises
    ------
    InputError
        If the file cannot be read or its header matches no kind of kernel.
    """
    table = _in_halves(read_table(path))
    if device and "gpu" not in table.columns:
        table.columns["gpu"] = [device] * table.num_rows
    kind = _kind_of(table)
    bad = _bad_rows(table, kind)
    category_columns = [[cell.strip() for cell in table.text(name)] for name in kind.categories]
    members: dict[tuple[str, ...], list[int]] = defaultdict(list)
    refused: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for index, key in enumerate(zip(*category_columns, strict=True)):
        if bad[index]:
            refused[(source_name(key[0]), key[1] or "unstated")][bad[index]] += 1
        else:
            members[key].append(index)
    sizes = {name: table.number(name) for name in (*kind.sizes, *kind.optional_sizes)}
    measured_s = table.number("time_us") * 1e-6
    groups = [_group(kind, key, np.array(rows), sizes, measured_s) for key, rows in sorted(members.items())]
    return KernelTable(
        kind=kind.name, file=table.file, num_rows=table.num_rows, groups=tuple(groups), refused=dict(refused)
    )


def _group(
    kind: Kind,
    key: tuple[str, ...],
    rows: NDArray[np.int64],
    sizes: dict[str, FloatArray],
    measured_s: FloatArray,
) -> KernelGroup:
    return KernelGroup(
        kind=kind.name,
        category=dict(zip(kind.categories, key, strict=True)),
        sizes={name: column[rows] for name, column in sizes.items()},
        measured_s=measured_s[rows],
        rows=rows,
    )


def _in_halves(table: Table) -> Table:
    """Return a table of exchanges with a row for each half that was timed; others as they are.

    A layout that is announced before (``notify_``) is part of its half. A row without any time stays, to be
    refused.
    """
    if not all(f"{half}_us" in table.columns for half in _HALVES) or "time_us" in table.columns:
        return table
    kept: list[int] = []
    halves: list[str] = []
    times: list[str] = []
    for index in range(table.num_rows):
        cells = {half: table.columns[f"{half}_us"][index].strip() for half in _HALVES}
        timed = [half for half in _HALVES if cells[half]] or [_HALVES[0]]
        for half in timed:
            kept.append(index)
            halves.append(half)
            times.append(_summed(cells[half], table.text(f"notify_{half}_us")[index]))
    columns: dict[str, Sequence[str]] = {
        name: [column[i] for i in kept] for name, column in table.columns.items()
    }
    return Table(file=table.file, columns=columns | {"half": halves, "time_us": times}, num_rows=len(kept))


def _summed(time_us: str, notify_us: str) -> str:
    try:
        return repr(float(time_us) + float(notify_us)) if notify_us.strip() else time_us
    except ValueError:
        return time_us


def _kind_of(table: Table) -> Kind:
    for kind in KINDS:
        if all(name in table.columns for name in kind.required):
            return kind
    wanted = " | ".join(f"{kind.name}: {', '.join(kind.required)}" for kind in KINDS)
    raise InputError(
        "the header matches no kind of kernel table",
        file=table.file,
        line=1,
        value=", ".join(table.columns),
        allowed=wanted,
        hint="A gpu column names the device; source and dtype columns are optional.",
    )


def _bad_rows(table: Table, kind: Kind) -> Sequence[str]:
    """Return for each row why its numbers cannot be used, or an empty string."""
    reason = np.full(table.num_rows, "", dtype=object)
    columns = {name: table.number(name) for name in (*kind.sizes, *kind.optional_sizes, "time_us")}
    for name, values in columns.items():
        required = name not in kind.optional_sizes
        if required:
            reason[np.isnan(values)] = f"{name} is blank"
        reason[np.isinf(values)] = f"{name} is not a finite number"
        reason[(values > _MAX_SIZE) & (reason == "")] = f"{name} is larger than {_MAX_SIZE:.0e}"
        low = values < 0 if name == "window" else values <= 0
        reason[low & (reason == "")] = (
            f"{name} is negative" if name == "window" else f"{name} is not positive"
        )
        if name != "time_us":
            broken = np.isfinite(values) & (values != np.floor(values))
            reason[broken & (reason == "")] = f"{name} is not a whole number"
    for small, large in kind.at_most:
        over = columns[small] > columns[large]
        reason[over & (reason == "")] = f"{small} exceeds {large}"
    for index, name in enumerate(table.text("gpu")):
        if not name.strip():
            reason[index] = "gpu is blank"
    return [str(text) for text in reason]
