"""Fair share: the tenant with the fewest served tokens goes first.

Source of the idea: the virtual token counter of Sheng et al., "Fairness in serving large language models"
(OSDI 2024); a tenant that returns starts level with those that wait. With prefix-aware routing,
tenants also keep to the replicas that hold their prefixes.
"""

from __future__ import annotations

from planner.simulate.policies._shares import ShareQueue
from planner.simulate.serving_request import Request


def _group(request: Request) -> int:
    return request.tenant


def POLICY() -> ShareQueue:  # noqa: N802 - the name that the registry looks for
    """Return an empty queue by served tokens of tenants."""
    return ShareQueue(group=_group, forget=True)
