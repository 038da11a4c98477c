"""Traces of requests: found formats, arrival rate and burstiness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby, pairwise
from math import fsum
from pathlib import Path
from typing import Protocol

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.yaml_source import read_text
from planner.ir.trace import RequestTrace
from planner.registry import Registry

MAX_TRACE_BYTES = 512 * 1024 * 1024

# Arrivals are called slotted when at least this share of the requests repeat the time of the one before.
_SLOTTED_SHARE = 0.5
_LONGEST_SPAN_S = 1e9
_WINDOW_S = 60.0
_WINDOW_REQUESTS = 300.0
_LEAST_WINDOWS = 5


class TraceImporter(Protocol):
    """Reads one trace format."""

    def recognises(self, first_line: str) -> bool:
        """Return whether a file that begins with this line is of this format."""
        ...

    def read(self, text: str, file: str, diagnostics: Diagnostics) -> RequestTrace:
        """Return the trace.

        Raises
        ------
        InputError
            If a row is malformed, negative or out of order; the line is named.
        """
        ...


TRACE_IMPORTERS: Registry[TraceImporter] = Registry(
    what="trace format", package="planner.frontend.trace_importers", attribute="IMPORTER"
)


def read_trace(path: Path, diagnostics: Diagnostics) -> RequestTrace:
    """Return the trace in a file of any known format.

    Raises
    ------
    InputError
        If no importer knows the format or the rows are wrong.
    """
    text = read_text(path, max_bytes=MAX_TRACE_BYTES)
    first_line = next((line for line in text.splitlines() if line.strip()), "")
    for _, importer in TRACE_IMPORTERS.items():
        if importer.recognises(first_line):
            trace = importer.read(text, str(path), diagnostics)
            if trace.num_requests == 0:
                raise InputError("the trace holds no requests with a prompt and an output", file=str(path))
            _check_span(trace, str(path))
            return trace
    raise InputError(
        "not a trace in a known format",
        file=str(path),
        line=1,
        value=first_line[:80],
        allowed="a CSV with a header such as arrival,input_tokens,output_tokens, or Mooncake JSON lines",
    )


def _check_span(trace: RequestTrace, file: str) -> None:
    span = trace.arrival_s[-1] - trace.arrival_s[0] if trace.arrival_s else 0.0
    if span > _LONGEST_SPAN_S:
        raise InputError(
            "the trace spans more than thirty years",
            file=file,
            key="arrival",
            value=f"{span:.3g} s",
            hint="Arrivals count in seconds (in Mooncake's format in milliseconds).",
        )


def arrival_rate_rps(trace: RequestTrace) -> float:
    """Return the mean arrival rate, requests per second: (n - 1) gaps over the time they span.

    Raises
    ------
    InputError
        If the trace has no times or spans no time.
    """
    if len(trace.arrival_s) < 2 or trace.arrival_s[-1] <= trace.arrival_s[0]:
        raise InputError(
            "the trace spans no time, so it has no rate", key="workload.trace", hint="State workload.rate."
        )
    return (len(trace.arrival_s) - 1) / (trace.arrival_s[-1] - trace.arrival_s[0])


def busy_rate_rps(trace: RequestTrace, share: float) -> float:
    """Return the rate that `share` of the requests do not see exceeded, requests per second.

    Rates are those of windows of a minute, or of as long as 300 requests take at the mean rate where that
    is longer, so that chance alone moves a window's rate by 6 % at most. Waiting grows over minutes in which
    more arrives than is served, which the spread of single gaps does not tell. A trace of fewer than five
    windows has only its mean rate.

    Raises
    ------
    InputError
        If the trace has no times or spans no time.
    """
    mean_rps = arrival_rate_rps(trace)
    window_s = max(_WINDOW_S, _WINDOW_REQUESTS / mean_rps)
    start_s = trace.arrival_s[0]
    num_windows = int((trace.arrival_s[-1] - start_s) // window_s)
    if num_windows < _LEAST_WINDOWS:
        return mean_rps
    counts = Counter(int((arrival - start_s) // window_s) for arrival in trace.arrival_s)
    whole = sorted(counts[index] for index in range(num_windows))
    seen, total = 0, sum(whole)
    for count in whole:
        seen += count
        if seen >= share * total:
            return max(mean_rps, count / window_s)
    return max(mean_rps, whole[-1] / window_s)


def burstiness(trace: RequestTrace, diagnostics: Diagnostics) -> float:
    """Return the squared coefficient of variation of the gaps between arrivals (1 for Poisson).

    Where most requests share their time with the one before, the clock of the trace is coarse and
    not the traffic bursty: requests of a slot are then spread evenly over it, which is noted.
    """
    arrivals: Sequence[float] = trace.arrival_s
    gaps = [b - a for a, b in pairwise(arrivals)]
    if not gaps or arrivals[-1] <= arrivals[0]:
        return 1.0
    if sum(gap == 0.0 for gap in gaps) >= _SLOTTED_SHARE * len(gaps):
        diagnostics.note(
            "trace-slotted-times",
            "most requests of the trace share their arrival time: its clock is coarse, so requests were "
            "spread evenly within each tick before burstiness was measured",
        )
        arrivals = _spread(arrivals)
        gaps = [b - a for a, b in pairwise(arrivals)]
    mean = fsum(gaps) / len(gaps)
    variance = fsum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    return variance / mean**2


def _spread(arrivals: Sequence[float]) -> list[float]:
    """Spread equal times evenly up to the next tick (the last tick is as long as the one before)."""
    slots = [(time, len(list(group))) for time, group in groupby(arrivals)]
    ends = [time for time, _ in slots[1:]]
    last_width = slots[-1][0] - slots[-2][0] if len(slots) > 1 else 1.0
    ends.append(slots[-1][0] + last_width)
    return [
        start + (end - start) * index / count
        for (start, count), end in zip(slots, ends, strict=True)
        for index in range(count)
    ]
