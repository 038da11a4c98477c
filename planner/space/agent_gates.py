"""Fewer lags for the same order: calls that wait for the same producers wait for one gate between them.

Two layers of n calls have n * n lags between them, with a gate of no length 2 n. Gates follow the calls in
the list of tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.ir.scheduling_problem import Lag, Mode, Task

_Key = tuple[bool, tuple[tuple[int, str, float], ...]]


def gated(tasks: Sequence[Task], lags: Sequence[Lag]) -> tuple[tuple[Task, ...], tuple[Lag, ...]]:
    """Return the tasks with gates behind them, and lags that ask for the same."""
    groups: dict[tuple[int, bool], list[Lag]] = {}
    kept: list[Lag] = []
    for lag in lags:
        if lag.after_modes is not None or lag.off_site_s or lag.kind == "start_end":
            kept.append(lag)
        else:
            groups.setdefault((lag.after, lag.kind == "end_end"), []).append(lag)
    users: dict[_Key, list[int]] = {}
    for (after, at_end), group in groups.items():
        users.setdefault(_key(group, at_end=at_end), []).append(after)
    found = list(tasks)
    for (at_end, sources), targets in users.items():
        members = [groups[t, at_end] for t in targets]
        if len(sources) * len(targets) <= len(sources) + len(targets):
            kept += [lag for group in members for lag in group]
            continue
        gate = len(found)
        found.append(Task(name=f"gate {gate}", modes=(Mode(name="", duration_s=0.0),)))
        if at_end:
            kept += [Lag(before=s, after=gate, kind="end_end") for s, _, _ in sources]
            kept += [
                Lag(before=gate, after=t, kind="end_end", lag_s=group[0].lag_s)
                for t, group in zip(targets, members, strict=True)
            ]
            continue
        kept += [
            Lag(
                before=s,
                after=gate,
                kind="start_start" if kind == "start_start" else "end_start",
                lag_s=lag_s,
            )
            for s, kind, lag_s in sources
        ]
        kept += [Lag(before=gate, after=t) for t in targets]
    return tuple(found), tuple(kept)


def _key(group: list[Lag], *, at_end: bool) -> _Key:
    """Return what tells apart what calls wait for; ends with one lag after all of them share a gate."""
    same = at_end and len({lag.lag_s for lag in group}) == 1
    rows = {(lag.before, str(lag.kind), 0.0 if same else lag.lag_s) for lag in group}
    # ends with different lags keep to themselves
    return at_end and same, tuple(sorted(rows))
