"""Serving specs: what a right one means, and one helpful message for each wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.spec_tree import Override, spec_from_file
from planner.frontend.specs import load_spec, read_problem
from planner.ir.parser import parse_ir
from planner.ir.printer import print_ir
from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem
from planner.ir.verifier import verify_ir

SPEC: dict[str, Any] = {
    "model": "llama-3.1-70b",
    "cluster": "8xh200",
    "workload": {"input_tokens": 4000, "output_tokens": 500, "rate": "8/s"},
    "slo": {"ttft": "1s", "tpot": "30ms", "percentile": "p99"},
}
YAML = """\
model: llama-3.1-70b
cluster: 8xh200
workload:
  input_tokens: 4000
  output_tokens: 500
  rate: 8/s
slo:
  ttft: 1s
  tpot: 30ms
"""


def _read(source: Any, *changes: Override, diagnostics: Diagnostics | None = None) -> Problem[ServingProblem]:
    return read_problem(load_spec(source, changes), diagnostics or Diagnostics())


def _spec(**sections: Any) -> dict[str, Any]:
    return {key: value for key, value in {**SPEC, **sections}.items() if value is not None}


def test_a_spec_is_a_problem() -> None:
    problem = _read(SPEC)
    assert verify_ir(problem) == []
    assert parse_ir(print_ir(problem)) == problem
    payload = problem.payload
    assert payload.model.num_params > 70e9
    assert problem.cluster.num_devices == 8
    assert payload.workload.lengths.samples == ((4000, 500, 1.0),)
    assert payload.workload.rate_rps == 8.0
    assert (payload.workload.slo.ttft_s, payload.workload.slo.tpot_s) == (1.0, 0.03)
    assert payload.workload.slo.percentile == 99.0
    assert payload.choices.weight_fmts == ("bf16",)
    assert payload.choices.kv_fmts == ("bf16",)


def test_a_file_a_mapping_and_flags_mean_the_same(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(YAML, encoding="utf-8")
    from_file = _read(path)
    flags = [
        Override(path=("model",), value="llama-3.1-70b", origin="--model"),
        Override(path=("cluster",), value="8xh200", origin="--cluster"),
        Override(path=("workload", "input_tokens"), value=4000, origin="--isl"),
        Override(path=("workload", "output_tokens"), value=500, origin="--osl"),
        Override(path=("workload", "rate"), value=8, origin="--rate"),
        Override(path=("slo", "ttft"), value="1s", origin="--ttft"),
        Override(path=("slo", "tpot"), value="30ms", origin="--tpot"),
    ]
    from_flags = _read(None, *flags)
    assert from_flags.payload == from_file.payload
    assert from_flags.cluster == from_file.cluster


def test_a_flag_replaces_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(YAML, encoding="utf-8")
    problem = _read(path, Override(path=("slo", "ttft"), value="250ms", origin="--ttft"))
    assert problem.payload.workload.slo.ttft_s == 0.25


@pytest.mark.parametrize(
    ("workload", "objective"),
    [
        ({"input_tokens": 10, "output_tokens": 10, "rate": 8}, "min_cost"),
        ({"input_tokens": 10, "output_tokens": 10, "concurrency": 8}, "min_cost"),
        ({"input_tokens": 10, "output_tokens": 10}, "max_throughput"),
    ],
)
def test_the_objective_follows_from_the_load_and_is_said(workload: dict[str, Any], objective: str) -> None:
    diagnostics = Diagnostics()
    assert _read(_spec(workload=workload), diagnostics=diagnostics).objective.name == objective
    assert "objective-default" in [entry.code for entry in diagnostics.entries]


def test_lengths_may_be_distributions() -> None:
    workload = {
        "input_tokens": {"lognormal": {"mean": 1000, "p90": 2000}},
        "output_tokens": {"uniform": [1, 99]},
    }
    lengths = _read(_spec(workload=workload)).payload.workload.lengths
    assert lengths.mean_input == pytest.approx(1000, abs=0.6)
    assert lengths.mean_output == pytest.approx(50, abs=0.6)
    mixed = {
        "lengths": [
            {"weight": 3, "input_tokens": 100, "output_tokens": 10},
            {
                "input_tokens": {"histogram": [[200, 1], [300, 1]]},
                "output_tokens": {"mixture": [{"tokens": 20}]},
            },
        ]
    }
    lengths = _read(_spec(workload=mixed)).payload.workload.lengths
    assert lengths.samples == ((100, 10, 0.75), (200, 20, 0.125), (300, 20, 0.125))


def test_a_trace_gives_lengths_rate_and_burstiness(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("arrival,input,output\n0,10,5\n1,30,5\n4,20,5\n", encoding="utf-8")
    (tmp_path / "spec.yaml").write_text(
        "model: llama-3.1-8b\ncluster: 1xh100\nworkload: {trace: t.csv}\n", encoding="utf-8"
    )
    problem = _read(tmp_path / "spec.yaml")
    workload = problem.payload.workload
    assert workload.rate_rps == pytest.approx(0.5)
    assert workload.burstiness == pytest.approx(0.25)
    assert workload.lengths.mean_input == pytest.approx(20)
    assert [digest.role for digest in problem.inputs] == ["spec", "model", "cluster", "trace"]
    fastest = _read(
        tmp_path / "spec.yaml", Override(path=("objective",), value="max_throughput", origin="--objective")
    )
    assert fastest.payload.workload.rate_rps is None


def test_a_trace_without_times_is_said_to_give_lengths_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("input_tokens,output_tokens\n100,10\n300,30\n", encoding="utf-8")
    (tmp_path / "spec.yaml").write_text(
        "model: llama-3.1-8b\ncluster: 1xh100\nworkload: {trace: t.csv, rate: 3}\n", encoding="utf-8"
    )
    diagnostics = Diagnostics()
    problem = read_problem(spec_from_file(tmp_path / "spec.yaml"), diagnostics)
    assert problem.payload.workload.rate_rps == 3.0
    (told,) = [entry for entry in diagnostics.entries if entry.code == "trace-untimed"]
    assert "t.csv does not say when requests come" in told.message


@pytest.mark.parametrize(("percentile", "rate_rps"), [("mean", 15.0), ("p90", 15.0), ("p50", 15.0)])
def test_a_trace_is_planned_for_at_the_rate_of_its_busy_minutes(
    tmp_path: Path, percentile: str, rate_rps: float
) -> None:
    per_minute = [300] * 9 + [900]
    rows = [f"{60 * m + 60 * i / n:.6f},10,5" for m, n in enumerate(per_minute) for i in range(n)]
    (tmp_path / "t.csv").write_text("\n".join(["arrival,input,output", *rows, "600,10,5"]), encoding="utf-8")
    (tmp_path / "spec.yaml").write_text(
        "model: llama-3.1-8b\ncluster: 1xh100\nworkload: {trace: t.csv}\n"
        f"slo: {{ttft: 1s, percentile: {percentile}}}\n",
        encoding="utf-8",
    )
    assert _read(tmp_path / "spec.yaml").payload.workload.rate_rps == pytest.approx(rate_rps, rel=0.01)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"slo": {"ttft": 1}}, "slo.ttft: a time needs its unit; got 1"),
    ({"slo": {"ttft": "1 parsec"}}, "slo.ttft: unknown unit"),
    ({"slo": {"ttft": "8/s"}}, "slo.ttft: expected a time, not a rate"),
    ({"slo": {"ttft": "-1s"}}, "slo.ttft: a time cannot be negative"),
    ({"slo": {"ttft": ["1s"]}}, "slo.ttft: expected a time; got ['1s']"),
    ({"slo": {"ttft": True}}, "slo.ttft: expected a time"),
    ({"slo": {"ttft": "0s"}}, "slo.ttft: no request can take no time"),
    (
        {"slo": {"ttfft": "1s"}},
        "slo.ttfft: unknown key; allowed: ttft, tpot, e2e, percentile. Did you mean 'ttft'?",
    ),
    ({"slo": {"itl": "1s"}}, "Did you mean 'tpot'?"),
    ({"slo": {"percentile": 20}}, "slo.percentile: not a percentile"),
    ({"slo": "1s"}, "slo: "),
    ({"slos": {}}, "slos: unknown key"),
    ({"workload": {"isl": 10, "osl": 10}}, "workload.isl: unknown key"),
    ({"workload": {"input_tokens": 10}}, "workload.output_tokens: is missing. State it (--isl, --osl)"),
    (
        {"workload": {"input_tokens": -10, "output_tokens": 5}},
        "workload.input_tokens: not a number of tokens",
    ),
    (
        {"workload": {"input_tokens": [1, 2], "output_tokens": 5}},
        "workload.input_tokens: not a number of tokens",
    ),
    (
        {"workload": {"input_tokens": 1.5, "output_tokens": 5}},
        "workload.input_tokens: not a number of tokens",
    ),
    ({"workload": {"input_tokens": {"uniform": [9, 1]}, "output_tokens": 5}}, "low is above high"),
    ({"workload": {"input_tokens": {"gauss": [9, 1]}, "output_tokens": 5}}, "not a distribution of lengths"),
    ({"workload": {"input_tokens": {"lognormal": {"mean": 5}}, "output_tokens": 5}}, "exactly two of"),
    ({"workload": {"lengths": [{"input_tokens": 1}]}}, "workload.lengths[0].output_tokens: is missing"),
    ({"workload": {"lengths": []}}, "workload.lengths: "),
    ({"workload": {"input_tokens": 1, "output_tokens": 1, "rate": 1, "concurrency": 1}}, "not both"),
    ({"workload": {"input_tokens": 1, "output_tokens": 1, "rate": 0}}, "a rate of zero needs no plan"),
    ({"workload": {"input_tokens": 1, "output_tokens": 1, "concurrency": 1.5}}, "workload.concurrency"),
    ({"workload": {"input_tokens": 1, "output_tokens": 1, "prefix_hit": "130%"}}, "not a share"),
    ({"workload": {"trace": "no.csv"}}, "no.csv: workload.trace: no such file"),
    ({"workload": {"trace": "no.csv", "input_tokens": 1}}, "either a trace or lengths"),
    ({"workload": None}, "workload: is missing. State input_tokens"),
    ({"model": "no-such-model"}, "model: unknown model"),
    ({"model": "x; rm -rf $HOME"}, "model: unknown model"),
    ({"model": {"model_type": "llama", "hidden_size": "wide"}}, "model: num_attention_heads: is missing"),
    ({"model": ["llama"]}, "model: must name a model"),
    ({"cluster": "8xz9000"}, "cluster: "),
    ({"cluster": 8}, "cluster: "),
    ({"cluster": "no-such.yaml"}, "no-such.yaml"),
    ({"kind": "dancing"}, "kind: unknown kind; got 'dancing'"),
    ({"kind": 3}, "kind: must be a word"),
    ({"objective": "min_regret"}, "objective: unknown objective"),
    ({"objective": {"name": "min_cost", "robust": 1.5}}, "objective.robust"),
    ({"formats": {"weights": ["fp9"]}}, "formats.weights: unknown number format; got 'fp9'"),
    ({"formats": {"weights": []}}, "formats.weights"),
    ({"fix": {"tq": 8}}, "fix.tq: unknown degree"),
    ({"fix": {"tp": "8"}}, "fix.tp"),
    ({"fix": {"tp": 0}}, "fix.tp"),
    ({"budget": {"power": 100}}, "budget.power: a power needs its unit"),
    ({"budget": {"devices": -1}}, "budget.devices"),
    ({"search": {"time_limit": "1 GB"}}, "search.time_limit: expected a time, not a size"),
    ({"name": "a\nb"}, "name: "),
    ({"modes": ["sideways"]}, "modes[0]"),
]


@pytest.mark.parametrize(("sections", "said"), WRONG)
def test_wrong_specs_get_one_message(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        _read(_spec(**sections))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("ttft: 1s", "ttft: 1 apple", "spec.yaml:8: slo.ttft: "),
        ("ttft: 1s", "tfft: 1s", "spec.yaml:8: slo.tfft: unknown key"),
        ("cluster: 8xh200", "cluster: 8xz9000", "spec.yaml:2: cluster: "),
        ("model: llama-3.1-70b", "model: none.json", "spec.yaml:1: model: "),
        ("  output_tokens: 500\n", "", "spec.yaml:3: workload.output_tokens: is missing"),
    ],
)
def test_messages_name_file_and_line(old: str, new: str, place: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(YAML.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        _read(path)
    assert f"{tmp_path}/{place}" in str(caught.value)


def test_messages_about_flags_name_the_flag() -> None:
    with pytest.raises(InputError, match=r"^--ttft \(slo\.ttft\): unknown unit"):
        _read(SPEC, Override(path=("slo", "ttft"), value="1 apple", origin="--ttft"))
