"""Mooncake traces: JSON lines with timestamp (ms), input_length, output_length and hash_ids.

Format: kvcache-ai/Mooncake, FAST25-release/traces; each hash id stands for a block of 512
prompt tokens together with everything before it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import cast

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.ir.trace import RequestTrace

_BLOCK_TOKENS = 512
_MAX_NUMBER = 10**15
_MAX_TOKENS = 10**9


@dataclass(slots=True, kw_only=True)
class _PrefixCache:
    """An unbounded cache of prompt blocks: counts prompt tokens that were already seen."""

    seen: set[int] = field(default_factory=set[int])
    num_hit_tokens: int = 0

    def add(self, blocks: tuple[int, ...], num_tokens: int) -> None:
        hits = 0
        for block in blocks:
            if block not in self.seen:
                break
            hits += 1
        self.num_hit_tokens += min(hits * _BLOCK_TOKENS, num_tokens)
        self.seen.update(blocks)


class MooncakeJsonl:
    """Reads Mooncake's JSON lines."""

    def recognises(self, first_line: str) -> bool:
        """Return whether the line is a JSON object with Mooncake's keys."""
        try:
            row: object = json.loads(first_line)
        except (ValueError, RecursionError):
            return False
        return isinstance(row, dict) and {"input_length", "output_length"} <= row.keys()

    def read(self, text: str, file: str, diagnostics: Diagnostics) -> RequestTrace:
        """Return the trace; rows must be in order of arrival."""
        times: list[float] = []
        inputs: list[int] = []
        outputs: list[int] = []
        hashes: list[tuple[int, ...]] = []
        cache = _PrefixCache()
        num_empty = 0
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            row = _row(line, file, number)
            time_s = _number(row, "timestamp", file, number) / 1000.0
            num_in, num_out = (_tokens(row, key, file, number) for key in ("input_length", "output_length"))
            if times and time_s < times[-1]:
                raise InputError(
                    "arrives before the row above it", file=file, line=number, key="timestamp", value=time_s
                )
            if num_in == 0 or num_out == 0:
                num_empty += 1
                continue
            times.append(time_s)
            inputs.append(num_in)
            outputs.append(num_out)
            if "hash_ids" in row:
                hashes.append(_blocks(row["hash_ids"], file, number))
                cache.add(hashes[-1], num_in)
        if num_empty:
            diagnostics.warn(
                "trace-empty-requests",
                f"{num_empty} requests of the trace without input or output were left out",
            )
        hashed = bool(inputs) and len(hashes) == len(inputs)
        return RequestTrace(
            source=file,
            arrival_s=tuple(time - times[0] for time in times),
            input_tokens=tuple(inputs),
            output_tokens=tuple(outputs),
            prefix_share=cache.num_hit_tokens / sum(inputs) if hashed else None,
            block_tokens=_BLOCK_TOKENS if hashed else 0,
            blocks=tuple(hashes) if hashed else (),
        )


def _row(line: str, file: str, number: int) -> dict[str, object]:
    try:
        row: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not a line of JSON: {error}", file=file, line=number) from None
    if not isinstance(row, dict):
        raise InputError("not a JSON object", file=file, line=number, value=line[:80])
    return cast("dict[str, object]", row)


def _number(row: dict[str, object], key: str, file: str, number: int) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_NUMBER:
        raise InputError("must be a number, zero or more", file=file, line=number, key=key, value=value)
    return value


def _tokens(row: dict[str, object], key: str, file: str, number: int) -> int:
    value = _number(row, key, file, number)
    if value != int(value) or value > _MAX_TOKENS:
        raise InputError(
            "not a number of tokens",
            file=file,
            line=number,
            key=key,
            value=value,
            allowed=f"a whole number from 0 to {_MAX_TOKENS}",
        )
    return int(value)


def _blocks(value: object, file: str, number: int) -> tuple[int, ...]:
    blocks: list[object] = cast("list[object]", value) if isinstance(value, list) else [None]
    numbers = [block for block in blocks if isinstance(block, int)]
    if len(numbers) != len(blocks):
        raise InputError("must be a list of whole numbers", file=file, line=number, key="hash_ids")
    return tuple(numbers)


IMPORTER = MooncakeJsonl()
