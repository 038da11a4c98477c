"""Which fitted curve prices an operation: the engine's own first, and of equals that of the own device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hardware_profiles.calibration import SHARED_FAMILIES, device_curves, family_curves
from hardware_profiles.provenance import Provenance
from hardware_profiles.schema import DeviceProfile, FittedCurve

POOLED = "pooled"
PEER_HOST = "peer"
"""Marks a curve of a host whose devices reach each other directly, where others cross memory or sockets."""
_STRANGER = 2
_VERSION_SIGMA_LOG = 0.08
"""Spread between versions of one engine: same shape and GPU, 1 to 8 % in the median, 4 to 31 % at the 90th
percentile in public kernel tables of two versions."""


class NoCurveError(ValueError):
    """No curve, not even a generic one, prices an operation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The constants that price one operation, with their spread and where they come from.

    `is_stranger` says that they are of another engine than the one that is priced, or of the average one.
    """

    constants: Mapping[str, float]
    sigma_log: float
    provenance: Provenance
    origin: str
    is_stranger: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveSet:
    """All curves that may price a device's kernels, own ones before shared ones.

    `software` lists kernel software in order of preference (``vllm-0.24.0``, or one kernel of it,
    ``vllm-0.24.0:name``); a curve of the same engine at another version comes next, then whichever curve
    (one of them pooled over engines) erred least on engines that it was not fitted on.
    """

    own: tuple[FittedCurve, ...]
    shared: tuple[tuple[FittedCurve, ...], ...]
    software: tuple[str, ...] = ()
    _cache: dict[tuple[str, str], Chosen] = field(default_factory=dict[tuple[str, str], Chosen])

    @staticmethod
    def of(device: DeviceProfile, software: Iterable[str] = ()) -> CurveSet:
        """Collect the curves of a device: its own, its family's, the generic ones.

        A device that brings an all-reduce of its own says what its host does.
        """
        shipped = device_curves(device.name)
        if any(curve.operation.endswith("all_reduce") for curve in device.curves):
            shipped = tuple(c for c in shipped if not c.software.endswith(f":{PEER_HOST}"))
        return CurveSet(
            own=(*device.curves, *shipped),
            shared=tuple(family_curves(name) for name in (device.family, *SHARED_FAMILIES)),
            software=tuple(software),
        )

    def choose(self, operation: str, fmt: str) -> Chosen:
        """Return the constants for `operation` in `fmt`.

        Raises
        ------
        NoCurveError
            If neither the device nor a family has such a curve.
        """
        key = (operation, _curve_format(fmt))
        if key not in self._cache:
            self._cache[key] = self._search(*key)
        return self._cache[key]

    def of_engines(self, operation: str, fmt: str) -> list[Chosen]:
        """Return the curves of all engines that this device, else what it shares, was fitted for."""
        wanted = _curve_format(fmt)
        levels = [(self.own, Provenance.CALIBRATED)]
        levels += [(curves, Provenance.ANALYTICAL) for curves in self.shared]
        for curves, provenance in levels:
            found = [
                self._chosen(curve, provenance)
                for curve in curves
                if (curve.operation, curve.fmt) == (operation, wanted)
                and curve.software != POOLED
                and ":" not in curve.software
            ]
            if found:
                return found
        return []

    def quickest_of(self, operation: str, fmt: str) -> tuple[list[Chosen], float] | None:
        """Return the curves of the engines that this device was fitted for, and the spread of their quickest.

        Engines pick among much the same libraries, so the quickest measured kernel says more of an engine
        that nobody measured than the average does. None where that was not judged (fewer than two engines).
        """
        wanted = _curve_format(fmt)
        judged = [
            curve.quickest_sigma_log
            for curve in self.own
            if (curve.operation, curve.fmt, curve.software) == (operation, wanted, POOLED)
        ]
        if not judged or not judged[0]:
            return None
        return self.of_engines(operation, fmt), judged[0]

    def of_peer_host(self, operation: str, fmt: str) -> Chosen | None:
        """Return the curve of a host with quicker paths between devices than others, None without."""
        wanted = _curve_format(fmt)
        for curve in self.own:
            marked = curve.software.endswith(f":{PEER_HOST}")
            if marked and (curve.operation, curve.fmt) == (operation, wanted):
                return self._chosen(curve, Provenance.CALIBRATED)
        return None

    def has_own(self, operation: str, fmt: str) -> bool:
        """Return whether the device itself was fitted for the operation in the format."""
        wanted = _curve_format(fmt)
        return any(c.operation == operation and c.fmt == wanted for c in self.own)

    def has(self, operation: str, fmt: str) -> bool:
        """Return whether the device or what it shares was fitted for the operation in the format."""
        wanted = _curve_format(fmt)
        everything = (self.own, *self.shared)
        return any(c.operation == operation and c.fmt == wanted for curves in everything for c in curves)

    def _search(self, operation: str, fmt: str) -> Chosen:
        """Take the engine's own kernel: on this device, else on its family; else what is nearest."""
        levels = [(self.own, Provenance.CALIBRATED)]
        levels += [(curves, Provenance.ANALYTICAL) for curves in self.shared]
        for worst_rank in (0, 1, math.inf):
            for curves, provenance in levels:
                for wanted in (fmt, "any"):
                    matching = [c for c in curves if c.operation == operation and c.fmt == wanted]
                    matching = [c for c in matching if self._rank(c)[0] <= worst_rank]
                    if matching:
                        return self._chosen(min(matching, key=self._rank), provenance)
        raise NoCurveError(f"no curve for {operation} in {fmt!r}")

    def _chosen(self, best: FittedCurve, provenance: Provenance) -> Chosen:
        return Chosen(
            constants=best.constants,
            sigma_log=self._sigma_log(best),
            provenance=Provenance.ASSUMED if best.num_rows == 0 else provenance,
            origin=f"{best.operation}/{best.fmt}/{best.software}: {best.source}",
            is_stranger=self._rank(best)[0] >= _STRANGER,
        )

    def _sigma_log(self, curve: FittedCurve) -> float:
        rank = self._rank(curve)[0]
        if rank == 0:
            return curve.sigma_log
        if rank == 1:
            return math.hypot(curve.sigma_log, _VERSION_SIGMA_LOG)
        return curve.transfer_sigma_log or curve.sigma_log

    def _rank(self, curve: FittedCurve) -> tuple[int, float, str]:
        if curve.software in self.software:
            return (0, self.software.index(curve.software), "")
        if ":" in curve.software:
            return (_STRANGER + 1, curve.transfer_mape, curve.software)
        engines = [name.split("-")[0] for name in self.software]
        engine = curve.software.split("-")[0]
        if engine in engines:
            return (1, engines.index(engine), curve.software)
        return (_STRANGER, curve.transfer_mape or curve.held_out_mape, curve.software)


def _curve_format(fmt: str) -> str:
    """Return the format whose curves price `fmt`: the two half precisions run the same kernels."""
    return "/".join("bf16" if part == "fp16" else part for part in fmt.split("/"))
