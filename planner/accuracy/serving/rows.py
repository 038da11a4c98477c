"""Measured serving runs: a CSV of the columns of `serving.csv`, one run per row; blank cells are unknown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.accuracy.table import Table, read_table
from planner.errors import InputError

REQUIRED = ("gpu", "framework", "model")
_LENGTHS = ("isl", "osl")
_NUMBERS = (
    "tp",
    "pp",
    "attn_dp",
    "moe_tp",
    "ep",
    "p_tp",
    "p_dp",
    "p_ep",
    "p_workers",
    "d_tp",
    "d_dp",
    "d_ep",
    "d_workers",
    "n_gpus",
    "concurrency",
    "rate",
    "batch",
    "max_num_seqs",
    "token_budget",
    "num_requests",
    "isl",
    "osl",
    "out_tok_s_total",
    "out_tok_s_per_gpu",
    "ttft_ms",
    "tpot_ms",
    "e2e_ms",
)
_TEXTS = (
    "gpu",
    "framework",
    "version",
    "model",
    "quantization",
    "mode",
    "tput_kind",
    "stat",
    "source",
    "file",
    "note",
    "suspect",
    "log",
)
_SPREAD = re.compile(r"len~U\[(\d*\.?\d+),\s*(\d*\.?\d+)\]x nominal")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRow:
    """One run. Numbers are None where the cell is blank; `line` is its line in the file.

    `log` is the file of its requests, where the row names one.

    `texts` holds the words of a row and `numbers` its figures, by column name.
    """

    line: int
    texts: Mapping[str, str]
    numbers: Mapping[str, float]
    log: Path | None = None

    def text(self, name: str) -> str:
        """Return the words of a column, "" where blank."""
        return self.texts[name]

    def number(self, name: str) -> float | None:
        """Return the figure of a column, None where blank."""
        return self.numbers.get(name)

    @property
    def source(self) -> str:
        """Where the row is from."""
        return self.texts["source"] or "unknown"

    @property
    def mode(self) -> str:
        """What kind of run it was; a run with workers of its own for prefill is disaggregated."""
        return self.texts["mode"].lower() or ("agg" if self.log is None else "trace")

    @property
    def length_spread(self) -> tuple[float, float]:
        """Lowest and highest length of a request over the nominal one; (1, 1) for fixed lengths.

        Source: benchmarks that draw lengths uniformly say so in their notes.
        """
        found = _SPREAD.search(self.texts["note"])
        return (float(found[1]), float(found[2])) if found else (1.0, 1.0)


def read_rows(path: Path) -> list[ServingRow]:
    """Return the runs of a file.

    Raises
    ------
    InputError
        If the file is no CSV with the columns of a serving table, or a cell that holds a figure does not.
    """
    table = read_table(path)
    needed = REQUIRED if "log" in table.columns else (*REQUIRED, *_LENGTHS)
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise InputError(
            "not a table of serving runs: columns are missing",
            file=table.file,
            line=1,
            value=", ".join(missing),
            allowed=", ".join((*_TEXTS, *_NUMBERS)),
        )
    texts = {name: table.text(name) for name in _TEXTS}
    figures = {name: _figures(table, name) for name in _NUMBERS}
    return [
        ServingRow(
            line=index + 2,
            texts={name: column[index].strip() for name, column in texts.items()},
            numbers={
                name: column[index] for name, column in figures.items() if not math.isnan(column[index])
            },
            log=path.parent / texts["log"][index].strip() if texts["log"][index].strip() else None,
        )
        for index in range(table.num_rows)
    ]


def _figures(table: Table, name: str) -> list[float]:
    values = table.number(name).tolist()
    for index, value in enumerate(values):
        if math.isinf(value) or value < 0.0:
            raise InputError(
                "a cell must hold a number that is not negative, or nothing",
                file=table.file,
                line=index + 2,
                key=name,
                value=table.text(name)[index][:80],
            )
    return values
