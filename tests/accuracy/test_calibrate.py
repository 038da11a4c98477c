"""Calibration recovers constants, survives outliers, round-trips as a file and is used where it is given."""

from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from cost_models.calibration.solver import Constant, fit
from cost_models.facts import DeviceFacts
from cost_models.library import Pricing, device_cost_model
from cost_models.work import Gemm
from hardware_profiles.calibration import calibrated_devices, device_curves, family_curves, read_calibration
from hardware_profiles.loader import load_device
from planner.accuracy.calibrate import calibration_text, fit_device, shipped_curves
from planner.accuracy.devices import find_device
from planner.accuracy.fitting import Target, fit_curves, residuals, samples_of
from planner.accuracy.kernels import read_kernels
from planner.accuracy.measure import measure_device
from planner.accuracy.score import score_kernels
from planner.errors import InputError

DATA = Path(__file__).parents[1] / "data" / "kernels"
DAY = date(2026, 1, 1)


def test_the_solver_recovers_constants_in_spite_of_outliers():
    x = np.geomspace(1.0, 1e4, 200)
    truth = 3.0 + 0.5 * x
    measured = truth * np.exp(np.random.default_rng(1).normal(0, 0.02, x.size))
    measured[::10] *= 4.0
    spec = {name: Constant(start=1.0, low=1e-3, high=1e3, spread=3.0) for name in ("base", "slope")}
    found = fit(spec, lambda c: c["base"] + c["slope"] * x, measured)
    assert found["base"] == pytest.approx(3.0, rel=0.05)
    assert found["slope"] == pytest.approx(0.5, rel=0.02)


def test_constants_stay_in_their_range_and_nothing_to_fit_is_an_error():
    spec = {"base": Constant(start=1.0, low=0.5, high=2.0)}
    assert fit(spec, lambda c: np.full(9, c["base"]), np.full(9, 50.0))["base"] == pytest.approx(2.0)
    with pytest.raises(ValueError, match="no measured rows"):
        fit(spec, lambda c: np.empty(0), np.empty(0))


def test_a_fit_on_a_device_predicts_its_table_better_than_family_defaults():
    table = read_kernels(DATA / "gemm.csv")
    device = load_device("h100").model_copy(update={"name": "mine", "curves": ()})
    groups = [
        g for g in table.groups if g.category["gpu"] == "h100_sxm" and g.category["dtype"] == "bfloat16"
    ]
    assert groups
    fitted = fit_device([table], load_device("h100"), "test", day=DAY)
    curve = next(c for c in fitted.curves if c.fmt == "bf16" and c.software == "pooled")
    own = device_cost_model(device.model_copy(update={"curves": fitted.curves}), pricing=Pricing(replay=True))
    shared = device_cost_model(
        device.model_copy(update={"family": "unheard-of"}), pricing=Pricing(replay=True)
    )

    def error(model):
        logs = []
        for group in groups:
            work = Gemm(m=group.sizes["m"], n=group.sizes["n"], k=group.sizes["k"])
            logs.append(np.log(model.price(work).time_s / group.measured_s))
        return np.abs(np.concatenate(logs)).mean()

    assert error(own) < error(shared)
    assert 0.03 <= curve.sigma_log < 0.3


def test_a_calibration_round_trips_and_prices_its_device(tmp_path):
    table = read_kernels(DATA / "collective.csv")
    fitted = fit_device([table], load_device("h100"), "test", day=DAY)
    path = tmp_path / "h100.yaml"
    path.write_text(calibration_text(fitted))
    again = read_calibration(path)
    assert again == fitted
    assert score_kernels(table, again)[0].num_refused == 0


def test_a_users_calibration_comes_before_ours(tmp_path, monkeypatch):
    ours = device_curves("h100")
    fitted = fit_device([read_kernels(DATA / "moe.csv")], load_device("h100"), "test", day=DAY)
    folder = tmp_path / "calibrations"
    folder.mkdir()
    (folder / "h100.yaml").write_text(calibration_text(fitted))
    monkeypatch.setenv("NEWEL_PROFILES", str(tmp_path))
    assert device_curves("h100") == (*fitted.curves, *ours)


