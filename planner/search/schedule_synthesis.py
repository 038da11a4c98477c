"""Synthesis of pipeline schedules: a ladder from bounds over constructions to search and proof.

1. An analytic lower bound; whoever reaches it is optimal, and the ladder ends there.
2. Seeds: list scheduling under many policies, building blocks, cyclic blocks from a constraint programme.
3. On small steps, the whole step as a constraint programme, which may prove or improve.
4. Tabu search over device orders from the best seed of each family and some others, then from the best.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from planner.ir.pipeline_schedule import PipelineSchedule, PipelineWork, check_work
from planner.search.schedule_bounds import lower_bound_s
from planner.search.schedule_cpsat import CpOptions, solve
from planner.search.schedule_local import improve
from planner.search.schedule_orders import OrderSpace, ScheduleGoal
from planner.search.schedule_seeds import Seed, extended, fewer, seeds, value_of
from planner.space.schedule_timing import timed

MOST_OPS_FOR_PROOF = 240
_TOLERANCE = 1e-9
_SHARE_OF_TRIALS = 0.06
_OTHER_STARTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisOptions:
    """Effort of a synthesis.

    Parameters
    ----------
    goal
        ``makespan`` where a barrier ends the step, ``longest_stage`` where none does.
    seed
        Seed of everything random; the same seed gives the same schedule unless the time limit cuts in.
    effort
        Budget of the tabu search, in operations timed.
    proof_effort
        Deterministic time of each constraint programme.
    time_limit_s
        Wall seconds after which the best schedule so far is returned.
    on_progress
        Told what happens.
    """

    goal: ScheduleGoal = "makespan"
    seed: int = 0
    effort: float = 5e6
    proof_effort: float = 2.0
    time_limit_s: float = 60.0
    on_progress: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesis:
    """A schedule and its proof: no schedule takes less than `bound_s`; `optimal` where this one meets it."""

    schedule: PipelineSchedule
    goal: ScheduleGoal
    value_s: float
    bound_s: float
    optimal: bool
    method: str
    num_evaluations: int
    interrupted: bool

    @property
    def gap(self) -> float:
        """Relative distance of the value from the bound."""
        return max(0.0, 1.0 - self.bound_s / self.value_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLittleMemory:
    """Some device cannot hold even one micro-batch; `needed_bytes` per device is the least that works."""

    needed_bytes: tuple[float, ...]


def synthesise(work: PipelineWork, options: SynthesisOptions) -> Synthesis | TooLittleMemory:
    """Return the best schedule found for `work`, with a bound, or the memory that any schedule needs.

    Ctrl-C returns the incumbent once there is one.

    Raises
    ------
    InputError
        If the work is not well formed.
    KeyboardInterrupt
        If interrupted before the first schedule.
    """
    check_work(work)
    needed = work.smallest_memory_bytes()
    if any(n > m * (1 + _TOLERANCE) for n, m in zip(needed, work.memory_limit_bytes, strict=True)):
        return TooLittleMemory(needed_bytes=needed)
    return _Ladder(work, options).climb()


class _Ladder:
    """The incumbent and the bound, on their way towards each other."""

    def __init__(self, work: PipelineWork, options: SynthesisOptions) -> None:
        self.work = work
        self.options = options
        self.deadline = time.monotonic() + options.time_limit_s
        self.bound = lower_bound_s(work, options.goal)
        self.num_ops = 3 * sum(map(len, work.routes))
        self.evaluations = 0
        self.interrupted = False
        self.best: Seed | None = None
        self.method = ""

    def climb(self) -> Synthesis:
        """Run the ladder until the bound is met or the effort is spent."""
        try:
            starts = self._seed()
            self._prove()
            self._search(starts)
        except KeyboardInterrupt:
            if self.best is None:
                raise
            self.interrupted = True
        assert self.best is not None
        return Synthesis(
            schedule=self.best.schedule,
            goal=self.options.goal,
            value_s=self.best.value,
            bound_s=min(self.bound, self.best.value),
            optimal=self._met(self.best.value),
            method=self.method,
            num_evaluations=self.evaluations,
            interrupted=self.interrupted,
        )

    def _met(self, value: float) -> bool:
        return value <= self.bound * (1 + _TOLERANCE)

    def _enough(self, value: float) -> bool:
        """Whether seeds may end; minus infinity says that the user has interrupted them."""
        self.interrupted = self.interrupted or value == -inf
        return self._met(value) or self._out_of_time()

    def _out_of_time(self) -> bool:
        return time.monotonic() >= self.deadline

    def _say(self, text: str) -> None:
        if self.options.on_progress is not None:
            self.options.on_progress(text)

    def _take(self, seed: Seed, method: str) -> None:
        if self.best is None or seed.value < self.best.value * (1 - 1e-12):
            self.best, self.method = seed, method
            self._say(f"{method}: {seed.value:.6g} s, bound {self.bound:.6g} s")

    def _cp_options(self) -> CpOptions:
        return CpOptions(
            seed=self.options.seed,
            deterministic_limit=self.options.proof_effort,
            time_limit_s=max(0.1, self.deadline - time.monotonic()),
            on_progress=self.options.on_progress,
        )

    def _seed(self) -> list[Seed]:
        found = seeds(
            self.work,
            self.options.goal,
            self._cp_options(),
            self._enough,
        )
        self._take(found[0], found[0].schedule.name)
        self.evaluations += len(found)
        found += self._from_shorter()
        firsts: dict[str, Seed] = {}
        for seed in found:
            firsts.setdefault(seed.family, seed)
        others = {seed.value: seed for seed in reversed(found) if seed not in firsts.values()}
        return [*firsts.values(), *(others[value] for value in sorted(others)[:_OTHER_STARTS])]

    def _from_shorter(self) -> list[Seed]:
        """Solve a shorter step first where the step is large, and repeat its steady part."""
        short = fewer(self.work)
        best = self.best
        if short is self.work or best is None or self._enough(best.value) or self.interrupted:
            return []
        options = replace(
            self.options,
            effort=self.options.effort / 2,
            time_limit_s=max(0.1, (self.deadline - time.monotonic()) / 2),
        )
        found = synthesise(short, options)
        if not isinstance(found, Synthesis):
            return []
        self.interrupted = found.interrupted
        self.evaluations += found.num_evaluations
        longer = extended(found.schedule, self.work, self.options.goal)
        if longer:
            self._take(longer[0], longer[0].schedule.name)
        return longer[:1]

    def _search(self, starts: list[Seed]) -> None:
        """Try a little from each start, then go on from the best of all."""
        budget = max(50, int(self.options.effort / self.num_ops))
        trial = max(20, int(budget * _SHARE_OF_TRIALS))
        for start in starts:
            self._improve(start, trial, self.options.seed)
        for turn in range(1, 3):
            if self.best is not None:
                self._improve(
                    self.best, max(trial, budget - trial * len(starts)) // 2, self.options.seed + turn
                )

    def _improve(self, start: Seed, max_evaluations: int, seed: int) -> None:
        if self.best is None or self._met(self.best.value) or self._out_of_time() or self.interrupted:
            return
        goal = self.options.goal
        space = OrderSpace(self.work, start.schedule.device_ops, goal)
        result = improve(
            space,
            space.orders,
            bound=self.bound,
            max_evaluations=max_evaluations,
            seed=seed,
            stop=self._out_of_time,
        )
        self.evaluations += result.num_evaluations
        self.interrupted = self.interrupted or result.interrupted
        schedule = timed(
            self.work, space.device_ops(result.orders), "synthesised", align_late=goal == "longest_stage"
        )
        self._take(
            Seed(value=value_of(schedule, goal), family=start.family, schedule=schedule),
            f"tabu search from {start.schedule.name}",
        )

    def _prove(self) -> None:
        if self.best is None or self._met(self.best.value) or self.interrupted or self._out_of_time():
            return
        if self.num_ops > MOST_OPS_FOR_PROOF:
            return
        found = solve(self.work, self.options.goal, self.best.schedule, self._cp_options())
        self.bound = max(self.bound, found.bound_s)
        if found.schedule is not None:
            value = value_of(found.schedule, self.options.goal)
            self._take(Seed(value=value, family="cp-sat", schedule=found.schedule), "cp-sat")
