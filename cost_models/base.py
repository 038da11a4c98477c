"""What a cost model is: something that prices pieces of work on one device kind."""

from __future__ import annotations

from typing import Protocol

from cost_models.cost import Cost
from cost_models.work import Work


class CostModel(Protocol):
    """Prices pieces of work on one device under one software stack."""

    def price(self, work: Work) -> Cost:
        """Return the cost of `work`, elementwise over its broadcast fields.

        Raises
        ------
        ValueError
            If the device has no peak for the work's format or a field is negative.
        """
        ...
