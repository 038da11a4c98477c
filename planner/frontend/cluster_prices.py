"""Prices of devices: the user's, else those of a dated list, said in the diagnostics."""

from __future__ import annotations

from dataclasses import dataclass

from hardware_profiles.loader import canonical, load_price_list
from hardware_profiles.schema import PriceEntry, PriceList
from planner.diagnostics import Diagnostics
from planner.frontend.cluster_links import Place
from planner.frontend.profile_lookup import profile_errors

DEFAULT_LIST = "on-demand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Looks prices up in one list."""

    listed: PriceList
    diagnostics: Diagnostics

    @staticmethod
    def from_list(name: str | None, place: Place, diagnostics: Diagnostics) -> Prices:
        """Return the prices of the list called `name`, of the default list if None.

        Raises
        ------
        InputError
            If there is no such list.
        """
        with profile_errors(file=place.file, key=place.under("prices").key):
            return Prices(listed=load_price_list(name or DEFAULT_LIST), diagnostics=diagnostics)

    def of(self, device: str, stated: float | None) -> tuple[float | None, str]:
        """Return the price of a device in USD per hour (None if unknown) and where it is from."""
        if stated is not None:
            return stated, "given"
        entry = self._entry(device)
        if entry is None:
            self.diagnostics.note(
                "price-unknown", f"no price of {device} in the list {self.listed.name}; costs leave it out"
            )
            return None, ""
        fact = entry.usd_per_device_hour
        source = self.listed.sources[fact.source]
        assumed = ", assumed" if source.kind == "assumption" else ""
        self.diagnostics.note(
            "price-listed",
            f"{device}: {fact.value:g} USD per device-hour, from the list {self.listed.name} "
            f"({source.title}, {source.date}{assumed})",
        )
        return fact.value, f"{self.listed.name}, {source.date}{assumed}"

    def _entry(self, device: str) -> PriceEntry | None:
        wanted = canonical(device)
        return next((e for e in self.listed.entries if canonical(e.device) == wanted), None)
