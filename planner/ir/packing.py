"""Batches of sequences of different lengths, and how they lie on ranks.

Ranks form blocks of a power of two, aligned to their size. A group is a block that works together (context
parallelism of that degree) through its micro-batches. Every rank runs its groups from the largest to the
smallest, so that groups never wait for each other but at the end of the step, where gradients meet.
"""

from __future__ import annotations

from dataclasses import dataclass

from cost_models.sequences.times import SequenceCosts


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingProblem:
    """One global batch.

    Parameters
    ----------
    lengths
        Tokens of each sequence.
    num_ranks
        Ranks of the step.
    largest_degree
        Largest group, a power of two.
    chunked
        Whether sequences may be run in chunks.
    costs
        Time and memory of sequences.
    """

    lengths: tuple[int, ...]
    num_ranks: int
    largest_degree: int
    chunked: bool
    costs: SequenceCosts

    def degrees(self) -> tuple[int, ...]:
        """Return the degrees that groups may have, rising."""
        return tuple(
            1 << k
            for k in range(self.num_ranks.bit_length())
            if 1 << k <= min(self.num_ranks, self.largest_degree)
        )

    def chunks(self, length: int, degree: int) -> int:
        """Return the chunks of a sequence at a degree, 0 where it does not fit."""
        count = self.costs.num_chunks(length, degree)
        return count if count <= 1 or self.chunked else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatch:
    """Sequences (by index) that are packed together; one alone may be run in chunks."""

    sequences: tuple[int, ...]
    num_chunks: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Ranks `first_rank` to `first_rank + degree - 1` and their micro-batches."""

    first_rank: int
    degree: int
    microbatches: tuple[Microbatch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """All groups of a step, its time, and a time that no packing can beat."""

    groups: tuple[Group, ...]
    time_s: float
    bound_s: float
    method: str

    @property
    def gap(self) -> float:
        """Relative distance of the time from the bound."""
        return max(0.0, 1.0 - self.bound_s / self.time_s) if self.time_s > 0 else 0.0


def microbatch_s(problem: PackingProblem, microbatch: Microbatch, degree: int) -> float:
    """Return the time of a micro-batch on `degree` ranks, seconds."""
    costs, count = problem.costs, microbatch.num_chunks
    whole = sum(costs.sequence_s(problem.lengths[i], degree, count) for i in microbatch.sequences)
    return whole + costs.microbatch_s * count


def group_s(problem: PackingProblem, group: Group) -> float:
    """Return the time of a group's micro-batches, seconds."""
    return sum(microbatch_s(problem, microbatch, group.degree) for microbatch in group.microbatches)
