"""The facts on a device that the forms need, as plain numbers in base units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cost_models.formats import NumberFormat, UnsupportedFormatError, peak_key
from hardware_profiles.schema import DeviceProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """Peaks of one device, dense, in base units."""

    name: str
    family: str
    kind: str
    peaks_flops_per_s: Mapping[str, float]
    memory_bandwidth_bytes_per_s: float
    num_sms: float
    l2_bytes: float

    @staticmethod
    def of(device: DeviceProfile) -> DeviceFacts:
        """Read the facts out of a device profile."""
        return DeviceFacts(
            name=device.name,
            family=device.family,
            kind=device.kind,
            peaks_flops_per_s={key: fact.value for key, fact in device.peak_flops_per_s.items()},
            memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s.value,
            num_sms=max(1.0, device.num_sms.value),
            l2_bytes=device.l2_bytes.value,
        )

    def peak(self, fmt: NumberFormat) -> float:
        """Return the dense peak in FLOP/s for products in `fmt`.

        Raises
        ------
        UnsupportedFormatError
            If the device has none; its `fallback` names what an engine would run.
        """
        key = peak_key(self.peaks_flops_per_s, fmt)
        if key is None:
            raise UnsupportedFormatError(fmt.name, self.name, fmt.fallback or None)
        return self.peaks_flops_per_s[key]
