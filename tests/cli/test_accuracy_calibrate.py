"""The accuracy and calibrate commands: outcomes, errors, files."""

import json
from pathlib import Path

import pytest

from hardware_profiles.calibration import read_calibration
from planner.cli.main import main

DATA = Path(__file__).parents[1] / "data" / "kernels"


def test_accuracy_prints_a_table_and_json(capsys):
    assert main(["accuracy", "--kernels", str(DATA / "moe.csv")]) == 0
    assert "fp8_block" in capsys.readouterr().out
    assert main(["accuracy", "--kernels", str(DATA / "moe.csv"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["num_rows"] == 120
    assert data["num_refused"] == 0
    assert {"source", "model", "roofline", "constant", "coverage_90"} <= data["scores"][0].keys()


@pytest.mark.parametrize(
    "arguments",
    [
        ["accuracy"],
        ["accuracy", "--kernels", "no-such.csv"],
        ["accuracy", "--kernels", "."],
        ["accuracy", "--scoreboard", "no-such-folder"],
        ["accuracy", "--kernels", str(DATA / "moe.csv"), "--calibration", "none.yaml"],
        ["calibrate", "fit", "--kernels", str(DATA / "moe.csv"), "--device", "abacus; rm -rf /"],
        ["calibrate", "fit", "--kernels", str(DATA / "moe.csv"), "--device", "mi300x"],
        ["calibrate", "fit", "--kernels", str(DATA / "moe.csv"), "--device", "none.yaml"],
        ["calibrate", "refit", "--data", "no-such-folder"],
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(arguments, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said


def test_fit_writes_a_file_that_accuracy_takes(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    table = str(DATA / "collective.csv")
    assert main(["calibrate", "fit", "--kernels", table, "--device", "h100", "-o", str(path)]) == 0
    assert "held-out error" in capsys.readouterr().err
    assert read_calibration(path).device == "h100"
    assert main(["accuracy", "--kernels", table, "--calibration", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_refused"] == 0


def test_a_device_of_ones_own_is_described_calibrated_and_scored(tmp_path, capsys, monkeypatch):
    for folder in ("devices", "calibrations"):
        (tmp_path / folder).mkdir()
    assert main(["profiles", "show", "l4", "--yaml"]) == 0
    text = (
        capsys.readouterr()
        .out.replace("name: l4\n", "name: my-gpu\n")
        .replace("nvidia-l4, g6", "engineering")
    )
    profile = tmp_path / "devices" / "my-gpu.yaml"
    profile.write_text(text, encoding="utf-8")
    shapes = [(m, n) for m in (1, 16, 64, 256, 1024, 4096) for n in (4096, 8192)]
    rows = [f"Engineering,bf16,{m},{n},4096,{9.0 + m * n * 9e-5 + n * 0.033},me" for m, n in shapes]
    table = tmp_path / "gemm.csv"
    table.write_text("\n".join(["gpu,dtype,m,n,k,time_us,source", *rows]), encoding="utf-8")
    fitted = tmp_path / "calibrations" / "my-gpu.yaml"
    fit = ["calibrate", "fit", "--kernels", str(table), "--device"]
    assert main([*fit, "my-gpu"]) == 2
    assert "newel profiles show l4 --yaml" in capsys.readouterr().err
    assert main([*fit, str(profile), "-o", str(fitted)]) == 0
    monkeypatch.setenv("NEWEL_PROFILES", str(tmp_path))
    capsys.readouterr()
    assert main(["accuracy", "--kernels", str(table), "--json"]) == 0
    [score] = json.loads(capsys.readouterr().out)["scores"]
    assert score["num_refused"] == 0
    assert score["model"]["mape"] < 10.0


def test_fit_into_a_folder_that_is_not_there_writes_nothing(tmp_path):
    path = tmp_path / "none" / "mine.yaml"
    table = str(DATA / "collective.csv")
    assert main(["calibrate", "fit", "--kernels", table, "--device", "h100", "-o", str(path)]) == 2
    assert not path.exists()


def test_measuring_without_torch_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert main(["calibrate", "measure", "--device", "cpu"]) == 2
    assert "torch" in capsys.readouterr().err
