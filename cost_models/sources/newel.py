"""Newel's own kernel, link and engine models: the default."""

from __future__ import annotations

from cost_models.library import device_cost_model
from cost_models.source import Priced, Source
from hardware_profiles.schema import DeviceProfile, SoftwareProfile


def _priced(device: DeviceProfile, software: SoftwareProfile) -> Priced:
    model = device_cost_model(device, software)
    return Priced(model=model, facts=model.facts, software=software)


source = Source(says="kernels and links as calibrated by this project", priced=_priced)
