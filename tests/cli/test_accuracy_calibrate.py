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


def test_fit_into_a_folder_that_is_not_there_writes_nothing(tmp_path):
    path = tmp_path / "none" / "mine.yaml"
    table = str(DATA / "collective.csv")
    assert main(["calibrate", "fit", "--kernels", table, "--device", "h100", "-o", str(path)]) == 2
    assert not path.exists()


def test_measuring_without_torch_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert main(["calibrate", "measure", "--device", "cpu"]) == 2
    assert "torch" in capsys.readouterr().err
