"""Outcomes become exit codes and one message; artefacts alone reach stdout."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer

from planner.cli import main as cli
from planner.errors import InputError, NothingFoundError, VerificationError


def _app_raising(error: BaseException) -> Callable[[], typer.Typer]:
    def build() -> typer.Typer:
        app = typer.Typer()
        app.callback()(lambda: None)

        @app.command("go")
        def go() -> None:
            raise error

        return app

    return build


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            InputError("wrong unit", file="a.yaml", line=3, key="slo.ttft", value="1 parsec"),
            2,
            "a.yaml:3: slo.ttft",
        ),
        (NothingFoundError("out of time"), 4, "out of time"),
        (VerificationError("memory does not fit"), 5, "memory does not fit"),
        (RuntimeError("boom"), 1, "this is a bug in newel: RuntimeError: boom"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_become_exit_codes(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "build_app", _app_raising(error))
    assert cli.main(["go"]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_debug_adds_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "build_app", _app_raising(RuntimeError("boom")))
    # The stand-in app knows no --debug: only the reporting is under test here.
    assert cli._exit_code(RuntimeError("boom"), debug=True) == 1
    assert "RuntimeError: boom" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["no-such-command"], ["schema", "--no-such-option"], ["schema", "nonsense"]]
)
def test_wrong_usage_is_exit_2_with_nothing_on_stdout(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


def test_version_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("newel ")


def test_module_runs_and_survives_a_closed_pipe() -> None:
    command = f"{sys.executable} -m planner.cli schema plan | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout == "{\n"
    assert done.stderr == ""


@pytest.mark.parametrize("what", [["plan"], ["spec"], ["spec", "--kind", "serving"]])
def test_schemas_are_json(what: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema", *what]) == 0
    assert json.loads(capsys.readouterr().out)["type"] == "object"


_STRAY = (
    "import os; from planner.cli.main import keep_stdout; keep_stdout(); os.write(1, b'stray'); print('kept')"
)


def test_stdout_holds_what_the_program_writes_alone() -> None:
    done = subprocess.run([sys.executable, "-c", _STRAY], capture_output=True, text=True, check=True)
    assert done.stdout == "kept\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_bug(closed: str) -> None:
    command = ["sh", "-c", f'exec "$0" -m planner.cli profiles list {closed}', sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "bug" not in done.stderr
