"""Search of plans for batches of different lengths: tensor degree, recomputation and sharding, each packed.

Ranks are tensor-parallel groups without a pipeline. Plans in order of a bound (all work spread evenly
over the ranks) are packed, every batch drawn, until no bound is below the best mean step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from math import gcd, inf, log2

import numpy as np

from planner.errors import InputError
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import AttentionCore
from planner.ir.packing import Packing, PackingProblem
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem, TrainingStrategy
from planner.search.packing import PackingOptions, check_problem, pack
from planner.search.training_question import limits_of
from planner.space.packing_lists import best_uniform, padded
from planner.space.training.grid import Space, divisors, plan_columns, tensor_degrees
from planner.space.training.length_costs import LengthPricer, RankCosts, priced_tokens
from planner.space.training.plans import RECOMPUTES, PlanArrays, keeps_activations
from planner.space.training.software import load_training_software

_PACKING_S = 0.5
"""Wall limit of the exact part of one packing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthPlan:
    """One plan with a packing of every batch drawn.

    `step_s` is the mean step and `bound_s` a bound on it; `uniform_s` and `padded_s` are the mean steps with
    one degree for all, and with all sequences padded to the longest (None where they do not fit).
    """

    group: NodeGroup
    fmt: str
    plan: PlanArrays
    rank: RankCosts
    problems: tuple[PackingProblem, ...]
    packings: tuple[Packing, ...]
    step_s: float
    bound_s: float
    late: float
    per_step_s: float
    uniform_s: float | None
    uniform_degrees: tuple[int, ...]
    padded_s: float | None

    @property
    def strategy(self) -> TrainingStrategy:
        """Degrees of the plan."""
        return self.plan.strategy(0)

    @property
    def packed_s(self) -> float:
        """Mean time of the packings."""
        return sum(packing.time_s for packing in self.packings) / len(self.packings)