def test_a_table_of_another_device_cannot_calibrate_this_one():
    with pytest.raises(InputError, match="no rows"):
        fit_device([read_kernels(DATA / "moe.csv")], load_device("mi300x"), "test", day=DAY)


@pytest.mark.parametrize(
    "text", ["[1, 2]", "device: x\n", "device: [", "device: x\nsources: {}\ncurves: 3\n"]
)
def test_bad_calibration_files_are_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.yaml"):
        read_calibration(path)


@pytest.mark.parametrize("gpu", ["h100_sxm", "a100_sxm"])
def test_intervals_cover_an_engine_that_was_not_fitted(gpu):
    """Split by source: two engines are fitted, the interval covers about nine in ten rows of the third."""
    table = read_kernels(DATA / "gemm.csv")
    groups = [g for g in table.groups if (g.category["gpu"], g.category["dtype"]) == (gpu, "bfloat16")]
    samples = samples_of(groups, Target(facts=DeviceFacts.of(find_device(gpu)), links={}))
    inside = []
    for engine in sorted({s.engine for s in samples}):
        fitted = fit_curves([s for s in samples if s.engine != engine], "test")
        curve = min((c for c in fitted if c.transfer_mape), key=lambda c: c.transfer_mape)
        judged = [s for s in samples if s.engine == engine]
        inside.append(np.abs(residuals(judged, curve.constants)) <= 1.645 * curve.transfer_sigma_log)
    assert len(inside) == 3
    assert 0.85 <= np.concatenate(inside).mean() <= 0.97


@pytest.mark.parametrize("name", calibrated_devices())
def test_shipped_calibrations_belong_to_a_profile_and_say_their_error(name):
    load_device(name)
    curves = device_curves(name)
    assert curves
    keys = Counter((c.operation, c.fmt, c.software) for c in curves)
    assert max(keys.values()) == 1
    assert all(c.num_rows >= 8 and c.sigma_log >= 0.03 and c.fitted for c in curves)


@pytest.mark.parametrize("family", ["generic", "hopper", "fallback"])
def test_family_defaults_exist(family):
    assert family_curves(family)


class FakeTimer:
    name = "h100"
    formats = ("bf16",)

    def gemm_s(self, m, n, k, fmt):
        return 5e-6 + max(2.0 * m * n * k / 500e12, 2.0 * n * k / 2.5e12)

    def attention_s(self, sizes, fmt):
        return 1e-5 + sizes["batch"] * sizes["kv_len"] * sizes["q_len"] * sizes["heads"] * 512.0 / 400e12

    def copy_s(self, num_bytes):
        return 4e-6 + num_bytes / 2.5e12


def test_measuring_fits_products_attention_and_copies():
    said = []
    fitted = measure_device(FakeTimer(), "", quick=False, day=DAY, on_progress=said.append)
    operations = {curve.operation for curve in fitted.curves}
    assert operations == {"gemm", "attention_prefill", "attention_decode", "stream"}
    copies = next(curve for curve in fitted.curves if curve.operation == "stream")
    assert copies.constants["memory_eff"] == pytest.approx(2.5e12 / 3.35e12, rel=0.05)
    assert said


def test_measuring_an_unknown_device_asks_for_a_profile():
    timer = FakeTimer()
    timer.name = "Abacus 9000"
    with pytest.raises(InputError, match="no device profile"):
        measure_device(timer, "", quick=True, day=DAY, on_progress=lambda _: None)


def test_an_older_table_of_a_quicker_host_is_shipped_beside_the_newest():
    found = {c.software: c for c in device_curves("l40s") if c.operation == "custom_all_reduce"}
    newest, peer = found["sglang-0.5.14"], found["sglang-0.5.12:peer"]
    older = peer.model_copy(update={"software": "sglang-0.5.12"})
    assert [c.software for c in shipped_curves((older, newest))] == ["sglang-0.5.14", peer.software]
    alike = newest.model_copy(update={"software": "sglang-0.5.12"})
    assert [c.software for c in shipped_curves((alike, newest))] == ["sglang-0.5.14"]
