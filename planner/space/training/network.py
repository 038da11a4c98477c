"""Which link a pipeline hop crosses, for ranks laid out tp fastest, then cp, dp, pp.

The order is Megatron-LM's default (tp-cp-ep-dp-pp): the axis that talks most sits on the
innermost links.
"""

from __future__ import annotations

from cost_models.work import LinkSpec
from planner.ir.cluster import NodeGroup
from planner.space.spans import link_spec


def hop_link(group: NodeGroup, *, stride: int) -> LinkSpec:
    """Return the link between two ranks `stride` devices apart (one pipeline hop)."""
    for level in group.levels:
        if level.num_devices > stride:
            return link_spec(level.link)
    return link_spec(group.levels[-1].link)