@dataclass(slots=True, kw_only=True)
class LengthOutcome:
    """The best plans, best first, a bound on all, and how many were looked at and packed.

    `most_tokens` is the longest sequence that the largest group of any plan has room for.
    """

    found: list[LengthPlan] = field(default_factory=list[LengthPlan])
    bound: float = inf
    plans: int = 0
    packed: int = 0
    most_tokens: int = 0
    interrupted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A plan that fits, with a lower bound on its mean step."""

    bound_s: float
    pricer: LengthPricer
    group: NodeGroup
    fmt: str
    plan: PlanArrays
    rank: RankCosts
    largest: int


def search_lengths(
    problem: Problem[TrainingProblem], group: NodeGroup, fmt: str, best_s: float, stop: Callable[[], bool]
) -> LengthOutcome:
    """Return the plans of one group in one precision that beat `best_s`."""
    outcome = LengthOutcome()
    candidates = sorted(_candidates(problem, group, fmt, outcome), key=lambda c: c.bound_s)
    for candidate in candidates:
        if candidate.bound_s >= best_s:
            break
        if stop():
            outcome.interrupted, outcome.bound = True, min(outcome.bound, candidate.bound_s)
            break
        plan = _packed(problem, candidate)
        if plan is None:
            continue
        outcome.packed += 1
        outcome.bound = min(outcome.bound, plan.bound_s)
        if plan.step_s < best_s:
            best_s = plan.step_s
            outcome.found.insert(0, plan)
    outcome.bound = min(outcome.bound, best_s)
    return outcome


def _candidates(
    problem: Problem[TrainingProblem], group: NodeGroup, fmt: str, outcome: LengthOutcome
) -> Iterator[_Candidate]:
    """Yield every plan that holds a token per rank; of plans alike in time those with most room."""
    limits = limits_of(problem, group)
    space = Space(
        model=problem.payload.model,
        workload=problem.payload.workload,
        choices=problem.payload.choices,
        num_devices=limits.num_devices,
    )
    pricer = LengthPricer(problem, group, fmt)
    straggler, per_step_s = rank_software(problem)
    for tp, way in product(
        space.fixed("tp", tensor_degrees(space.model, space.num_devices)),
        space.word("recompute", space.choices.recomputes),
    ):
        largest = _largest_degree(problem, tp, limits.num_devices // tp)
        found: list[tuple[int, float, PlanArrays, RankCosts]] = []
        for plan in _sharings(space, tp, way):
            outcome.plans += 1
            room = pricer.rank_tokens(plan, limits.capacity_bytes)
            outcome.most_tokens = max(outcome.most_tokens, room * largest)
            if room * largest >= space.workload.seq_len:
                rank = pricer.price(plan, room)
                found.append(
                    (room, _step_s(0.0, rank, _late(group, plan, straggler), per_step_s), plan, rank)
                )
        for plan, rank in _undominated(found):
            bound = _even_s(problem, group, plan, rank)
            yield _Candidate(
                bound_s=bound, pricer=pricer, group=group, fmt=fmt, plan=plan, rank=rank, largest=largest
            )


def _undominated(
    found: list[tuple[int, float, PlanArrays, RankCosts]],
) -> Iterator[tuple[PlanArrays, RankCosts]]:
    """Yield plans of one degree and recomputation of which none has more room and less to do per step.

    Those compared are priced at the same number of tokens, so that sequences take equally long.
    """
    best: dict[int, float] = {}
    for room, once_s, plan, rank in sorted(found, key=lambda entry: (-entry[0], entry[1])):
        size = priced_tokens(room)
        if once_s < best.get(size, inf):
            best[size] = once_s
            yield plan, rank


def _sharings(space: Space, tp: int, way: str) -> Iterator[PlanArrays]:
    ranks = space.num_devices // tp
    parallel = dict(space.choices.fixed).get("sequence_parallel")
    for zero in space.fixed("zero", [z for z in space.choices.zeros if z < 3]):
        shards = [ranks] if zero == 0 else [d for d in divisors(ranks) if d > 1]
        for shard, offload in product(
            space.fixed("dp_shard", shards), keeps_activations(space.word("offload", space.choices.offloads))
        ):
            yield plan_columns(
                1,
                tp=tp,
                pp=1,
                dp=ranks,
                cp=1,
                micro_batch=1,
                schedule=1,
                zero=zero,
                dp_shard=shard,
                sequence_parallel=int(tp > 1 if parallel is None else bool(parallel) and tp > 1),
                recompute=RECOMPUTES.index(way),
                offload=offload,
            )


def _largest_degree(problem: Problem[TrainingProblem], tp: int, ranks: int) -> int:
    """Return the largest group: a power of two that shares out the heads of a tensor rank."""
    heads = [
        op.num_heads // tp
        for layer in problem.payload.model.layers
        for op in layer.ops
        if isinstance(op, AttentionCore)
    ]
    common = gcd(*heads) if heads else 1
    return min(common & -common, 1 << (ranks.bit_length() - 1))


def _late(group: NodeGroup, plan: PlanArrays, straggler: float) -> float:
    nodes = max(float(plan.tp[0] * plan.dp[0]) / group.devices_per_node, 1.0)
    return straggler * log2(nodes)


def _step_s(packed_s: float, rank: RankCosts, late: float, per_step_s: float) -> float:
    return (1.0 + late) * (packed_s + rank.reduction_s) + rank.optimizer_s + per_step_s


def _even_s(problem: Problem[TrainingProblem], group: NodeGroup, plan: PlanArrays, rank: RankCosts) -> float:
    """Return a bound on the mean step: all work of a batch spread evenly over its ranks."""
    batches, ranks = problem.payload.workload.batches, int(plan.dp[0])
    cache: dict[int, float] = {}
    total = 0.0
    for batch in batches:
        for length in batch:
            if length not in cache:
                cache[length] = rank.costs.work_s(length)
            total += cache[length]
    software = rank_software(problem)
    return _step_s(total / len(batches) / ranks, rank, _late(group, plan, software[0]), software[1])


def rank_software(problem: Problem[TrainingProblem]) -> tuple[float, float]:
    """Return what waiting for slow nodes and every step take under the training software."""
    found = load_training_software(problem.payload.choices.software)
    return found.straggler, found.per_step_s


def _packed(problem: Problem[TrainingProblem], candidate: _Candidate) -> LengthPlan | None:
    plan, rank = candidate.plan, candidate.rank
    options = PackingOptions(time_limit_s=_PACKING_S, seed=problem.options.seed)
    problems = tuple(
        PackingProblem(
            lengths=batch,
            num_ranks=int(plan.dp[0]),
            largest_degree=candidate.largest,
            chunked=False,
            costs=rank.costs,
        )
        for batch in problem.payload.workload.batches
    )
    try:
        for one in problems:
            check_problem(one)
    except InputError:
        return None
    packings = tuple(pack(one, options) for one in problems)
    straggler, per_step_s = rank_software(problem)
    late = _late(candidate.group, plan, straggler)

    def mean(times: list[float]) -> float:
        return _step_s(float(np.mean(times)), rank, late, per_step_s)

    uniform = [best_uniform(one) for one in problems]
    wide = [padded(one) for one in problems]
    known = [found for found in uniform if found is not None]
    filled = [found for found in wide if found is not None]
    return LengthPlan(
        group=candidate.group,
        fmt=candidate.fmt,
        plan=plan,
        rank=rank,
        problems=problems,
        packings=packings,
        step_s=mean([packing.time_s for packing in packings]),
        bound_s=mean([packing.bound_s for packing in packings]),
        late=late,
        per_step_s=per_step_s,
        uniform_s=mean([packing.time_s for _, packing in known]) if len(known) == len(problems) else None,
        uniform_degrees=tuple(degree for degree, _ in known),
        padded_s=mean([time for _, time in filled]) if len(filled) == len(problems) else None,
    )
