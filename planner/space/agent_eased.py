"""The relaxed problem of calls that may stream: what each takes at least, and lags that always hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from planner.ir.scheduling_problem import Lag, Mode, Task

_WAITS = (Mode(name="", duration_s=0.0),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """Seconds from a call's start to its first token and to its end, tokens prefilled and of its prompt."""

    first_token_s: float
    duration_s: float
    prefilled_tokens: float
    prompt_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ease:
    """What no way of streaming does better than: per model, from each producer's start, after its end.

    Producers that are not in `starts_s` are waited for. `tail_s` is None where their end does not bind.
    What is prefilled ahead begins `ahead_s` after each producer's start at the soonest and takes `reads_s`,
    by model, up to the consumer's start. `held_s` is how long a slot is held, by model, if that is shorter
    than the call.
    """

    spells: dict[str, Spell]
    starts_s: dict[str, float]
    tail_s: float | None
    ahead_s: dict[str, float] = field(default_factory=dict[str, float])
    reads_s: dict[str, float] = field(default_factory=dict[str, float])
    held_s: dict[str, float] = field(default_factory=dict[str, float])


def eased(
    number: dict[str, int], awaited: dict[str, list[str]], eases: dict[str, Ease], tasks: list[Task]
) -> tuple[list[Task], list[Lag]]:
    """Return lags that hold whether a consumer named in `eases` streams or waits, and the tasks they need.

    A call that may stream can take longer than it must: its end is a task of its own.

    Parameters
    ----------
    number
        The task of each call.
    awaited
        The producers that each call waits for.
    eases
        The least that calls take which may stream.
    tasks
        The calls' tasks.
    """
    found = list(tasks)
    ends = dict(number)
    for name in number:
        ease = eases.get(name)
        if ease is not None and ease.tail_s is not None:
            ends[name] = len(found)
            found.append(Task(name=f"end of {name}", modes=_WAITS))
    lags: list[Lag] = [Lag(before=number[n], after=end) for n, end in ends.items() if end != number[n]]
    for name, sources in awaited.items():
        ease, after = eases.get(name), number[name]
        for source in sources:
            first_s = None if ease is None else ease.starts_s.get(source)
            if ease is None or first_s is None:
                lags.append(Lag(before=ends[source], after=after))
                continue
            lags.append(Lag(before=number[source], after=after, kind="start_start", lag_s=first_s))
            if ease.tail_s is not None:
                lags.append(Lag(before=ends[source], after=ends[name], lag_s=ease.tail_s))
    _read_ahead(number, eases, found, lags)
    return found, lags


def _read_ahead(number: dict[str, int], eases: dict[str, Ease], tasks: list[Task], lags: list[Lag]) -> None:
    """Add tasks that stand for the first chunks of producers, and lags: no prompt is read before them."""
    gates: dict[tuple[tuple[str, float], ...], int] = {}
    for name, ease in eases.items():
        if not ease.ahead_s or name not in number:
            continue
        key = tuple(sorted(ease.ahead_s.items()))
        if key not in gates:
            gates[key] = len(tasks)
            tasks.append(Task(name=f"first chunks {len(tasks)}", modes=_WAITS))
            lags += [
                Lag(before=number[source], after=gates[key], kind="start_start", lag_s=lag_s)
                for source, lag_s in key
            ]
        after = number[name]
        lags += [
            Lag(before=gates[key], after=after, lag_s=ease.reads_s.get(mode.name, 0.0), after_modes=(m,))
            for m, mode in enumerate(tasks[after].modes)
        ]
