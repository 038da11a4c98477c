"""Good device orders to begin with: list scheduling, known families, repeating blocks; timed and ranked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, combinations_with_replacement, product
from math import inf

from planner.errors import InputError
from planner.ir.pipeline_schedule import DeviceOps, PipelineSchedule, PipelineWork
from planner.search.schedule_bounds import lower_bound_s
from planner.search.schedule_cpsat import CpOptions
from planner.search.schedule_cyclic import find_blocks
from planner.search.schedule_cyclic import unroll as unroll_cyclic
from planner.search.schedule_orders import ScheduleGoal
from planner.space.building_block import BuildingBlock, Slopes, blocks_of, find_block, unroll
from planner.space.schedule_dispatch import DispatchPolicy, dispatch
from planner.space.schedule_extension import extend
from planner.space.schedule_family import FAMILIES
from planner.space.schedule_pattern import Pattern, num_legs, pattern_orders
from planner.space.schedule_rounds import RoundsPolicy, rounds
from planner.space.schedule_squeeze import SqueezePolicy, squeeze
from planner.space.schedule_timing import timed

_ROUNDING = 1e-9
_BALANCED = (
    DispatchPolicy(balance=True, full_start=True),
    DispatchPolicy(balance=True),
    DispatchPolicy(),
)
_OVERRUNS = tuple(DispatchPolicy(overrun=part) for part in (1.0, 0.5, 0.25, 0.75))
_EIGHTHS = range(1, 21)
_FEW_OPS = 2000
_LONGEST_BLOCK = 4
_MANY_OPS = 8000
_KEPT_FOR_ALL = 6
_FILLED = 8
_MOST_DEVICES_FOR_CYCLES = 12
_FILLS = (SqueezePolicy(), SqueezePolicy(overrun=0.5), SqueezePolicy(weights_last=False))
_STEADY_SLOPES: tuple[Slopes, ...] = ((2, 1, 2, 1), (1, 1, 1, 1))
_Fills = tuple[SqueezePolicy, SqueezePolicy]
_STEADY_FILLS: tuple[_Fills, ...] = (
    (SqueezePolicy(ends="drain"), SqueezePolicy(ends="both")),
    (SqueezePolicy(), SqueezePolicy()),
)
# How extra time is spread over the legs: forward ones, then backward ones.
_SHAPES: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((1, 0), (0, 1)),
    2: ((0, 1, 0, 1), (0, 0, 1, 1), (0, 1, 1, 2), (1, 1, 1, 1)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A schedule that fits the memory, its value under the goal, and the family it comes from."""

    value: float
    family: str
    schedule: PipelineSchedule


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """How to make orders for any number of micro-batches; `always` if tried on the whole step in any case."""

    family: str
    label: str
    make: Callable[[PipelineWork], DeviceOps]
    always: bool = False


_Found = list[tuple[Seed, _Recipe]]


def value_of(schedule: PipelineSchedule, goal: ScheduleGoal) -> float:
    """Return what `goal` counts, seconds."""
    return schedule.makespan_s() if goal == "makespan" else schedule.longest_stage_s()


def seeds(
    work: PipelineWork, goal: ScheduleGoal, options: CpOptions, stop: Callable[[float], bool]
) -> list[Seed]:
    """Return feasible schedules, best first.

    Where the step is large, recipes are ranked on fewer micro-batches and the best few applied to all.
    `stop` is asked with each value (infinity while ranking); when it says so, nothing more is tried.
    Ctrl-C ends the trials as well and is told to `stop` as minus infinity.

    Raises
    ------
    KeyboardInterrupt
        If interrupted before the first schedule of the whole step.
    """
    found: _Found = []
    try:
        _collect(work, goal, options, stop, found)
    except KeyboardInterrupt:
        if not found:
            raise
        stop(-inf)
    return [seed for seed, _ in _ranked(found)]


def _collect(
    work: PipelineWork, goal: ScheduleGoal, options: CpOptions, stop: Callable[[float], bool], whole: _Found
) -> None:
    """Add to `whole` what is found for the whole step."""
    small = fewer(work)
    found = whole if small is work else []
    ask = stop if small is work else partial(_ask_small, stop, lower_bound_s(small, goal))
    apt = _apt_slopes(work)
    # With a barrier at the end it pays to keep every device busy; without, to share out idle time.
    first, second = (_OVERRUNS, _BALANCED) if goal == "makespan" else (_BALANCED, _OVERRUNS)
    more: Iterable[_Recipe] = chain(
        _dispatch_recipes([None, *apt], first, always=True),
        _known_v_recipes(work),
        _steady_v_recipes(work),
        _v_block_recipes(work),
        _dispatch_recipes([None, *apt], second, always=True),
        _dispatch_recipes([k / 8 for k in _EIGHTHS if k / 8 not in apt], first, always=False),
        _dispatch_recipes([k / 8 for k in _EIGHTHS if k / 8 not in apt], second, always=False),
    )
    if not _try(small, goal, more, ask, found):
        more = _filled([r for _, r in _ranked(found)[:_FILLED]])
        if 3 * sum(map(len, small.routes)) <= _MANY_OPS:
            more = chain(more, _pattern_recipes(work))
        if not _try(small, goal, more, ask, found) and _worth_cycling(work):
            _try(small, goal, _cyclic_recipes(work, goal, options), ask, found)
    if small is not work:
        ranked = [recipe for _, recipe in _ranked(found)]
        best = ranked[:_KEPT_FOR_ALL] + [r for r in ranked[_KEPT_FOR_ALL:] if r.always]
        _try(work, goal, best, stop, whole)


