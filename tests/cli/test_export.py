from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from planner.cli.main import main

PLANS = Path(__file__).parents[1] / "data" / "plans"
PLAN = str(PLANS / "llama-tp8.json")


def test_the_folder_is_written_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "launch"
    assert main(["export", PLAN, "--to", "vllm", "-o", str(out), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["files"]
    written = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} - {".newel-export"}
    assert written == set(listed)
    assert os.access(out / "pool" / "server-0-process-0.sh", os.X_OK)
    assert list(tmp_path.iterdir()) == [out]


def test_an_existing_folder_is_replaced_only_on_demand(tmp_path: Path) -> None:
    out = tmp_path / "launch"
    assert main(["export", PLAN, "--to", "vllm", "-o", str(out)]) == 0
    assert main(["export", PLAN, "--to", "kubernetes", "-o", str(out)]) == 2
    assert (out / "hosts.env").exists()
    assert main(["export", PLAN, "--to", "kubernetes", "-o", str(out), "--force"]) == 0
    assert not (out / "hosts.env").exists()


def test_a_folder_of_somebody_else_is_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert main(["export", PLAN, "--to", "vllm", "-o", str(tmp_path), "--force"]) == 2
    assert "not replaced" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "vlm"], "Did you mean 'vllm'"),
        (["--to", "vllm", "--node", "=x"], "NAME=VALUE"),
        (["--to", "vllm", "--model-path", "a=b=", "--node", "h100-0"], "NAME=VALUE"),
        (["--to", "vllm", "--node", "h100-0=-oProxyCommand"], "cannot be passed"),
    ],
)
def test_wrong_arguments_end_with_one_message_and_no_files(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", PLAN, "-o", str(tmp_path / "x"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"kind": 3}', '{"kind": "serving", "pools": [{"strategy": {"tp": -1}}]}', "\xff\xfe"],
)
def test_a_file_that_is_no_plan_is_bad_input(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode("latin-1"))
    assert main(["export", str(path), "--to", "vllm", "-o", str(tmp_path / "x")]) == 2
    err = capsys.readouterr().err
    assert "no valid plan" in err
    assert "Traceback" not in err


def test_a_missing_file_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "no.json"), "--to", "vllm", "-o", str(tmp_path / "x")]) == 2
    assert "cannot read the plan" in capsys.readouterr().err
