"""Second opinion on a packing: groups run event by event, memory and completeness checked.

Nothing here is shared with the code that builds or times packings; only the IR's data is.
"""

from __future__ import annotations

from planner.errors import VerificationError
from planner.ir.packing import Group, Microbatch, Packing, PackingProblem

_TOLERANCE = 1e-9


def replay_packing(problem: PackingProblem, packing: Packing) -> float:
    """Return the time at which the last group ends, seconds.

    Raises
    ------
    VerificationError
        If a sequence is missing or there twice, a group is misplaced, a micro-batch does not fit, or the time
        is not what the packing states.
    """
    seen = sorted(i for g in packing.groups for m in g.microbatches for i in m.sequences)
    if seen != list(range(len(problem.lengths))):
        raise VerificationError("a packing holds every sequence once")
    free = [0.0] * problem.num_ranks
    for group in packing.groups:
        _check_place(problem, group)
        ranks = slice(group.first_rank, group.first_rank + group.degree)
        now = max(free[ranks])
        for microbatch in group.microbatches:
            _check_memory(problem, microbatch, group.degree)
            now += _duration_s(problem, microbatch, group.degree)
        free[ranks] = [now] * group.degree
    end = max(free)
    if abs(end - packing.time_s) > _TOLERANCE * max(end, packing.time_s):
        raise VerificationError(f"the packing takes {end} s and states {packing.time_s} s")
    if packing.bound_s > end * (1 + _TOLERANCE):
        raise VerificationError("the packing beats its own bound")
    return end


def _check_place(problem: PackingProblem, group: Group) -> None:
    size = group.degree
    if size < 1 or size & (size - 1) or size > problem.largest_degree or group.first_rank % size:
        raise VerificationError(f"a group of {size} ranks from rank {group.first_rank} is misplaced")
    if not 0 <= group.first_rank <= problem.num_ranks - size:
        raise VerificationError(f"a group from rank {group.first_rank} lies outside the ranks")


def _check_memory(problem: PackingProblem, microbatch: Microbatch, degree: int) -> None:
    tokens = sum(problem.lengths[i] for i in microbatch.sequences)
    count, room = microbatch.num_chunks, problem.costs.rank_tokens * degree
    if count > 1 and (len(microbatch.sequences) != 1 or not problem.chunked):
        raise VerificationError("only a sequence alone is run in chunks")
    held = tokens if count == 1 else tokens / count + problem.costs.kv_share * tokens
    if held > room * (1 + _TOLERANCE):
        raise VerificationError(f"{held:g} tokens do not fit {degree} ranks with room for {room}")


def _duration_s(problem: PackingProblem, microbatch: Microbatch, degree: int) -> float:
    costs, count = problem.costs, microbatch.num_chunks
    total = 0.0
    for index in microbatch.sequences:
        tokens = problem.lengths[index]
        total += costs.token_s * tokens / degree
        for pair_s, window in costs.attention:
            reach = tokens if window == 0 else min(window, tokens)
            total += pair_s * (reach * tokens - reach * reach / 2) / degree
        if degree > 1:
            wire = costs.near_bytes_per_s if degree <= costs.ranks_per_node else costs.far_bytes_per_s
            share = tokens / degree * (1 - 1 / degree)
            total += 8 * share * costs.exchange_bytes_per_token / wire
    return total * (1 + (1 - 1 / count) / 3) + costs.microbatch_s * count
