"""Prices that were asked for before: shapes that differ in experts alone share all other kernels."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from cost_models.base import CostModel
from cost_models.cost import Cost
from cost_models.work import Work


class KnownPrices:
    """A cost model that prices equal work once."""

    def __init__(self, costs: CostModel) -> None:
        self._costs = costs
        self._known: dict[tuple[object, ...], Cost] = {}

    def price(self, work: Work) -> Cost:
        """Return the cost of `work`, as the cost model behind states it."""
        key = (type(work), *(_value(getattr(work, field.name)) for field in fields(work)))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._costs.price(work)
        return found


def _value(value: object) -> object:
    """Return what tells one field from another: the bytes of an array, any other value as it is."""
    if not isinstance(value, np.ndarray):
        return value
    array = np.asarray(value, dtype=np.float64)
    return array.shape, array.tobytes()
