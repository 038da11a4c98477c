"""AIConfigurator's estimates of whole workers: its own schedules, latency rules, memory and rate matching."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cost_models.aiconfigurator.package import system_of
from cost_models.aiconfigurator.package_workers import PackageWorkers
from cost_models.base import CostModel
from cost_models.cost import Cost
from cost_models.library import device_cost_model
from cost_models.source import Priced, Source
from cost_models.work import KvTransfer, Work
from hardware_profiles.provenance import Provenance
from hardware_profiles.schema import DeviceProfile, SoftwareProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeTransfers:
    """Moves caches between workers at no cost, as AIConfigurator does; all else is priced by `own`."""

    own: CostModel

    def price(self, work: Work) -> Cost:
        """Return the cost of `work`."""
        if isinstance(work, KvTransfer):
            nothing = np.asarray(work.num_bytes, dtype=np.float64) * 0.0
            return Cost(time_s=nothing, variance_s2=nothing, provenance=Provenance.ASSUMED)
        return self.own.price(work)


def _priced(device: DeviceProfile, software: SoftwareProfile) -> Priced:
    own = device_cost_model(device, software)
    workers = PackageWorkers(system=system_of(device.name), engine=software.engine)

    def remarks() -> tuple[str, ...]:
        return (
            f"whole workers are estimated by {workers.label}, by its own rules: means only, no queues, no "
            "arrivals, no transfer of caches between pools, stages of equal time",
        )

    return Priced(
        model=FreeTransfers(own=own), facts=own.facts, software=software, remarks=remarks, workers=workers
    )


source = Source(
    says="AIConfigurator's estimates of whole workers, by its own rules",
    priced=_priced,
    steps="aiconfigurator",
)
