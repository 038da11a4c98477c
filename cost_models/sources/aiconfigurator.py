"""Operation times of AIConfigurator's measured tables, under Newel's own model of engines and queues."""

from __future__ import annotations

from cost_models.aiconfigurator.operations import OperationCosts
from cost_models.aiconfigurator.package import PackageTimes, system_of
from cost_models.library import device_cost_model
from cost_models.source import Priced, Source
from hardware_profiles.schema import DeviceProfile, SoftwareProfile


def _priced(device: DeviceProfile, software: SoftwareProfile) -> Priced:
    own = device_cost_model(device, software)
    tables = PackageTimes(system=system_of(device.name), engine=software.engine)
    model = OperationCosts(tables=tables, own=own, facts=own.facts)
    # The scale was fitted to the project's own kernels; AIConfigurator's times are measured ones.
    unscaled = software.model_copy(update={"compute_scale": None})
    return Priced(model=model, facts=own.facts, software=unscaled, remarks=model.remarks)


source = Source(says="operation times of AIConfigurator's tables", priced=_priced)
