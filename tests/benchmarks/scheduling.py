"""Solve a folder of public scheduling instances and print what was reached, as JSON.

python -m tests.benchmarks.scheduling FOLDER --time-limit 20 --workers 2

One object per instance: value, bound, gap, status, seconds, the list schedule's value and the best
known value where a table in the folder (or above it) has it. Task graphs (.stg) are solved once per
processor count.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from planner.errors import InputError
from planner.frontend.instance_text import InstanceSettings
from planner.frontend.instances import INSTANCE_IMPORTERS, format_of, instance_text
from planner.search.agent_cpsat import ScheduleOptions, solve_schedule
from planner.verify.task_schedule import schedule_violations
from tests.benchmarks.known_best import KnownBest, best_of, read_known_best

Record = dict[str, object]


def instance_files(folder: Path) -> list[Path]:
    """Return the files of a folder (or the one file) that may be instances, in order."""
    if folder.is_file():
        return [folder]
    skip = {".csv", ".md", ".dzn", ".py"}
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() not in skip)


def solve_file(path: Path, options: ScheduleOptions, processors: list[int]) -> Iterator[Record]:
    """Yield one record per instance in the file; files of no known format yield none."""
    text = instance_text(path)
    fmt = format_of(path, text)
    if fmt is None:
        return
    known = read_known_best(path.parent)
    for count in processors if fmt == "stg" else [0]:
        settings = InstanceSettings(num_processors=count) if count else InstanceSettings()
        try:
            problem = INSTANCE_IMPORTERS.get(fmt).read(text, file=str(path), settings=settings)
        except InputError as error:
            yield {"instance": path.stem, "file": str(path), "format": fmt, "error": str(error)}
            continue
        answer = solve_schedule(problem, options)
        record: Record = {
            "instance": path.stem,
            "file": str(path),
            "format": fmt,
            "tasks": len(problem.tasks),
            "value": answer.value,
            "bound": answer.bound,
            "gap": answer.gap,
            "status": answer.status,
            "seconds": round(answer.wall_time_s, 3),
            "heft": answer.heft_value,
            "violations": schedule_violations(problem, answer.schedule) if answer.schedule else [],
        }
        if count:
            record["processors"] = count
        yield record | _compared(answer.value, best_of(known, path, count or None))


def _compared(value: float | None, best: KnownBest | None) -> Record:
    if best is None:
        return {"best_known": None}
    above = None if value is None or not best.upper else value / best.upper - 1.0
    return {"best_known": best.upper, "known_lower": best.lower, "above_best": above}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 if every schedule is valid and none is worse than the list schedule."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--time-limit", type=float, default=20.0, help="seconds per instance")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processors", type=int, nargs="+", default=[2, 4, 8, 16], help="for task graphs")
    parser.add_argument(
        "--reproducible", action="store_true", help="workers take turns: same answer each time"
    )
    parser.add_argument("--progress", action="store_true", help="one line per instance on stderr")
    given = parser.parse_args(arguments)
    options = ScheduleOptions(time_limit_s=given.time_limit, num_workers=given.workers, seed=given.seed)
    options = replace(options, reproducible=given.reproducible)
    records: list[Record] = []
    for path in instance_files(given.folder):
        for record in solve_file(path, options, given.processors):
            records.append(record)
            if given.progress:
                sys.stderr.write(json.dumps(record) + "\n")
    sys.stdout.write(json.dumps({"summary": summary(records), "instances": records}, indent=1) + "\n")
    return 0 if not summary(records)["wrong"] else 1


def summary(records: list[Record]) -> Record:
    """Return counts over the records; `wrong` lists invalid or beaten schedules."""
    solved = [r for r in records if r.get("value") is not None]
    above = [float(str(r["above_best"])) for r in solved if r.get("above_best") is not None]
    return {
        "instances": len(records),
        "proved": sum(r.get("status") == "optimal" for r in records),
        "worst_above_best": max(above, default=None),
        "seconds": round(sum(float(str(r.get("seconds", 0.0))) for r in records), 1),
        "wrong": [r["instance"] for r in solved if _wrong(r)],
        "contradicts_reference": [_label(r) for r in solved if _contradicts(r)],
    }


def _wrong(record: Record) -> bool:
    """Whether the schedule is invalid or the list schedule beats it."""
    value, heft = record["value"], record["heft"]
    return bool(record["violations"]) or (
        isinstance(heft, float) and isinstance(value, float) and heft < value
    )


def _contradicts(record: Record) -> bool:
    """Whether value or bound cannot be true together with the reference; one of the two is wrong then."""
    value, best, lower, bound = (record.get(k) for k in ("value", "best_known", "known_lower", "bound"))
    above = isinstance(best, float) and isinstance(bound, float) and bound > best * (1 + 1e-9)
    return above or (isinstance(lower, float) and isinstance(value, float) and value < lower * (1 - 1e-9))


def _label(record: Record) -> str:
    processors = record.get("processors")
    return f"{record['instance']}" + (f"@{processors}" if processors else "")


if __name__ == "__main__":
    raise SystemExit(main())
