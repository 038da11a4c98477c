"""Calculon's own option space, as its `llm-optimal-execution` walks it, and the part that Newel has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from planner.space.training.grid import MOST_CHUNKS, divisors
from tests.benchmarks.calculon.machine import Ints, Machine, Model
from tests.benchmarks.calculon.pricing import COMMS, OVERLAPS, RECOMPUTES, Executions, Flags, Price, price

_MOST_AT_ONCE = 200_000
OFFLOADS_OF_BOTH = ((0, 0, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 1, 1), (1, 1, 1))
"""(weights, activations, optimizer) of Newel's none, optimizer, optimizer_and_parameters, activations,
optimizer_and_activations, everything."""
_FULL, _ATTENTION = RECOMPUTES.index("full"), RECOMPUTES.index("attn_only")
_SPLIT = COMMS.index("rs_ag")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A model on so many devices with a global batch; `offload` allows what Calculon can move to the host."""

    model: Model
    num_devices: int
    global_batch: int
    offload: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The fastest execution that fits, how many there were, and how many fit."""

    runs: Executions | None
    time_s: float
    device_bytes: float
    num_options: int
    num_fit: int


def switches(*, tp: int, pp: int, dp: int, recompute: int, num_networks: int = 2) -> list[tuple[int, ...]]:
    """Return (comm, gather again, overlap, dp overlap, tensor, pipeline and data network) of a shape."""
    tiers = range(num_networks)
    found: list[tuple[int, ...]] = []
    for comm in range(len(COMMS)):
        again = (1, 0) if comm == _SPLIT and recompute != _FULL else (0,)
        found.extend(
            product(
                (comm,),
                again,
                range(len(OVERLAPS)) if tp > 1 else (0,),
                (1, 0) if dp > 1 else (0,),
                tiers if tp > 1 else (0,),
                tiers if pp > 1 else (0,),
                tiers if dp > 1 else (0,),
            )
        )
    return found


def all_options(question: Question) -> Iterator[Executions]:
    """Yield every execution that Calculon's search tries at exactly this global batch."""
    model, devices = question.model, question.num_devices
    for tp in divisors(int(np.gcd(model.hidden, model.heads))):
        if devices % tp:
            continue
        most = min(devices // tp, model.blocks)
        for pp in divisors(most):
            if devices % (tp * pp) or model.blocks % pp:
                continue
            dp = devices // (tp * pp)
            if question.global_batch % dp == 0:
                yield _of_shape(question, tp, pp, dp)


def _of_shape(question: Question, tp: int, pp: int, dp: int) -> Executions:
    model = question.model
    laps = divisors(model.blocks // pp) if pp > 1 else [1]
    micro = [b for b in divisors(question.global_batch // dp) if b * model.seq % tp == 0]
    rows = [
        (recompute, sharded, *way, *away, lap, size)
        for recompute in range(len(RECOMPUTES))
        for way in switches(tp=tp, pp=pp, dp=dp, recompute=recompute)
        for sharded in ((1, 0) if dp > 1 else (0,))
        for away in _offloads(question, recompute)
        for lap in laps
        for size in micro
    ]
    table: Ints = np.array(rows, dtype=np.int64)
    names = (
        "recompute",
        "sharded",
        "comm",
        "gather_again",
        "overlap",
        "dp_overlap",
        "tensor_net",
        "pipeline_net",
        "data_net",
        "offload_weights",
        "offload_activations",
        "offload_optimizer",
        "laps",
        "micro_batch",
    )
    columns = {name: table[:, i] for i, name in enumerate(names)}
    return Executions.of(len(table), tp=tp, pp=pp, dp=dp, **columns)


def _offloads(question: Question, recompute: int) -> list[tuple[int, int, int]]:
    if not question.offload:
        return [(0, 0, 0)]
    activations = (0,) if recompute == _FULL else (1, 0)
    return list(product((1, 0), activations, (1, 0)))


def of_both(question: Question, runs: Executions) -> Flags:
    """Return which executions Newel's space has as well.

    Interleaving runs in rounds of pp micro-batches with at most 32 chunks; weights are not offloaded without
    the optimizer.
    """
    num_micro = question.global_batch // (runs.dp * runs.micro_batch)
    rounds = (runs.laps == 1) | ((num_micro % runs.pp == 0) & (runs.laps <= MOST_CHUNKS))
    away = np.zeros(len(runs), dtype=np.bool_)
    for weights, activations, optimizer in OFFLOADS_OF_BOTH:
        away |= (
            (runs.offload_weights == weights)
            & (runs.offload_activations == activations)
            & (runs.offload_optimizer == optimizer)
        )
    return rounds & away


def best_of(question: Question, machine: Machine, *, common: bool) -> Best:
    """Return Calculon's own best by full enumeration; with `common`, among what Newel's space has."""
    found: Best | None = None
    count = fit = 0
    for shape in all_options(question):
        runs = shape.take(of_both(question, shape)) if common else shape
        for start in range(0, len(runs), _MOST_AT_ONCE):
            part = runs.take(np.arange(start, min(start + _MOST_AT_ONCE, len(runs))))
            priced = price(question.model, machine, part, question.global_batch)
            count += len(part)
            fits = priced.fits(machine)
            fit += int(fits.sum())
            found = _better(found, part, priced, fits)
    if found is None:
        return Best(runs=None, time_s=np.inf, device_bytes=np.inf, num_options=count, num_fit=fit)
    return Best(
        runs=found.runs,
        time_s=found.time_s,
        device_bytes=found.device_bytes,
        num_options=count,
        num_fit=fit,
    )


def _better(found: Best | None, runs: Executions, priced: Price, fits: Flags) -> Best | None:
    if not fits.any():
        return found
    at = int(np.argmin(np.where(fits, priced.time_s, np.inf)))
    if found is not None and found.time_s <= priced.time_s[at]:
        return found
    return Best(
        runs=runs.take(np.array([at])),
        time_s=float(priced.time_s[at]),
        device_bytes=float(priced.device_bytes[at]),
        num_options=0,
        num_fit=0,
    )


def words(runs: Executions) -> str:
    """Return one execution in a few words."""
    one = {name: int(getattr(runs, name)[0]) for name in Executions.__dataclass_fields__}
    parts = [f"{short}{one[name]}" for short, name in (("tp", "tp"), ("pp", "pp"), ("dp", "dp"))]
    parts += [f"v{one['laps']}"] if one["laps"] > 1 else []
    parts += [f"mbs{one['micro_batch']}", f"recompute {RECOMPUTES[one['recompute']]}"]
    parts += ["zero1"] if one["sharded"] else []
    parts += [COMMS[one["comm"]]] if one["tp"] > 1 else []
    parts += [OVERLAPS[one["overlap"]]] if one["overlap"] else []
    parts += [word for word in ("gather_again", "dp_overlap") if one[word]]
    parts += [name for name in ("weights", "activations", "optimizer") if one[f"offload_{name}"]]
    return " ".join(parts)
