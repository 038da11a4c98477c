"""All-reduce across nodes against what others measured.

EFA: stas00/ml-engineering, network chapter (CC-BY-SA-4.0, facts only), torch on 4 p6-b200 nodes; its
harness adds about 22 us, the difference between its single-node times and those of kernels in graphs.
InfiniBand: coreweave/nccl-tests README, 8 nodes of 8 H100 with SHARP. Neither took part in the fit of
the network's constants, which rest on runs of two nodes.
"""

from __future__ import annotations

import numpy as np
import pytest

from cost_models.work import Collective
from planner.diagnostics import Diagnostics
from planner.frontend.clusters import parse_cluster
from planner.space.engine import installed_costs
from planner.space.spans import span_of

HARNESS_S = 22e-6
EFA_B200 = {
    262144: 382e-6,
    1048576: 378e-6,
    4194304: 430e-6,
    16777216: 505e-6,
    67108864: 830e-6,
    1073741824: 5.747e-3,
    17179869184: 87.18e-3,
}
SHARP_H100 = {536870912: 2.985e-3, 2147483648: 11.163e-3, 8589934592: 43.98e-3}


@pytest.mark.parametrize(
    ("cluster", "ranks", "measured", "harness_s", "within"),
    [
        ("4x8xb200@efa400", 32, EFA_B200, HARNESS_S, 0.15),
        ("8x8xh100", 64, SHARP_H100, 0.0, 0.15),
    ],
)
def test_all_reduce_across_nodes(cluster, ranks, measured, harness_s, within):
    group = parse_cluster(cluster, source=None, diagnostics=Diagnostics()).groups[0]
    num_bytes = np.array(list(measured), dtype=np.float64)
    work = Collective(op="all_reduce", num_bytes=num_bytes, span=span_of(group, ranks))
    found_s = installed_costs(group, "vllm").model.price(work).time_s + harness_s
    errors = np.abs(found_s / np.array(list(measured.values())) - 1.0)
    assert errors.max() <= within
