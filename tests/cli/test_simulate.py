"""``newel simulate``: traces of every kind of badness, logs beside what was measured, one trace per model."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.cli.main import main
from planner.diagnostics import Diagnostics
from planner.frontend.spec_tree import Override
from planner.pipeline import Run, make_plan
from planner.plan.serialize import write_plan
from tests.fleet_cases import CHAT, spec, stage

HEADER = "arrival_s,input_tokens,output_tokens\n"
SERVING = {
    "model": "llama-3.2-1b",
    "cluster": "1x2xh100",
    "workload": {"input_tokens": 800, "output_tokens": 100, "rate": 10.0},
    "slo": {"ttft": "1s", "tpot": "40ms"},
}


def planned(folder: Path, what: dict[str, Any]) -> str:
    changes = [Override(path=(key,), value=value, origin=key) for key, value in what.items()]
    write_plan(folder / "plan.json", make_plan(None, Run(diagnostics=Diagnostics()), changes))
    return str(folder / "plan.json")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> str:
    return planned(tmp_path_factory.mktemp("served"), SERVING)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> str:
    other = {**CHAT, "name": "assistant", "rate": 20}
    models = spec(CHAT, other, stage("embed", 100, h100=100), objective="min_devices")
    return planned(tmp_path_factory.mktemp("fleet"), models)


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    def run(*arguments: str) -> dict[str, Any]:
        assert main(["simulate", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a trace in a known format"),
        (HEADER, "holds no requests"),
        (HEADER + "1,100,10\n0.5,100,10\n", "trace.csv:3: arrival: arrives before the row above it"),
        (HEADER + "-1,100,10\n", "trace.csv:2: arrival: arrival must not be negative"),
        (HEADER + "nan,100,10\n", "trace.csv:2: arrival: arrival must be a finite number"),
        (HEADER + "inf,100,10\n", "must be a finite number"),
        (HEADER + "0,nan,10\n", "not a number of tokens"),
        (HEADER + "0,12.5,10\n", "not a number of tokens"),
        (HEADER + "0,0,0\n1,0,0\n", "holds no requests"),
        (HEADER + "0,1e9,10\n", "longer than the plan's engines take"),
        (HEADER + "0,100,10\n1e300,100,10\n", "more than thirty years"),
        (
            '{"timestamp": 9, "input_length": 5.5, "output_length": 3}',
            "trace.csv:1: input_length: not a number",
        ),
        ('{"timestamp": NaN, "input_length": 5, "output_length": 3}', "trace.csv:1: timestamp: must be"),
        (HEADER.strip() + ",ttft_s,e2e_s\n0,9,9,2,1\n", "trace.csv:2: measured time: ends before its first"),
        (HEADER.strip() + ",ttft_ms\n0,9,9,-2\n", "not a duration"),
        (HEADER.strip() + ",finish_s\n5,9,9,4\n", "trace.csv:2: measured time: lies before the arrival"),
        ("input_tokens,output_tokens,finish_s\n9,9,4\n", "a time needs an arrival to count from"),
    ],
)
def test_a_bad_trace_is_told_with_its_line(
    served: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (tmp_path / "trace.csv").write_text(text, encoding="utf-8")
    assert main(["simulate", served, "--trace", str(tmp_path / "trace.csv")]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


def test_one_request_and_requests_all_at_once_have_no_rate(served: str, tmp_path: Path, report: Any) -> None:
    for count in (1, 3):
        (tmp_path / "trace.csv").write_text(HEADER + "5,100,10\n" * count, encoding="utf-8")
        found = report(served, "--trace", str(tmp_path / "trace.csv"))
        assert (found["num_requests"], found["rate_rps"]) == (count, None)


def test_what_the_engines_would_refuse_is_refused_and_counted(
    served: str, tmp_path: Path, report: Any
) -> None:
    rows = "".join(f"{k},{100 if k % 4 else 100_000},50\n" for k in range(40))
    (tmp_path / "trace.csv").write_text(HEADER + rows, encoding="utf-8")
    found = report(served, "--trace", str(tmp_path / "trace.csv"))
    assert (found["num_requests"], found["refused"]) == (30, 10)


def test_the_first_requests_of_a_trace_are_enough(served: str, tmp_path: Path, report: Any) -> None:
    (tmp_path / "trace.csv").write_text(HEADER + "".join(f"{k},100,9\n" for k in range(50)), encoding="utf-8")
    assert report(served, "--trace", str(tmp_path / "trace.csv"))["num_requests"] == 50
    assert report(served, "--trace", str(tmp_path / "trace.csv"), "--requests", "20")["num_requests"] == 20


def test_a_record_is_a_log_that_a_simulation_is_held_against(
    served: str, tmp_path: Path, report: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trace.csv").write_text(
        HEADER + "".join(f"{0.03 * k:.3f},{300 + 9 * (k % 50)},{40 + k % 30}\n" for k in range(200)),
        encoding="utf-8",
    )
    first = report(served, "--trace", str(tmp_path / "trace.csv"), "-o", str(tmp_path / "run"))
    assert first["measured"] == {}
    again = report(served, "--trace", str(tmp_path / "run" / "requests.csv"))
    for name, figure in first["figures"].items():
        assert again["measured"][name] == pytest.approx(figure["simulated"], rel=1e-3)
        assert again["figures"][name]["simulated"] == pytest.approx(figure["simulated"], rel=1e-2)
    assert main(["simulate", served, "--trace", str(tmp_path / "run" / "requests.csv")]) == 0
    assert "measured" in capsys.readouterr().err


def test_every_model_of_a_fleet_replays_its_own_trace(fleet: str, tmp_path: Path, report: Any) -> None:
    (tmp_path / "a=b.csv").write_text(HEADER + "".join(f"{k},100,9\n" for k in range(30)), encoding="utf-8")
    arguments = ["--trace", f"chat={tmp_path / 'a=b.csv'}", "--requests", "200", "-o", str(tmp_path / "run")]
    found = report(fleet, *arguments)
    assert {name: told["num_requests"] for name, told in found.items()} == {"chat": 30, "assistant": 200}
    assert found["chat"]["rate_rps"] == pytest.approx(1.0)
    assert found["assistant"]["rate_rps"] == pytest.approx(20.0, rel=0.2)
    for name in found:
        with (tmp_path / "run" / name / "requests.csv").open(encoding="utf-8") as file:
            assert len(list(csv.DictReader(file))) == found[name]["num_requests"]


def test_models_without_traffic_are_named_and_left_out(
    tmp_path: Path, report: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    idle = {**CHAT, "name": "spare", "rate": 0, "min_replicas": 1}
    plan = planned(tmp_path, spec(CHAT, idle, objective="min_devices"))
    assert main(["simulate", plan, "--requests", "50"]) == 0
    assert "no traffic (--rate gives some): spare" in capsys.readouterr().err
    assert set(report(plan, "--requests", "50")) == {"chat"}
    assert set(report(plan, "--requests", "50", "--rate", "1")) == {"chat", "spare"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trace", "trace.csv"], "for one of its priced models"),
        (["--trace", "embed=trace.csv"], "allowed: chat=FILE, assistant=FILE"),
        (["--trace", "chat=none.csv"], "none.csv"),
        (["--trace", "chat=TRACE", "--trace", "chat=TRACE"], "has a trace already"),
        (["--fail", "nopool/0@1s+1s"], "the plan has no such pool"),
    ],
)
def test_what_a_fleet_does_not_have_is_bad_input(
    fleet: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (tmp_path / "trace.csv").write_text(HEADER + "0,100,10\n", encoding="utf-8")
    given = [text.replace("TRACE", str(tmp_path / "trace.csv")) for text in arguments]
    assert main(["simulate", fleet, *given]) == 2
    assert said in capsys.readouterr().err


def test_a_failure_in_a_fleet_hits_the_model_whose_pool_it_names(fleet: str, report: Any) -> None:
    pool = next(pool for pool in json.loads(Path(fleet).read_text())["pools"] if pool["model"] == "chat")
    calm = report(fleet, "--requests", "300")
    hit = report(fleet, "--requests", "300", "--fail", f"{pool['name']}/0@2s+5s")
    # With a failure nothing counts as warm-up, so only who was interrupted is compared.
    assert hit["chat"]["interruptions"] > calm["chat"]["interruptions"] == 0
    assert hit["assistant"]["interruptions"] == 0


def test_two_traces_for_one_model_are_bad_input(served: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", served, "--trace", "a.csv", "--trace", "b.csv"]) == 2
    assert "replays one trace" in capsys.readouterr().err
