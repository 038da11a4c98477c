"""Synthesised schedules beside a file of reference schedules, row by row.

usage: python tests/benchmarks/pipeline_reference.py REFERENCE.csv [-o TABLE.md] [--seconds 6] [--only REGEX]

A row of the file has source, schedule, p, m, v (2: a V), TF, TB, TW, Tcomm, mem_limit (activations of one
micro-batch on one device), a value and the metric it is in. Rows of
one step, memory and goal are solved once. Every schedule is replayed. The table sums up by source and
schedule; rows where ours is behind are listed.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from planner.search.schedule_synthesis import Synthesis, SynthesisOptions, synthesise
from planner.simulate.pipeline_replay import check_times, replay
from planner.space.schedule_family import arrange

GOALS = {
    "bubble_rate_longest_stage": "longest_stage",
    "longest_stage_time": "longest_stage",
    "longest_stage_time_us": "longest_stage",
    "bubble_rate_classical_makespan": "makespan",
    "classical_makespan": "makespan",
    "classical_makespan_us": "makespan",
}
# What the named schedules hold at their peak, for rows that state no limit.
PEAKS = {
    "ZB-H1": lambda p: p,
    "ZB-H2": lambda p: 2 * p - 1,
    "1F1B": lambda p: p,
    "V-half": lambda p: p // 2 + 1,
    "V-min": lambda p: -(-(p + 2) // 3),
}
# Part of an activation held for W, 32h / (34h + 5as), of the transformer behind the pass times.
WEIGHT_PARTS = {"1.5B": 0.3664, "6.2B": 0.4324, "14.6B": 0.4324, "28.3B": 0.4324, "unit": 0.5}


@dataclass(frozen=True)
class Step:
    layout: str
    p: int
    m: int
    times: tuple[float, float, float]
    send: float
    limit: float
    weight_part: float
    goal: str


def step_of(row: dict[str, str]) -> Step | None:
    if row["metric"] not in GOALS or row["v"] not in ("1", "2") or not row["makespan_or_bubble"]:
        return None
    name = row["schedule"].split("(")[0]
    limit = row["mem_limit"] or (PEAKS[name](int(row["p"])) if name in PEAKS else "")
    if limit == "" or name in ("1F1B-I",):
        return None
    times = tuple(float(row[k]) for k in ("TF", "TB", "TW"))
    part = next((f for word, f in WEIGHT_PARTS.items() if word in row["source"]), None)
    if part is None:
        part = 0.3664 if times[0] in (18522, 18513, 18546, 1852) else 0.4324 if times[0] > 100 else 0.5
    return Step(
        "v" if row["v"] == "2" else "chain",
        int(row["p"]),
        int(row["m"]),
        times,  # type: ignore[arg-type]
        float(row["Tcomm"]),
        float(limit),
        part,
        GOALS[row["metric"]],
    )


def solve(step: Step, seconds: float) -> tuple[float, float]:
    """Return our value and the bound, both checked."""
    work = arrange(
        step.layout,  # type: ignore[arg-type]
        num_devices=step.p,
        num_microbatches=step.m,
        pass_times_s=step.times,
        send_s=step.send,
        weight_memory_fraction=step.weight_part,
        memory_limit_bytes=step.limit,
    )
    options = SynthesisOptions(goal=step.goal, time_limit_s=seconds)  # type: ignore[arg-type]
    found = synthesise(work, options)
    assert isinstance(found, Synthesis)
    check_times(found.schedule)
    replay(found.schedule)
    return found.value_s, found.bound_s


def compare(row: dict[str, str], step: Step, value: float) -> tuple[float, float, int]:
    """Return theirs, ours and -1, 0 or 1 for ours better, equal or worse, to the digits that are stated."""
    theirs = float(row["makespan_or_bubble"])
    ours = value
    slack = 1e-6 * theirs
    if row["metric"].startswith("bubble"):
        ours = 1 - step.m * sum(step.times) / value
        slack = 6e-7 if len(row["makespan_or_bubble"]) > 6 else 6e-5
    return theirs, ours, (ours > theirs + slack) - (ours < theirs - slack)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("reference", type=Path)
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    rows = list(csv.DictReader(arguments.reference.open(encoding="utf-8", newline="")))
    wanted = [(row, step) for row in rows if (step := step_of(row)) and re.search(arguments.only, str(row))]
    known: dict[Step, tuple[float, float]] = {}
    groups: dict[tuple[str, str], list[tuple[float, float, int, bool]]] = defaultdict(list)
    behind: list[str] = []
    begin = time.perf_counter()
    for number, (row, step) in enumerate(wanted, start=1):
        if step not in known:
            known[step] = solve(step, arguments.seconds)
            say = f"{number}/{len(wanted)} {time.perf_counter() - begin:.0f} s {step} {known[step]}"
            print(say, file=sys.stderr, flush=True)  # noqa: T201
        value, bound = known[step]
        theirs, ours, sign = compare(row, step, value)
        source = row["source"].split(" (")[0].split("/")[-1].split(":")[-1]
        key = (source, f"{row['schedule']} {GOALS[row['metric']]}")
        groups[key].append((theirs, ours, sign, bound >= value * (1 - 1e-9)))
        if sign > 0:
            behind.append(
                f"| {row['schedule']} | {step.p} | {step.m} | {step.times} | {step.limit:g} "
                f"| {row['metric']} | {theirs:g} | {ours:.6g} |"
            )
    text = table(groups, behind, len(known), time.perf_counter() - begin)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    print(text)  # noqa: T201


def table(
    groups: dict[tuple[str, str], list[tuple[float, float, int, bool]]],
    behind: list[str],
    num_steps: int,
    seconds: float,
) -> str:
    lines = [
        "| source | schedule, goal | rows | better | equal | behind | proven optimal | ours / theirs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (source, name), found in sorted(groups.items()):
        signs = [sign for _, _, sign, _ in found]
        ratios = [ours / theirs for theirs, ours, _, _ in found if theirs > 1e-9 and ours > 1e-9]
        mean = 1.0
        for ratio in ratios:
            mean *= ratio ** (1 / len(ratios))
        lines.append(
            f"| {source} | {name} | {len(found)} | {signs.count(-1)} | {signs.count(0)} | {signs.count(1)} "
            f"| {sum(proven for *_, proven in found)} | {mean:.3f} |"
        )
    lines += ["", f"{num_steps} steps solved in {seconds:.0f} s.", "", "Behind:", ""]
    lines += [
        "| schedule | p | m | times | limit | metric | theirs | ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *behind]) + "\n"


if __name__ == "__main__":
    main()
