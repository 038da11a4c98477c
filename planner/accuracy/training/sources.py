"""What published sources of training runs say outside their tables, or are known to mean, by source.

A row is read as written, except where its own source tells otherwise: such cells are replaced, and every
prediction of the row says so with the evidence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """Cells of all rows whose source matches `pattern`, words added to their notes, and why."""

    pattern: str
    cells: Mapping[str, str]
    notes: str
    evidence: str


_KNOWN = (
    _Known(
        pattern=r"Megatron-LM PR #482",
        cells={
            "software": "megatron-lm-2022",
            "seq_len": "2048",
            "ffn": "10880",
            "vocab": "50432",
            "params_B": "",
            "recompute": "none",
            "zero_stage": "distributed optimizer (1)",
        },
        notes="flash attention; no sequence parallel",
        evidence="2048 tokens, a width of 10880, flash attention, a distributed optimizer and no sequence "
        "parallelism are the settings of the tool's worked example (README of the pull request), and its "
        "estimate of 68.8 GB for the first run follows from them to the digit",
    ),
    _Known(
        pattern=r"Megatron-LM@v2\.6:README",
        cells={"micro_batch": "1", "virtual_pp": "1"},
        notes="",
        evidence="examples/pretrain_gpt3_175B.sh, the script of that run, has --micro-batch-size 1 and no "
        "virtual stages",
    ),
    _Known(
        pattern=r"Llama 3 paper",
        cells={"flops_count": "causal"},
        notes="",
        evidence="the paper's 3.8e25 FLOPs for 15.6e12 tokens leave no room for all pairs of tokens "
        "(4.1e25), so its rates are read with causal attention",
    ),
)


_CUMULATIVE = (
    (
        r"MegaScale Table 3",
        ("parallel block", "sliding window", "tp overlap", "pp overlap", "dp overlap", "efficient operators"),
    ),
)
"""Tables in which every row adds one change, named in its notes, to those of the rows before it."""


def _changes(source: str, notes: str) -> tuple[str, ...]:
    """Return the changes that a row of a cumulative table inherits from the rows before it."""
    for pattern, steps in _CUMULATIVE:
        if re.search(pattern, source):
            own = next((i for i, step in enumerate(steps) if step in notes.lower()), None)
            inherited = steps[:own] if own is not None else steps if "misc" in notes.lower() else ()
            return tuple(inherited)
    return ()


def known_of_source(texts: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the cells of a row with what its source is known to mean, and what was told so."""
    found = dict(texts)
    told: list[str] = []
    for known in _KNOWN:
        if not re.search(known.pattern, texts.get("source", "")):
            continue
        found |= known.cells
        if known.notes:
            found["notes"] = "; ".join(part for part in (known.notes, found.get("notes", "")) if part)
        told.append(f"{', '.join(known.cells)} of this source: {known.evidence}")
    changes = _changes(found.get("source", ""), found.get("notes", ""))
    if changes:
        found["notes"] = "; ".join((*changes, found["notes"]))
        told.append(f"changes of the rows before it hold too: {', '.join(changes)}")
    return found, tuple(told)
