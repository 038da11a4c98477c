"""What a source of costs is: it prices an engine on a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cost_models.aiconfigurator.workers import WorkerTimes
from cost_models.base import CostModel
from cost_models.facts import DeviceFacts
from hardware_profiles.schema import DeviceProfile, SoftwareProfile


def no_remarks() -> tuple[str, ...]:
    """Return nothing to remark."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """An engine on a device with its prices.

    `software` are the engine's facts as they go with these prices; `remarks` says, once something was
    priced, where the times came from and what was missing. With `workers`, whole engine instances are
    estimated there, and `model` prices what lies between them.
    """

    model: CostModel
    facts: DeviceFacts
    software: SoftwareProfile
    remarks: Callable[[], tuple[str, ...]] = no_remarks
    workers: WorkerTimes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A source of costs; `says` describes it in a few words.

    `steps` names the source that prices single steps of a plan of this one, where it knows none itself.
    `priced` raises a ValueError (see each source) where it cannot price a device or an engine at all.
    """

    says: str
    priced: Callable[[DeviceProfile, SoftwareProfile], Priced]
    steps: str = ""
