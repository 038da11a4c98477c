"""The facts on a device that the forms need, as plain numbers in base units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cost_models.formats import NumberFormat, UnsupportedFormatError, peak_key
from hardware_profiles.schema import DeviceProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """Peaks of one device, dense, in base units.

    `rate_scale` multiplies the peak of a format in compute-bound kernels: it makes a curve that was fitted on
    other devices reach what large products reach on this one.
    """

    name: str
    family: str
    kind: str
    peaks_flops_per_s: Mapping[str, float]
    memory_bandwidth_bytes_per_s: float
    num_sms: float
    l2_bytes: float
    rate_scale: Mapping[str, float] = field(default_factory=dict[str, float])

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

    def rate(self, fmt: NumberFormat) -> float:
        """Return the FLOP/s over which a curve's efficiencies are taken: the peak, or what it is scaled to.

        Raises
        ------
        UnsupportedFormatError
            As `peak`.
        """
        key = peak_key(self.peaks_flops_per_s, fmt)
        return self.peak(fmt) * (self.rate_scale.get(key, 1.0) if key is not None else 1.0)


def rate_scales(device: DeviceProfile, best_eff: Callable[[str], float]) -> dict[str, float]:
    """Return by format what scales a curve whose best products reach `best_eff(format)` of the peak.

    A format without a measured rate takes the share of its peak that 16-bit products reach: clocks under
    load limit all of them.
    """
    peaks = {key: fact.value for key, fact in device.peak_flops_per_s.items()}
    shares = {key: fact.value / peaks[key] for key, fact in device.reached_flops_per_s.items()}
    if not shares:
        return {}
    usual = next((shares[key] for key in ("bf16", "fp16") if key in shares), max(shares.values()))
    return {key: shares.get(key, usual) / best_eff(key) for key in peaks}
