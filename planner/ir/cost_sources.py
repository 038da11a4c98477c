"""Sources of costs by name: who says how long operations take."""

from __future__ import annotations

from cost_models.aiconfigurator.query import AiconfiguratorError
from cost_models.source import Priced, Source
from hardware_profiles.schema import DeviceProfile, SoftwareProfile
from planner.errors import InputError
from planner.registry import Registry

OWN_COSTS = "newel"
COST_SOURCES: Registry[Source] = Registry(
    what="source of costs", package="cost_models.sources", attribute="source"
)


def priced_by(source: str, device: DeviceProfile, software: SoftwareProfile) -> Priced:
    """Return an engine on a device with the prices of a source.

    Raises
    ------
    InputError
        If there is no such source, it is not installed, or it does not know the device or the engine.
    """
    try:
        return COST_SOURCES.get(source).priced(device, software)
    except AiconfiguratorError as error:
        raise InputError(str(error), key="costs", value=source, hint=error.hint or None) from None


def step_source(source: str) -> str:
    """Return the source that prices single steps of plans of a source: itself, or the one that it names."""
    return COST_SOURCES.get(source).steps or source
