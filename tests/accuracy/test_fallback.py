"""Stand-ins for the unmeasured carry the error that they make on what was measured."""

from pathlib import Path

import numpy as np
import pytest

from cost_models.work import Collective
from hardware_profiles.calibration import calibration_folder, read_calibration
from planner.accuracy.calibrate import device_samples, devices_in
from planner.accuracy.devices import device_links
from planner.accuracy.fallback import judged
from planner.accuracy.kernel_work import work_of
from planner.accuracy.kernels import read_kernels

DATA = Path(__file__).parents[1] / "data" / "kernels"
SHIPPED = read_calibration(calibration_folder() / "families" / "fallback.yaml")


@pytest.fixture(scope="module")
def curves():
    tables = [read_kernels(DATA / name) for name in ("gemm.csv", "collective.csv")]
    samples = {name: device_samples(tables, device) for name, device in devices_in(tables).items()}
    return {(c.operation, c.fmt): c for c in judged(SHIPPED, samples, tables).curves}


def test_a_link_is_judged_by_hand(curves):
    # all_gather: software_s + hops latency + ramp + wire at eff, against the library's rows of the extract
    curve = curves[("all_gather", "any")]
    errors = []
    for group in read_kernels(DATA / "collective.csv").groups:
        work = work_of(group, device_links(group.category["gpu"]))
        if not isinstance(work, Collective) or work.op != "all_gather" or len(work.span.links) > 1:
            continue
        (ranks,), (link,), size = work.span.ranks_per_level, work.span.links, np.asarray(work.num_bytes)
        c = curve.constants
        hops = min(ranks - 1, np.log2(ranks) + 1)
        ramp = c["ramp_bytes"] / link.bandwidth_bytes_per_s * (1 - np.exp(-size / c["ramp_bytes"]))
        wire = size * (ranks - 1) / ranks / (link.bandwidth_bytes_per_s * c["eff"])
        errors.append((c["software_s"] + hops * link.latency_s + ramp + wire) / group.measured_s - 1)
    error = np.abs(np.concatenate(errors)) * 100
    assert curve.num_rows == error.size
    assert curve.held_out_mape == pytest.approx(error.mean(), abs=0.06)
    assert curve.held_out_p50 == pytest.approx(np.median(error), abs=0.06)


def test_constants_stay_and_the_unmeasured_counts_no_rows(curves):
    assert [c.constants for c in curves.values()] == [c.constants for c in SHIPPED.curves]
    assert curves[("gemm", "any")].num_rows > 0
    for key in (("stream", "any"), ("p2p", "network"), ("all_gather", "efa400")):
        assert curves[key].num_rows == 0


def test_what_is_shipped_says_where_its_error_comes_from():
    for curve in SHIPPED.curves:
        assert (curve.num_rows > 0) == ("judged on everything" in curve.fitted), curve.operation
