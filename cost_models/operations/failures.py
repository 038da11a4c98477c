"""How often a job is interrupted."""

from __future__ import annotations

from dataclasses import dataclass

_HOUR_S = 3600.0
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFailures:
    """Interruptions of a published run or cluster: `num_failures` in `device_s` device-seconds."""

    num_failures: float
    device_s: float
    source: str

    @property
    def device_mtbf_s(self) -> float:
        """Mean time between the interruptions that one device causes, seconds."""
        return self.device_s / self.num_failures


PUBLISHED: dict[str, PublishedFailures] = {
    "llama-3-405b": PublishedFailures(
        num_failures=419,
        device_s=16384 * 54 * _DAY_S,
        source="Llama Team, The Llama 3 Herd of Models (arXiv 2407.21783), section 3.3.4: 419 unexpected "
        "interruptions in 54 days on 16,384 H100",
    ),
    "meta-rsc-1": PublishedFailures(
        num_failures=6.50,
        device_s=8 * 1000 * _DAY_S,
        source="Kokolis et al., Revisiting Reliability in Large-Scale ML Research Clusters, HPCA 2025 "
        "(arXiv 2410.21680): 6.50 failures per 1,000 node-days, 8 A100 per node",
    ),
    "meta-rsc-2": PublishedFailures(
        num_failures=2.34,
        device_s=8 * 1000 * _DAY_S,
        source="Kokolis et al., HPCA 2025 (arXiv 2410.21680): 2.34 failures per 1,000 node-days, "
        "8 A100 per node",
    ),
}


def job_mtbf_s(device_mtbf_s: float, num_devices: int) -> float:
    """Return the mean time between interruptions of a job that any device's failure stops, seconds.

    Failures of devices are independent and exponential, so that their rates add up.
    """
    return device_mtbf_s / num_devices
