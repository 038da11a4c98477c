"""Rows of published training runs: every cell is read once, a blank is unknown and stays so."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from planner.accuracy.table import read_table
from planner.accuracy.training.sources import known_of_source
from planner.errors import InputError, shown

_NEEDED = ("source", "gpus", "gpu_type", "metric", "value")
_MAX_COUNT = 10_000_000
_STAGE = re.compile(r"(?:zero|stage)[-_ ]*(?:stage)?[-_ ]*([0-3])\b|^([0-3])(?![0-9.])|\(([0-3])\b")
_TORCH_GB = 2.0**30
"""Frameworks print memory in units of 2^30 bytes and call them GB."""


class RowError(ValueError):
    """A row that cannot be read or priced; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """One measured run. None is unknown; `texts` holds the cells as written, by column.

    `zero` is the ZeRO stage (FSDP without resharding after forward counts as 2). `memory_bytes` is the
    measured peak. `told` says what the row's source tells beside the row.
    """

    line: int
    texts: Mapping[str, str]
    gpus: int
    seq_len: int | None
    tp: int | None
    pp: int | None
    num_chunks: int | None
    interleaved: bool
    dp: int | None
    cp: int
    ep: int
    zero: int | None
    micro_batch: int | None
    global_batch: int | None
    recompute: str | None
    fmt: str
    metric: str
    value: float
    memory_bytes: float | None
    told: tuple[str, ...] = ()

    def text(self, name: str) -> str:
        """Return a cell as written, "" if blank or missing."""
        return self.texts.get(name, "")

    @property
    def source(self) -> str:
        """Where the row was published."""
        return self.text("source")

    @property
    def words(self) -> str:
        """Source, schedule and notes in lower case, for what only prose says."""
        names = ("source", "software", "framework", "schedule", "notes")
        return " ; ".join(self.text(name) for name in names).lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTable:
    """Rows that can be read, and (line, source, device, reason) of those that cannot."""

    file: str
    rows: tuple[TrainingRow, ...]
    refused: tuple[tuple[int, str, str, str], ...]


def read_training(path: Path) -> TrainingTable:
    """Read a CSV of training runs.

    Raises
    ------
    InputError
        If the file cannot be read or lacks a column that every row needs.
    """
    table = read_table(path)
    missing = [name for name in _NEEDED if name not in table.columns]
    if missing:
        raise InputError(
            f"no column {missing[0]!r}", file=table.file, line=1, allowed=", ".join(sorted(table.columns))
        )
    rows: list[TrainingRow] = []
    refused: list[tuple[int, str, str, str]] = []
    for index in range(table.num_rows):
        written = {name: cells[index].strip() for name, cells in table.columns.items()}
        texts, told = known_of_source(written)
        try:
            rows.append(replace(_row(texts, index + 2), told=told))
        except RowError as error:
            refused.append((index + 2, texts["source"], texts["gpu_type"], str(error)))
    return TrainingTable(file=table.file, rows=tuple(rows), refused=tuple(refused))


def _row(texts: Mapping[str, str], line: int) -> TrainingRow:
    value = _number(texts, "value")
    if value is None or value < 0:
        raise RowError("the measured value is blank or negative")
    gpus = _count(texts, "gpus")
    if gpus is None:
        raise RowError("the number of GPUs is unknown")
    memory = _number(texts, "memory_GB")
    chunks, interleaved = _chunks(texts)
    decimal = "decimal gb" in texts.get("notes", "").lower()
    return TrainingRow(
        line=line,
        texts=texts,
        gpus=gpus,
        seq_len=_count(texts, "seq_len"),
        tp=_count(texts, "tp"),
        pp=_count(texts, "pp"),
        num_chunks=chunks,
        interleaved=interleaved,
        dp=_count(texts, "dp"),
        cp=_count(texts, "cp") or 1,
        ep=_count(texts, "ep") or 1,
        zero=_zero(texts.get("zero_stage", "")),
        micro_batch=_count(texts, "micro_batch"),
        global_batch=_count(texts, "global_batch"),
        recompute=_recompute(texts.get("recompute", "")),
        fmt=_format(texts.get("precision", "")),
        metric=texts["metric"],
        value=value,
        memory_bytes=None if memory is None else memory * (1e9 if decimal else _TORCH_GB),
    )


def _number(texts: Mapping[str, str], name: str) -> float | None:
    text = texts.get(name, "").replace(",", "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise RowError(f"{name} is no number: {shown(text)}") from None
    if not math.isfinite(value):
        raise RowError(f"{name} is not finite")
    return value


def _count(texts: Mapping[str, str], name: str) -> int | None:
    value = _number(texts, name)
    if value is None:
        return None
    if value != int(value) or not 1 <= value <= _MAX_COUNT:
        raise RowError(f"{name} is no count: {shown(texts[name])}")
    return int(value)


def _chunks(texts: Mapping[str, str]) -> tuple[int | None, bool]:
    """Return chunks per device, None where unknown, and whether the schedule is interleaved."""
    words = (texts.get("schedule", "") + " " + texts.get("notes", "")).lower()
    interleaved = "interleav" in texts.get("schedule", "").lower()
    text = texts.get("virtual_pp", "")
    if text.startswith(">"):
        return None, True
    chunks = _count(texts, "virtual_pp")
    if chunks is None:
        unknown = interleaved or "1f1b family" in words
        return (None if unknown else 1), interleaved
    return chunks, interleaved or chunks > 1


def _zero(text: str) -> int | None:
    """Return the ZeRO stage that a cell describes, None where blank; FSDP that does not say is stage 3."""
    lower = text.lower()
    if not lower:
        return None
    if "or 2" in lower or "grad_op" in lower:
        return 2
    stated = _STAGE.search(lower)
    if stated is not None:
        return int(next(group for group in stated.groups() if group))
    if "fsdp" in lower or "full_shard" in lower:
        return 3
    if lower in ("none", "ddp", "no"):
        return 0
    raise RowError(f"cannot read the ZeRO stage {shown(text)}")


def _recompute(text: str) -> str | None:
    lower = text.lower()
    for word in ("none", "no", "false"):
        if lower.startswith(word) and "not stated" not in lower:
            return "none"
    if "checkpoint" in lower and "selective" not in lower:
        return "full"
    for word in ("selective", "full"):
        if word in lower:
            return word
    if lower in ("true", "yes", "1", "block", "uniform", "on"):
        return "full"
    if lower in ("0", "off"):
        return "none"
    if lower:
        raise RowError(f"cannot read the recompute setting {shown(text)}")
    return None


def _format(text: str) -> str:
    """Return the format of matrix products; blank means 16 bit, as no older run names it."""
    lower = text.lower()
    if "fp4" in lower:
        return "nvfp4"
    if "block" in lower and "rowwise" not in lower:
        return "fp8_block"
    if "fp8" in lower or "float8" in lower:
        return "fp8"
    if lower in ("int8", "fp32", "tf32"):
        raise RowError(f"training in {lower} is not modelled")
    return "fp16" if lower == "fp16" else "bf16"
