"""Many training plans at once: one array per degree, all of one length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from planner.ir.training import Gradients, Offload, Recompute, TrainingStrategy

IntArray = NDArray[np.int64]

RECOMPUTES: tuple[Recompute, ...] = ("none", "selective", "full")
OFFLOADS: tuple[Offload, ...] = (
    "none",
    "optimizer",
    "optimizer_and_parameters",
    "activations",
    "optimizer_and_activations",
    "everything",
)
GRADIENTS: tuple[Gradients, ...] = ("full", "bf16", "int4", "1bit")
SCHEDULES: tuple[str, ...] = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "zb-2p")

Away = Literal["states", "weights", "activations"]
AWAY: dict[Away, tuple[bool, ...]] = {
    "states": (False, True, True, False, True, True),
    "weights": (False, False, True, False, False, True),
    "activations": (False, False, False, True, True, True),
}
"""What each of OFFLOADS keeps on the host: Adam's states, 16-bit weights, activations."""

FITTED = -1
"""As many layers of each chunk as memory makes necessary, none if it can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanArrays:
    """Plans as columns. Choices that are words are indices into RECOMPUTES, OFFLOADS, SCHEDULES, GRADIENTS.

    `first_drop` and `last_drop` are the layers by which the first and the last chunk are shorter
    than the others, making room for the embedding and the head. `cp_ulysses` of the context ranks exchange
    heads. The first `recompute_layers` of each chunk are recomputed in full (0: all; FITTED: as many as must
    be).
    """

    tp: IntArray
    pp: IntArray
    dp: IntArray
    cp: IntArray
    ep: IntArray
    etp: IntArray
    num_chunks: IntArray
    micro_batch: IntArray
    zero: IntArray
    dp_shard: IntArray
    sequence_parallel: IntArray
    recompute: IntArray
    offload: IntArray
    schedule: IntArray
    first_drop: IntArray
    last_drop: IntArray
    cp_ulysses: IntArray
    recompute_layers: IntArray
    gradients: IntArray

    def __len__(self) -> int:
        return len(self.tp)

    def take(self, index: IntArray | NDArray[np.bool_]) -> PlanArrays:
        """Return the plans at `index` (positions or a mask)."""
        return PlanArrays(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def strategy(self, i: int) -> TrainingStrategy:
        """Return plan `i` as a strategy of the IR."""
        return TrainingStrategy(
            tp=int(self.tp[i]),
            pp=int(self.pp[i]),
            dp=int(self.dp[i]),
            cp=int(self.cp[i]),
            ep=int(self.ep[i]),
            etp=int(self.etp[i]),
            cp_ulysses=int(self.cp_ulysses[i]),
            num_chunks=int(self.num_chunks[i]),
            micro_batch=int(self.micro_batch[i]),
            zero=int(self.zero[i]),
            dp_shard=int(self.dp_shard[i]),
            sequence_parallel=bool(self.sequence_parallel[i]),
            recompute=RECOMPUTES[int(self.recompute[i])],
            recompute_layers=int(self.recompute_layers[i]),
            offload=OFFLOADS[int(self.offload[i])],
            schedule=SCHEDULES[int(self.schedule[i])],
            gradients=GRADIENTS[int(self.gradients[i])],
        )


def distinct(columns: list[IntArray]) -> tuple[IntArray, IntArray]:
    """Return where each distinct row of `columns` first stands, and which of them every row is.

    Distinct rows are in lexicographic order; entries are not negative and their product stays below 2^62.
    """
    key = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        key = key * (int(column.max(initial=0)) + 1) + column
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    return first.astype(np.int64), inverse.astype(np.int64)


def concatenate(parts: list[PlanArrays]) -> PlanArrays:
    """Return all plans of `parts` in order."""
    return PlanArrays(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(PlanArrays)}
    )


def single(strategy: TrainingStrategy, *, first_drop: int = 0, last_drop: int = 0) -> PlanArrays:
    """Return one strategy as arrays of length one."""

    def one(value: int) -> IntArray:
        return np.array([value], dtype=np.int64)

    return PlanArrays(
        tp=one(strategy.tp),
        pp=one(strategy.pp),
        dp=one(strategy.dp),
        cp=one(strategy.cp),
        ep=one(strategy.ep),
        etp=one(strategy.etp),
        num_chunks=one(strategy.num_chunks),
        micro_batch=one(strategy.micro_batch),
        zero=one(strategy.zero),
        dp_shard=one(strategy.dp_shard),
        sequence_parallel=one(int(strategy.sequence_parallel)),
        recompute=one(RECOMPUTES.index(strategy.recompute)),
        offload=one(OFFLOADS.index(strategy.offload)),
        schedule=one(SCHEDULES.index(strategy.schedule)),
        first_drop=one(first_drop),
        last_drop=one(last_drop),
        cp_ulysses=one(strategy.cp_ulysses),
        recompute_layers=one(strategy.recompute_layers),
        gradients=one(GRADIENTS.index(strategy.gradients)),
    )


def away(plans: PlanArrays, what: Away) -> NDArray[np.bool_]:
    """Return whether plans keep something on the host, [plans]."""
    return np.asarray(AWAY[what])[plans.offload]


def leanest_offload(offloads: Iterable[str]) -> int:
    """Return the one of OFFLOADS that keeps on the host what any of `offloads` does."""
    names = set(offloads)
    chosen = [index for index, word in enumerate(OFFLOADS) if word in names]
    wanted = tuple(any(part[index] for index in chosen) for part in AWAY.values())
    return list(zip(*AWAY.values(), strict=True)).index(wanted)


def keeps_activations(offloads: Iterable[str]) -> list[int]:
    """Return the OFFLOADS among `offloads` that leave activations on the device."""
    found = [index for index, word in enumerate(OFFLOADS) if word in set(offloads)]
    return [index for index in found if not AWAY["activations"][index]]
