"""The plan of a published run; what the row leaves open becomes every choice that the stack allows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import cast

from planner.accuracy.training.rows import RowError, TrainingRow
from planner.ir.model_graph import ModelGraph
from planner.ir.training import Recompute, TrainingStrategy
from planner.space.training.partition import chunk_sizes
from planner.space.training.software import TrainingSoftware

_CHUNKS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20)
_BATCHES = (1, 2, 4, 8, 16, 32)
_MOST_DROPPED = 3
_STAGE_BATCHED = "torchtitan"
"""Stack that splits the batch of a rank into one micro-batch per stage, and an interleaved pipeline into two
stages per rank, unless told otherwise (torchtitan, distributed/pipeline.py)."""
_STAGE_BATCHED_CHUNKS = 2
_GUESSED = ("assumed", "likely")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to run a row: its strategy and the layers that the first and last chunk have less."""

    strategy: TrainingStrategy
    first_drop: int
    last_drop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """All ways that agree with a row, its global batch, and the names of what the row leaves open.

    `usual_zero` is the ZeRO stage that is taken as long as a plan with it fits.
    """

    plans: tuple[Candidate, ...]
    global_batch: int
    unknown: tuple[str, ...]
    usual_zero: int


def candidates_of(row: TrainingRow, model: ModelGraph, software: TrainingSoftware) -> Candidates:
    """Return the plans that agree with a row.

    Raises
    ------
    RowError
        If degrees do not multiply to the devices, or the batch cannot be split.
    """
    tp, pp, dp = _degrees(row)
    batch = _global_batch(row, dp)
    unknown: list[str] = []
    zeros = _zeros(row, dp * row.cp, unknown)
    words = row.words
    parallel = tp > 1 and software.sequence_parallel
    if "without sequence parallel" in words or "no sequence parallel" in words:
        parallel = False
    elif "sequence parallel" in words or row.text("sequence_parallel").lower() in ("true", "1", "yes"):
        parallel = tp > 1
    found: list[Candidate] = []
    splits = [
        (chunks, micro)
        for chunks in _chunk_choices(row, pp, model, software, unknown)
        for micro in _batches(row, batch // dp, pp * chunks, software, unknown)
    ]
    for (chunks, micro), zero, recompute in product(splits, zeros, _recomputes(row, unknown)):
        drops = _drops(len(model.layers), pp * chunks)
        if drops is None:
            continue
        strategy = TrainingStrategy(
            tp=tp,
            pp=pp,
            dp=dp,
            cp=row.cp,
            ep=row.ep,
            etp=1 if row.ep * tp > 1 and row.ep > 1 else tp,
            num_chunks=chunks,
            micro_batch=micro,
            zero=zero,
            dp_shard=dp,
            sequence_parallel=parallel,
            recompute=cast("Recompute", recompute),
            schedule=_schedule(row, pp, chunks),
        )
        found.append(Candidate(strategy=strategy, first_drop=drops[0], last_drop=drops[1]))
    if not found:
        raise RowError("the layers cannot be split over so many stages and chunks")
    return Candidates(
        plans=tuple(found), global_batch=batch, unknown=tuple(dict.fromkeys(unknown)), usual_zero=zeros[0]
    )


def _degrees(row: TrainingRow) -> tuple[int, int, int]:
    tp, pp, dp = row.tp, row.pp, row.dp
    if tp is None or pp is None:
        raise RowError("tensor or pipeline parallel degree is unknown")
    rest, left = divmod(row.gpus, tp * pp * row.cp)
    if left:
        raise RowError(f"tp {tp} x pp {pp} x cp {row.cp} does not divide {row.gpus} devices")
    if dp is not None and dp != rest:
        raise RowError(f"tp {tp} x pp {pp} x cp {row.cp} x dp {dp} is not {row.gpus} devices")
    if row.ep > rest * row.cp * tp:
        raise RowError(f"ep {row.ep} exceeds the {rest * row.cp * tp} ranks of a stage")
    return tp, pp, rest


def _global_batch(row: TrainingRow, dp: int) -> int:
    batch = row.global_batch
    if batch is None:
        raise RowError("the global batch is unknown")
    if batch % dp:
        raise RowError(f"a global batch of {batch} cannot be split over {dp} data-parallel ranks")
    return batch


def _zeros(row: TrainingRow, ranks: int, unknown: list[str]) -> list[int]:
    """Return the stated ZeRO stage; the usual one and full sharding where it is not known."""
    if ranks == 1:
        return [0]
    guessed = any(word in row.text("zero_stage").lower() for word in _GUESSED)
    if row.zero is not None and not guessed:
        return [row.zero]
    unknown.append("zero_stage")
    usual = 1 if row.zero is None else row.zero
    return [usual, 3] if usual < 3 else [usual]


def _batches(
    row: TrainingRow, per_rank: int, stages: int, software: TrainingSoftware, unknown: list[str]
) -> list[int]:
    if row.micro_batch is not None:
        if per_rank % row.micro_batch:
            raise RowError(
                f"a micro-batch of {row.micro_batch} does not divide {per_rank} sequences per rank"
            )
        return [row.micro_batch]
    unknown.append("micro_batch")
    pipelined = stages > 1 and software.name.startswith(_STAGE_BATCHED)
    if pipelined and per_rank % stages == 0:
        return [per_rank // stages]
    return [size for size in _BATCHES if per_rank % size == 0]


def _chunk_choices(
    row: TrainingRow, pp: int, model: ModelGraph, software: TrainingSoftware, unknown: list[str]
) -> list[int]:
    if pp == 1:
        return [1]
    words = row.text("schedule").lower()
    if row.num_chunks is not None and not (row.interleaved and row.num_chunks == 1):
        return [2] if "zb-v" in words or "dualpipe" in words else [row.num_chunks]
    unknown.append("virtual_pp")
    if row.interleaved and software.name.startswith(_STAGE_BATCHED):
        return [_STAGE_BATCHED_CHUNKS]
    least = 2 if row.interleaved else 1
    choices = [c for c in _CHUNKS if least <= c and pp * c <= len(model.layers)]
    return choices or [1]


def _recomputes(row: TrainingRow, unknown: list[str]) -> list[str]:
    if row.recompute is not None:
        return [row.recompute]
    unknown.append("recompute")
    return ["none", "selective", "full"]


def _drops(num_layers: int, num_chunks: int) -> tuple[int, int] | None:
    """Return how many layers the ends have less: the fewest that make the chunks equal, else none."""
    options = [(f, last) for f in range(_MOST_DROPPED + 1) for last in range(_MOST_DROPPED + 1)]
    options.sort(key=lambda drop: (sum(drop), abs(drop[0] - drop[1]), drop[0]))
    for drop in options:
        fits = (num_layers + sum(drop)) % num_chunks == 0
        if fits and chunk_sizes(num_layers, num_chunks, *drop) is not None:
            return drop
    return (0, 0) if chunk_sizes(num_layers, num_chunks, 0, 0) is not None else None


def _schedule(row: TrainingRow, pp: int, chunks: int) -> str:
    """Return the schedule in the words of the space; DualPipe folds the stages as ZB-V does."""
    words = row.text("schedule").lower()
    if pp == 1:
        return "1f1b"
    named = (("zb-v", "zb-v"), ("dualpipe", "zb-v"), ("zb-2p", "zb-2p"), ("zb-h2", "zb-h2"), ("zb-", "zb-h1"))
    for sign, name in named:
        if sign in words:
            return name
    if "gpipe" in words:
        return "gpipe"
    return "interleaved" if chunks > 1 else "1f1b"
