"""Synthesised schedules beside a file of reference schedules, row by row.

usage: python tests/benchmarks/pipeline_reference.py REFERENCE.csv [-o TABLE.md] [--rows ROWS.csv]
           [--seconds 20] [--effort 5e5] [--only REGEX]

A row of the file has source, schedule, p, m, v, TF, TB, TW, Tcomm, mem_limit (activations of one
micro-batch on one device), a value and the metric it is in. v = 2 is a V, except for 1F1B-I, whose chunks lie
in loops. Rows of one step, memory and goal are solved once. Every schedule is replayed. Every row of the
file gets a row of ROWS with our value, our bound and a verdict, or why there is nothing to compare.
The table sums up by source and schedule; rows where ours is behind are listed.
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

FAILED = "peer_scheduler_failed:AssertionError"
GOALS = {
    "bubble_rate_longest_stage": "longest_stage",
    "longest_stage_time": "longest_stage",
    "longest_stage_time_us": "longest_stage",
    FAILED: "longest_stage",
    "bubble_rate_classical_makespan": "makespan",
    "classical_makespan": "makespan",
    "classical_makespan_us": "makespan",
}
# What the named schedules hold at their peak, for rows that state no limit and have no row with their peak.
PEAKS = {
    "ZB-H1": lambda p, _: p,
    "ZB-H2": lambda p, _: 2 * p - 1,
    "1F1B": lambda p, _: p,
    "1F1B-I": lambda p, v: p + (p - 1) / v,
    "V-half": lambda p, _: p // 2 + 1,
    "V-Half start": lambda p, _: p // 2 + 1,
    "V-min": lambda p, _: -(-(p + 2) // 3),
    "V-Min start": lambda p, _: -(-(p + 2) // 3),
    "zbv": lambda p, _: p,
}
# Part of an activation held for W, 32h / (34h + 5as), of the transformer behind the pass times.
WEIGHT_PARTS = {"1.5B": 0.3664, "6.2B": 0.4324, "14.6B": 0.4324, "28.3B": 0.4324, "unit": 0.5}
REASONS = {
    "peak_activation_memory_in_MB_units": "the memory of a schedule whose time is in another row",
    "steady_state_average_memory_in_MB_units": "the memory of a schedule whose time is in another row",
    "samples_per_gpu_per_s": "measured on GPUs",
    "MFU_percent": "measured on GPUs",
    "peak_memory_GB": "measured on GPUs",
    "predicted_makespan_s": "runs of torch: tests/backends/test_torch_pipelining.py",
    "measured_wall_s_iter2": "runs of torch: tests/backends/test_torch_pipelining.py",
    "measured_wall_s_iter3": "runs of torch: tests/backends/test_torch_pipelining.py",
}


@dataclass(frozen=True, kw_only=True)
class Step:
    layout: str
    p: int
    m: int
    v: int
    times: tuple[float, float, float]
    send: float
    limit: float
    weight_part: float
    goal: str


def key_of(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[k] for k in ("source", "schedule", "p", "m", "v", "TF", "TB", "TW"))


def known_peaks(rows: list[dict[str, str]]) -> dict[tuple[str, ...], str]:
    """Return the peak of each schedule of which the file states it, as large as its rounding may hide."""
    peak = "peak_activation_memory_in_MB_units"
    stated = {key_of(row): row["makespan_or_bubble"] for row in rows if row["metric"] == peak}
    return {key: f"{float(text) + _hidden(text):g}" for key, text in stated.items()}


def _hidden(text: str) -> float:
    """Return what rounding may hide of a peak; few digits are exact counts of half activations."""
    digits = len(text.partition(".")[2])
    return 0.5 * 10.0**-digits if digits >= 3 else 0.0


def step_of(row: dict[str, str], peaks: dict[tuple[str, ...], str]) -> Step | str:
    """Return the step that a row is about, or why there is none."""
    if row["metric"] not in GOALS or not row["v"]:
        return REASONS.get(row["metric"], "no time of a step")
    if ".." in row["TF"]:
        return "its unequal stage times are given as a range"
    name, p, v = row["schedule"].split("(")[0], int(row["p"]), int(row["v"])
    limit = row["mem_limit"] or (PEAKS[name](p, v) if name in PEAKS else peaks.get(key_of(row), ""))
    if limit == "":
        return "no memory limit is stated"
    times = tuple(float(row[k]) for k in ("TF", "TB", "TW"))
    part = next((f for word, f in WEIGHT_PARTS.items() if word in row["source"]), None)
    if part is None:
        part = 0.3664 if times[0] in (18522, 18513, 18546, 1852) else 0.4324 if times[0] > 100 else 0.5
    return Step(
        layout="chain" if v == 1 else "loop" if name == "1F1B-I" else "v",
        p=p,
        m=int(row["m"]),
        v=v,
        times=times,  # type: ignore[arg-type]
        send=float(row["Tcomm"]),
        limit=float(limit),
        weight_part=part,
        goal=GOALS[row["metric"]],
    )


def solve(step: Step, seconds: float, effort: float, proof: float = 0.3) -> tuple[float, float]:
    """Return our value and the bound, both checked."""
    work = arrange(
        step.layout,  # type: ignore[arg-type]
        num_devices=step.p,
        num_microbatches=step.m,
        pass_times_s=step.times,
        send_s=step.send,
        num_chunks=step.v,
        weight_memory_fraction=step.weight_part,
        memory_limit_bytes=step.limit,
    )
    options = SynthesisOptions(goal=step.goal, time_limit_s=seconds, effort=effort, proof_effort=proof)  # type: ignore[arg-type]
    found = synthesise(work, options)
    assert isinstance(found, Synthesis)
    check_times(found.schedule)
    replay(found.schedule)
    return found.value_s, found.bound_s


def compare(row: dict[str, str], step: Step, value: float) -> tuple[float, float, int]:
    """Return theirs, ours and -1, 0 or 1 for ours better, equal or worse, to the digits that are stated."""
    ours = value
    if row["metric"].startswith(("bubble", "peer")):
        ours = 1 - step.m * sum(step.times) / value
    if row["metric"] == FAILED:
        return float("nan"), ours, -1
    theirs = float(row["makespan_or_bubble"])
    slack = 1e-6 * theirs
    if row["metric"].startswith("bubble"):
        slack = 6e-7 if len(row["makespan_or_bubble"]) > 6 else 6e-5
    return theirs, ours, (ours > theirs + slack) - (ours < theirs - slack)


VERDICTS = {-1: "better", 0: "equal", 1: "behind"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("reference", type=Path)
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--effort", type=float, default=5e5)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    rows = list(csv.DictReader(arguments.reference.read_text(encoding="utf-8").splitlines()))
    peaks = known_peaks(rows)
    known: dict[Step, tuple[float, float]] = {}
    groups: dict[tuple[str, str], list[tuple[float, float, int, bool]]] = defaultdict(list)
    behind: list[str] = []
    listed: list[list[object]] = []
    begin = time.perf_counter()
    for number, row in enumerate(rows, start=2):
        if not re.search(arguments.only, str(row)):
            continue
        step = step_of(row, peaks)
        head = [number, *(row[k] for k in ("source", "schedule", "p", "m", "v", "mem_limit", "metric"))]
        if isinstance(step, str):
            listed.append([*head, row["makespan_or_bubble"], "", "", step])
            continue
        if step not in known:
            known[step] = solve(step, arguments.seconds, arguments.effort)
            say = f"line {number}, {time.perf_counter() - begin:.0f} s: {step} {known[step]}"
            print(say, file=sys.stderr, flush=True)  # noqa: T201
        value, bound = known[step]
        theirs, ours, sign = compare(row, step, value)
        listed.append([*head, row["makespan_or_bubble"], f"{ours:.8g}", f"{bound:.8g}", VERDICTS[sign]])
        source = row["source"].split(" (")[0].split("/")[-1].split(":")[-1]
        key = (source, f"{row['schedule']} {GOALS[row['metric']]}")
        groups[key].append((theirs, ours, sign, bound >= value * (1 - 1e-9)))
        if sign > 0:
            behind.append(
                f"| {row['schedule']} | {step.p} | {step.m} | {step.times} | {step.limit:g} "
                f"| {row['metric']} | {theirs:g} | {ours:.6g} |"
            )
    if arguments.rows:
        names = "line,source,schedule,p,m,v,mem_limit,metric,theirs,ours,bound,verdict"
        with arguments.rows.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([names.split(","), *listed])
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
