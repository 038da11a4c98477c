"""The record of a simulation as files: a report, a table of requests, and a trace for Perfetto."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import StringIO

from planner.simulate.serving import Simulation, replica_names

_MAX_TRACED_REQUESTS = 50_000
_MICROSECONDS = 1e6
_COLUMNS = (
    "arrival_s",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "start_s",
    "first_token_s",
    "finish_s",
    "replica",
    "interruptions",
)


def record_files(simulation: Simulation) -> dict[str, str]:
    """Return the texts of report.json, requests.csv and trace.json."""
    return {
        "report.json": json.dumps(simulation.report.as_dict(), indent=2, sort_keys=True) + "\n",
        "requests.csv": _requests_csv(simulation),
        "trace.json": json.dumps({"traceEvents": list(_events(simulation)), "displayTimeUnit": "ms"}),
    }


def _requests_csv(simulation: Simulation) -> str:
    """Return one row per request; times in seconds from the start."""
    names = replica_names(simulation.places)
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for r in simulation.requests:
        prompt = r.context - r.produced
        row = (r.arrival_s, r.start_s, r.first_s, r.finish_s)
        arrival, start, first, finish = (f"{value:.6f}" for value in row)
        cached = min(r.cached, prompt)
        table.writerow(
            [
                arrival,
                prompt,
                cached,
                r.steps + r.produced + 1,
                start,
                first,
                finish,
                names[r.place],
                r.interruptions,
            ]
        )
    return text.getvalue()


def _events(simulation: Simulation) -> Iterator[dict[str, object]]:
    """Yield trace events of Chrome's format: per request its wait, prompt and decoding, under its replica.

    Requests overlap, so they are asynchronous events with an id. Beyond the first 50,000 requests the
    trace ends: viewers would not open it.
    """
    for index, name in enumerate(replica_names(simulation.places)):
        yield {"ph": "M", "name": "process_name", "pid": index, "args": {"name": name}}
    running: list[tuple[float, int, int]] = []
    for number, r in enumerate(simulation.requests[:_MAX_TRACED_REQUESTS]):
        spans = (
            ("wait", r.arrival_s, r.start_s),
            ("prompt", r.start_s, r.first_s),
            ("decode", r.first_s, r.finish_s),
        )
        for name, begin, end in spans:
            if end <= begin:
                continue
            common = {"cat": "request", "name": name, "id": number, "pid": r.place, "tid": 0}
            yield {
                **common,
                "ph": "b",
                "ts": begin * _MICROSECONDS,
                "args": {"input": r.context, "steps": r.steps},
            }
            yield {**common, "ph": "e", "ts": end * _MICROSECONDS}
        running += [(r.start_s, r.place, 1), (r.finish_s, r.place, -1)]
    counts = [0] * len(simulation.places)
    for at, place, change in sorted(running):
        counts[place] += change
        yield {
            "ph": "C",
            "name": "running",
            "pid": place,
            "ts": at * _MICROSECONDS,
            "args": {"requests": counts[place]},
        }