def _ranked(found: _Found) -> _Found:
    return sorted(found, key=lambda entry: entry[0].value)


def _ask_small(stop: Callable[[float], bool], bound_s: float, value: float) -> bool:
    """Whether to go on to the whole step: time is up, or what is best for the small one is known."""
    return stop(inf) or value <= bound_s * (1 + _ROUNDING)


def _worth_cycling(work: PipelineWork) -> bool:
    """Whether memory is so tight (below that of 1F1B) that what repeats has to be found exactly."""
    whole = max(work.smallest_memory_bytes())
    return (
        work.num_devices <= _MOST_DEVICES_FOR_CYCLES
        and min(work.memory_limit_bytes) < work.num_devices * whole
    )


def extended(short: PipelineSchedule, work: PipelineWork, goal: ScheduleGoal) -> list[Seed]:
    """Return schedules for `work` that repeat the steady part of `short`, best first."""
    recipes: list[_Recipe] = []
    for block in range(1, min(_LONGEST_BLOCK, short.work.num_microbatches // 2) + 1):
        plain = _Recipe(
            family="extended", label="a shorter step, extended", make=partial(_extended, short, block=block)
        )
        recipes += [plain, *_filled([plain])]
    found: _Found = []
    _try(work, goal, recipes, _never, found)
    return [seed for seed, _ in _ranked(found)]


def _extended(short: PipelineSchedule, work: PipelineWork, block: int) -> DeviceOps:
    return extend(short, work, block=block)


def _never(_: float) -> bool:
    return False


def fewer(work: PipelineWork) -> PipelineWork:
    """Return the work with fewer micro-batches where it is large, else the work itself."""
    num_ops = 3 * sum(map(len, work.routes))
    count = max(3 * work.num_devices, 8)
    if num_ops <= _FEW_OPS or len(set(work.routes)) > 1 or count >= work.num_microbatches:
        return work
    return replace(work, routes=work.routes[:count])


def _try(
    work: PipelineWork,
    goal: ScheduleGoal,
    recipes: Iterable[_Recipe],
    stop: Callable[[float], bool],
    found: _Found,
) -> bool:
    """Add what the recipes give for `work` to `found`, and return whether `stop` has said so."""
    for recipe in recipes:
        try:
            schedule = timed(work, recipe.make(work), recipe.label, align_late=goal == "longest_stage")
        except InputError:  # this recipe does not work with so little memory
            continue
        peaks = schedule.peak_memory_bytes()
        if any(p > m * (1 + _ROUNDING) for p, m in zip(peaks, work.memory_limit_bytes, strict=True)):
            continue
        value = value_of(schedule, goal)
        found.append((Seed(value=value, family=recipe.family, schedule=schedule), recipe))
        if stop(value):
            return True
    return False


def _apt_slopes(work: PipelineWork) -> list[float]:
    """Return warm-ups per device: that of 1F1B and a little more, what fills memory, what hides the fill."""
    apt = {1.0, 1.125, 1.25}
    limit, stage = work.memory_limit_bytes[0], work.stages[0]
    if work.num_devices > 1 and stage.activation_bytes > 0 and limit < inf:
        apt.add((limit / stage.activation_bytes - 1) / (work.num_devices - 1))
    if stage.forward_s > 0:
        apt.add((stage.forward_s + stage.backward_input_s + 2 * work.send_s) / stage.forward_s)
    return sorted(apt)


def _dispatch_recipes(
    slopes: Sequence[float | None], policies: Sequence[DispatchPolicy], *, always: bool
) -> Iterator[_Recipe]:
    """Yield list scheduling with these warm-ups under these policies."""
    for policy, slope in product(policies, slopes):
        shown = "without order" if slope is None else f"with warm-up slope {slope:.3g}"
        yield _Recipe(
            family="list",
            label=f"list scheduling {shown}",
            make=partial(_dispatched, policy=replace(policy, slope=slope)),
            always=always and slope is not None,
        )


def _dispatched(work: PipelineWork, policy: DispatchPolicy) -> DeviceOps:
    return dispatch(work, policy)


def _filled(recipes: Sequence[_Recipe]) -> Iterator[_Recipe]:
    """Yield the recipes again, with gaps filled."""
    for recipe, policy in product(recipes, _FILLS):
        yield replace(recipe, make=partial(_squeezed, make=recipe.make, policy=policy), always=False)


def _squeezed(
    work: PipelineWork, make: Callable[[PipelineWork], DeviceOps], policy: SqueezePolicy
) -> DeviceOps:
    return squeeze(work, make(work), policy)


def _is_v(work: PipelineWork) -> bool:
    count = work.num_devices
    devices = (*range(count), *reversed(range(count)))
    is_v = tuple(s.device for s in work.stages) == devices and count > 1
    return is_v and all(route == tuple(range(2 * count)) for route in work.routes)


def _known_v_recipes(work: PipelineWork) -> Iterator[_Recipe]:
    """Yield the known schedules of a V of two chunks per device."""
    if not _is_v(work):
        return
    for forward, backward, share in product((True, False), (True, False), (1.0, 0.94)):
        policy = RoundsPolicy(fill_forward=forward, fill_backward=backward)
        yield _Recipe(
            family="rounds",
            label="rounds on a V",
            make=partial(_by_rounds, policy=policy, share=share),
            always=True,
        )
    for name in ("zb-v", "v-half", "v-min"):
        build = FAMILIES.get(name).build
        yield _Recipe(family="named", label=name, make=build, always=True)


def _steady_v_recipes(work: PipelineWork) -> Iterator[_Recipe]:
    """Yield every block of the slopes of V-Half and V-Min that fits, the gaps at both ends filled."""
    if not _is_v(work):
        return
    held = max(s.activation_bytes for s in work.stages)
    most = min(work.memory_limit_bytes) / held if held else inf
    for slopes, fills in product(_STEADY_SLOPES, _STEADY_FILLS):
        for block in blocks_of(work.num_devices, slopes):
            if block.peak_halves <= most * (1 + _ROUNDING):
                yield _Recipe(
                    family="block",
                    label=f"V block with slopes {slopes}, ends filled",
                    make=partial(_steady_v, block=block, fills=fills),
                )


def _steady_v(work: PipelineWork, block: BuildingBlock, fills: _Fills) -> DeviceOps:
    """Return the orders of a block, squeezed first as if all passes took equally long, then as they do."""
    equal = replace(
        work,
        send_s=0.0,
        stages=tuple(
            replace(s, forward_s=1.0, backward_input_s=1.0, backward_weight_s=1.0) for s in work.stages
        ),
    )
    return squeeze(work, squeeze(equal, unroll(work, block), fills[0]), fills[1])


def _v_block_recipes(work: PipelineWork) -> Iterator[_Recipe]:
    """Yield building blocks of a V, their gaps filled."""
    if not _is_v(work):
        return
    count = work.num_devices
    for half in (3, 2, 4, 6):
        for first, second in combinations_with_replacement(range(1, half), 2):
            slopes: Slopes = (first, second, half - second, half - first)
            block = find_block(count, slopes)
            if block is not None:
                yield from _filled(
                    [
                        _Recipe(
                            family="block",
                            label=f"V block with slopes {slopes}",
                            make=lambda work, block=block: unroll(work, block),
                        )
                    ]
                )


def _by_rounds(work: PipelineWork, policy: RoundsPolicy, share: float) -> DeviceOps:
    limits = tuple(limit * share for limit in work.memory_limit_bytes)
    orders = rounds(replace(work, memory_limit_bytes=limits), policy)
    if orders is None:
        raise InputError("the memory does not suffice for rounds")
    return orders


def _pattern_recipes(work: PipelineWork) -> Iterator[_Recipe]:
    """Yield steady patterns whose legs are slowed until activations live as long as memory allows."""
    if len(set(work.routes)) != 1 or work.num_devices < 2 or min(work.memory_limit_bytes) == inf:
        return
    legs, stage, hops = num_legs(work), work.stages[0], work.num_devices - 1
    period = max(work.device_work_s()) / work.num_microbatches
    held = max(s.activation_bytes for s in work.stages)
    longest = min(work.memory_limit_bytes) / held * period / hops if held else 0.0
    least = legs * (stage.forward_s + stage.backward_input_s + 2 * work.send_s)
    shapes = _SHAPES.get(legs, ((1,) * (2 * legs),))
    for shape, part, wait in product(shapes, (0.6, 0.7, 0.8, 0.85, 0.9, 1.0), (0.0, 0.5)):
        extra = max(0.0, longest * part - least)
        pattern = Pattern(
            waits_s=tuple(extra * x / sum(shape) for x in shape),
            weight_wait_s=wait * period,
            period_s=period,
        )
        yield from _filled(
            [
                _Recipe(
                    family="pattern",
                    label="steady pattern",
                    make=lambda work, pattern=pattern: pattern_orders(work, pattern),
                )
            ]
        )


def _cyclic_recipes(work: PipelineWork, goal: ScheduleGoal, options: CpOptions) -> Iterator[_Recipe]:
    for block in find_blocks(work, goal, options):
        plain = _Recipe(
            family="cyclic",
            label=f"cyclic block with period {block.period} steps",
            make=lambda work, block=block: unroll_cyclic(work, block),
        )
        yield plain
        yield from _filled([plain])
