"""Which fitted curve prices an operation: own device first, then its family, then the generic one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hardware_profiles.calibration import GENERIC_FAMILY, device_curves, family_curves
from hardware_profiles.provenance import Provenance
from hardware_profiles.schema import DeviceProfile, FittedCurve

POOLED = "pooled"


class NoCurveError(ValueError):
    """No curve, not even a generic one, prices an operation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The constants that price one operation, with their spread and where they come from."""

    constants: Mapping[str, float]
    sigma_log: float
    provenance: Provenance
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveSet:
    """All curves that may price a device's kernels, own ones before shared ones.

    `software` lists kernel software in order of preference; a curve of the same engine at another
    version comes next, then the curve pooled over engines, then any.
    """

    own: tuple[FittedCurve, ...]
    shared: tuple[FittedCurve, ...]
    software: tuple[str, ...] = ()
    _cache: dict[tuple[str, str], Chosen] = field(default_factory=dict[tuple[str, str], Chosen])

    @staticmethod
    def of(device: DeviceProfile, software: Iterable[str] = ()) -> CurveSet:
        """Collect the curves of a device: its own, its family's, the generic ones."""
        return CurveSet(
            own=(*device.curves, *device_curves(device.name)),
            shared=(*family_curves(device.family), *family_curves(GENERIC_FAMILY)),
            software=tuple(software),
        )

    def choose(self, operation: str, fmt: str) -> Chosen:
        """Return the constants for `operation` in `fmt`.

        Raises
        ------
        NoCurveError
            If neither the device nor a family has such a curve.
        """
        key = (operation, fmt)
        if key not in self._cache:
            self._cache[key] = self._search(operation, fmt)
        return self._cache[key]

    def has_own(self, operation: str, fmt: str) -> bool:
        """Return whether the device itself was fitted for the operation in the format."""
        return any(c.operation == operation and c.fmt == fmt for c in self.own)

    def _search(self, operation: str, fmt: str) -> Chosen:
        for curves, provenance in (
            (self.own, Provenance.CALIBRATED),
            (self.shared, Provenance.ANALYTICAL),
        ):
            for wanted in (fmt, "any"):
                matching = [c for c in curves if c.operation == operation and c.fmt == wanted]
                if matching:
                    best = min(matching, key=self._rank)
                    return Chosen(
                        constants=best.constants,
                        sigma_log=best.sigma_log,
                        provenance=Provenance.ASSUMED if best.num_rows == 0 else provenance,
                        origin=f"{best.operation}/{best.fmt}/{best.software}: {best.source}",
                    )
        raise NoCurveError(f"no curve for {operation} in {fmt!r}")

    def _rank(self, curve: FittedCurve) -> tuple[int, int]:
        if curve.software in self.software:
            return (0, self.software.index(curve.software))
        engines = [name.split("-")[0] for name in self.software]
        engine = curve.software.split("-")[0]
        if engine in engines:
            return (1, engines.index(engine))
        return (2, 0) if curve.software == POOLED else (3, 0)
