"""Kernel times of the machine at hand, turned into a calibration.

The sizes are few and spread evenly over what serving and training use; a timer (torch, or a fake in
tests) runs them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from datetime import date
from typing import Protocol

import numpy as np

from cost_models.calibration.solver import Constant, fit
from cost_models.compute.elementwise import stream_time_s
from cost_models.facts import DeviceFacts
from cost_models.work import Stream
from hardware_profiles.calibration import CalibrationFile
from hardware_profiles.schema import DeviceProfile, FittedCurve, Source
from planner.accuracy.devices import device_profile, find_device
from planner.accuracy.fitting import Target, curve_of, fit_curves, samples_of
from planner.accuracy.kernels import KINDS, KernelGroup
from planner.accuracy.table import FloatArray
from planner.errors import InputError


class Timer(Protocol):
    """Runs kernels on one device and returns the median seconds of one run."""

    @property
    def name(self) -> str:
        """Name of the device as its driver tells it."""
        ...

    @property
    def formats(self) -> tuple[str, ...]:
        """Number formats that it can time."""
        ...

    def gemm_s(self, m: int, n: int, k: int, fmt: str) -> float:
        """Time y[m, n] = x[m, k] W[k, n]."""
        ...

    def attention_s(self, sizes: Mapping[str, int], fmt: str) -> float:
        """Time causal attention of `batch` sequences, `q_len` queries against `kv_len` keys."""
        ...

    def copy_s(self, num_bytes: int) -> float:
        """Time a copy that reads and writes `num_bytes` in all."""
        ...


_GEMM = {"m": (1, 16, 64, 256, 1024, 4096), "n": (1024, 4096, 8192), "k": (1024, 4096, 8192)}
_PREFILL = {"batch": (1, 4), "q_len": (128, 512, 2048, 4096), "heads": (8, 32)}
_DECODE = {"batch": (1, 8, 32), "kv_len": (512, 2048, 8192, 16384), "heads": (8, 32)}
_COPIES = (1 << 16, 1 << 20, 1 << 24, 1 << 27, 1 << 29)
_QUICK_GEMM = {"m": (1, 32, 256), "n": (256, 1024), "k": (256, 1024)}
_QUICK_PREFILL = {"batch": (1, 2), "q_len": (32, 128, 256), "heads": (2, 4)}
_QUICK_DECODE = {"batch": (1, 4), "kv_len": (128, 512, 1024), "heads": (2, 4)}
_QUICK_COPIES = (1 << 14, 1 << 18, 1 << 22)
_GROUPED_HEADS = 4
_HEAD_DIM = 128
_STREAM = {
    "memory_eff": Constant(start=0.8, low=1e-4, high=5.0, spread=3.0),
    "launch_s": Constant(start=3e-6, low=1e-8, high=0.1, spread=3.0),
}


def measure_device(
    timer: Timer, profile: str, *, quick: bool, day: date, on_progress: Callable[[str], None]
) -> CalibrationFile:
    """Time the device and return its calibration.

    Raises
    ------
    InputError
        If no profile has the device's name and none was given.
    """
    device = _profile_of(timer, profile)
    target = Target(facts=DeviceFacts.of(device), links={})
    groups: list[KernelGroup] = []
    for fmt in timer.formats:
        on_progress(f"matrix products in {fmt}")
        groups.append(_gemm(timer, fmt, _QUICK_GEMM if quick else _GEMM))
    fmt = timer.formats[0]
    on_progress(f"attention in {fmt}")
    groups.append(_attention(timer, "prefill", fmt, _QUICK_PREFILL if quick else _PREFILL))
    groups.append(_attention(timer, "decode", fmt, _QUICK_DECODE if quick else _DECODE))
    on_progress("copies")
    curves = fit_curves(samples_of(groups, target), "measured")
    curves.append(_copies(timer, _QUICK_COPIES if quick else _COPIES, target.facts))
    title = f"measured on {timer.name} by newel calibrate measure"
    return CalibrationFile(
        device=device.name,
        sources={"measured": Source(title=title, url="none", date=day.isoformat())},
        curves=tuple(curves),
    )


def _profile_of(timer: Timer, profile: str) -> DeviceProfile:
    if profile:
        return device_profile(profile)
    found = find_device(timer.name)
    if found is None:
        raise InputError(
            "no device profile has this device's name",
            key="--profile",
            value=timer.name,
            hint="Name one (`newel profiles list`) or give a YAML file of your own.",
        )
    return found


def _gemm(timer: Timer, fmt: str, grid: Mapping[str, tuple[int, ...]]) -> KernelGroup:
    sizes = list(itertools.product(grid["m"], grid["n"], grid["k"]))
    times = [timer.gemm_s(m, n, k, fmt) for m, n, k in sizes]
    columns: dict[str, FloatArray] = {
        name: np.array([size[i] for size in sizes], dtype=np.float64)
        for i, name in enumerate(("m", "n", "k"))
    }
    return _group("gemm", columns, times, {"dtype": fmt})


def _attention(timer: Timer, phase: str, fmt: str, grid: Mapping[str, tuple[int, ...]]) -> KernelGroup:
    rows: list[dict[str, int]] = []
    for values in itertools.product(*grid.values()):
        row = dict(zip(grid, values, strict=True))
        row["kv_heads"] = max(1, row["heads"] // _GROUPED_HEADS)
        row["head_dim"], row["window"] = _HEAD_DIM, 0
        row.setdefault("q_len", 1)
        row.setdefault("kv_len", row["q_len"])
        rows.append(row)
    times = [timer.attention_s(row, fmt) for row in rows]
    columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}
    return _group(
        "attention", columns, times, {"phase": phase, "q_dtype": fmt, "kv_dtype": fmt, "kind": "gqa"}
    )


def _group(
    kind: str, columns: dict[str, FloatArray], times: list[float], category: Mapping[str, str]
) -> KernelGroup:
    names = next(known.categories for known in KINDS if known.name == kind)
    return KernelGroup(
        kind=kind,
        category=dict.fromkeys(names, "") | dict(category),
        sizes=columns,
        measured_s=np.array(times),
        rows=np.arange(len(times)),
    )


def _copies(timer: Timer, sizes: tuple[int, ...], facts: DeviceFacts) -> FittedCurve:
    measured = np.array([timer.copy_s(size) for size in sizes])
    work = Stream(num_bytes=np.array(sizes, dtype=np.float64))
    constants = fit(_STREAM, lambda c: stream_time_s(work, c, facts), measured)
    error = np.log(stream_time_s(work, constants, facts) / measured)
    return curve_of(("stream", "any", "sum"), "measured", constants, error)
