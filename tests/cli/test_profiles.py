from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hardware_profiles import loader
from planner.cli.main import main

GOLDEN = Path(__file__).parents[1] / "golden"
DEVICES = Path(loader.__file__).parent / "devices"


def _stdout(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["profiles", *arguments]) == code
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["h200", "gb200-nvl72", "nvlink4", "hgx-h100"])
def test_show_is_as_frozen(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """To accept a change: NEWEL_UPDATE_GOLDEN=1 pytest tests/cli/test_profiles.py."""
    text = _stdout(capsys, "show", name)
    path = GOLDEN / f"profile_{name}.txt"
    if os.environ.get("NEWEL_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_show_takes_aliases_and_gives_json(capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(_stdout(capsys, "show", "H200_SXM", "--json"))
    assert shown["name"] == "h200"
    assert shown["memory_bytes"]["value"] == 141e9
    assert shown["sources"][shown["memory_bytes"]["source"]]["date"]


@pytest.mark.parametrize("kind", ["devices", "links", "nodes", "clusters", "prices"])
def test_list(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = _stdout(capsys, "list", kind).splitlines()
    found = json.loads(_stdout(capsys, "list", kind, "--json"))[kind]
    assert len(lines) > len(found) >= 1
    assert main(["profiles", "list", "gpu"]) == 2


@pytest.mark.parametrize("arguments", [["show", "h2000"], ["show", "h200", "--kind", "links"]])
def test_unknown_names_end_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", *arguments]) == 2
    assert "unknown" in capsys.readouterr().err


def test_all_shipped_profiles_pass_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(_stdout(capsys, "check", "--json"))
    assert found["findings"] == []
    assert found["num_files"] > 150


def _mine(tmp_path: Path, before: str, after: str) -> Path:
    text = (DEVICES / "h100.yaml").read_text(encoding="utf-8").replace("name: h100\n", "name: mine\n")
    assert before in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(before, after), encoding="utf-8")
    return path


def test_a_good_file_of_the_users_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _mine(tmp_path, "80 GB", "88 GB")
    assert json.loads(_stdout(capsys, "check", str(path), "--json"))["num_errors"] == 0


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("{value: 80 GB,", "{value: 80 W,", "not a power"),
        ("{value: 80 GB,", "{value: 80 TB,", "outside"),
        ("{value: 80 GB,", "{value: 60 GB,", "driver_memory_bytes"),
        ("{value: 3.35 TB/s,", "{value: 3.35 GB/s,", "outside"),
        ("{value: 3.35 TB/s,", "{value: .nan,", "expected a bandwidth"),
        ("{value: 989.4 TFLOP/s,", "{value: 989.4 PFLOP/s,", "outside"),
        ("{value: 494.7 TFLOP/s,", "{value: 1494.7 TFLOP/s,", "which has more bits"),
        ("idle_w: {value: 70 W", "idle_w: {value: 7000 W", "below the design power"),
        ("scale_up_link: nvlink4", "scale_up_link: nvlink44", "unknown link"),
        ("default_node: hgx-h100", "default_node: hgx-h1000", "unknown node"),
        ("source: datasheet}", "source: datashet}", "is not in `sources`"),
        ("date: 2024-09", "date: last year", "a date is written"),
        ("date: 2024-09", "date: 2024-13", "a date is written"),
        ("num_sms: {value: 132", "num_smz: {value: 132", "num_sm"),
        ("family: hopper", "family: [hopper]", "expected text"),
        ("kind: gpu", "kind: gpu\nkind: gpu", "stands twice"),
        ("kind: gpu", "kind: &a gpu", "anchors"),
        ("kind: gpu", "kind: !!python/object:os.system gpu", "tag"),
        ("name: mine", "name: other", "that of the file"),
        ("name: mine", "name: [[[[[[[[[[[[[[[[", "nested too deeply"),
    ],
)
def test_mistakes_are_found(
    before: str, after: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _mine(tmp_path, before, after)
    text = _stdout(capsys, "check", str(path), code=2)
    assert words in text
    assert str(path) in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "table of keys"),
        (b"- a\n- b\n", "table of keys"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"a: b\n" * 100_000, "too large"),
        (b"colour: red\n", "cannot tell what kind"),
        (b"groups: [8xh1000000]\n", "unknown device"),
        (b"groups: [{device: h100, nodes: -1}]\n", "greater than or equal to 1"),
        (b"latency_s: 5\n", "key is missing"),
    ],
)
def test_hostile_files_are_refused(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert words in _stdout(capsys, "check", str(path), code=2)


def test_profiles_of_the_users_own_come_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "devices"
    folder.mkdir()
    text = (DEVICES / "h100.yaml").read_text(encoding="utf-8").replace("{value: 80 GB,", "{value: 82 GB,")
    (folder / "h100.yaml").write_text(text, encoding="utf-8")
    given = json.loads(_stdout(capsys, "show", "h100", "--profiles", str(tmp_path), "--json"))
    assert given["memory_bytes"]["value"] == 82e9
    monkeypatch.setenv(loader.ENVIRONMENT_VARIABLE, str(tmp_path))
    assert loader.load_device("h100_sxm").memory_bytes.value == 82e9
    assert loader.load_device("h200").memory_bytes.value == 141e9


def test_a_missing_folder_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(loader.ENVIRONMENT_VARIABLE, str(tmp_path / "gone"))
    for arguments in (["show", "h100"], ["list"], ["check"]):
        assert main(["profiles", *arguments]) == 2
        assert "no such folder of profiles" in capsys.readouterr().err
