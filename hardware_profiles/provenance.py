"""Where a number comes from, from most to least trustworthy."""

from __future__ import annotations

from enum import IntEnum


class Provenance(IntEnum):
    """Provenance of a value; the worst in a sum is the provenance of the sum."""

    MEASURED = 0
    CALIBRATED = 1
    ANALYTICAL = 2
    ASSUMED = 3

    @property
    def label(self) -> str:
        """Lower-case word used in files and reports."""
        return self.name.lower()
