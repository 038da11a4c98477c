"""Re-planning keeps what stands, starts no more than needed, and says what is wrong with a question."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from planner.cli.main import main
from planner.errors import InputError, UnknownNameError
from planner.pipeline import Run, make_plan
from planner.plan.diff import diff_plans
from planner.plan.schema import Plan
from planner.plan.serialize import write_plan
from planner.replanning import Loss, plan_anew, replan
from planner.sizing import Sizing, size
from tests.fleet_cases import CHAT, spec, stage

SERVING = {
    "model": "llama-3.2-1b",
    "cluster": "3x8xh100@ib400",
    "workload": {"input_tokens": 1000, "output_tokens": 200, "rate": 30},
    "slo": {"ttft": "1s", "tpot": "20ms"},
    "fix": {"tp": 2},
    "objective": "min_devices",
}


@cache
def fleet_plan() -> Plan:
    chat = {**CHAT, "places": "big"}
    return make_plan(spec(chat, {**stage("embed", 950, l40s=100), "places": "cheap"}), Run())


def moved(before: Plan, after: Plan) -> list[str]:
    return [change.what for change in diff_plans(before, after).moves if change.after is not None]


def node_with(plan: Plan, model: str) -> str:
    pool = next(p.name for p in plan.pools if p.model == model)
    return next(s for s in plan.placement if s.pool == pool).devices[0].rpartition("/")[0]


def test_only_lost_replicas_are_started_again() -> None:
    before = fleet_plan()
    node = node_with(before, "embed")
    after = replan(before, Loss(nodes=(node,)), Run())
    lost = [s for s in before.placement if any(d.startswith(f"{node}/") for d in s.devices)]
    # Ten stages on nodes of eight: eight are lost with the first node and six places are left.
    assert after.status == "infeasible" or len(moved(before, after)) == len(lost)
    assert after.infeasibility is not None
    assert after.infeasibility.nearest_relaxation.startswith("set traffic to 0.")


def test_a_model_on_a_lost_node_moves_and_the_others_stay() -> None:
    before = fleet_plan()
    node = node_with(before, "chat")
    after = replan(before, Loss(nodes=(node,)), Run())
    lost = [s for s in before.placement if any(d.startswith(f"{node}/") for d in s.devices)]
    assert after.objective.value == pytest.approx(before.objective.value)
    assert after.status == "optimal"
    assert len(moved(before, after)) == len(lost)
    assert not any(d.startswith(f"{node}/") for s in after.placement for d in s.devices)
    assert not diff_plans(before, before).moves


def test_an_unknown_node_is_named() -> None:
    with pytest.raises(UnknownNameError, match="node"):
        replan(fleet_plan(), Loss(nodes=("nowhere",)), Run())


def test_planning_anew_is_never_better_than_keeping() -> None:
    before = fleet_plan()
    loss = Loss(nodes=(node_with(before, "chat"),))
    anew = plan_anew(before, loss, Run())
    assert anew.objective.value == pytest.approx(replan(before, loss, Run()).objective.value)


def test_a_serving_plan_is_filled_up_on_free_devices() -> None:
    before = make_plan(SERVING, Run())
    node = before.placement[0].devices[0].rpartition("/")[0]
    after = replan(before, Loss(nodes=(node,)), Run())
    lost = [s for s in before.placement if any(d.startswith(f"{node}/") for d in s.devices)]
    assert len(moved(before, after)) == len(lost) > 0
    assert after.objective.value == before.objective.value


def test_sizing_orders_kinds_by_price_and_says_what_cannot() -> None:
    text = {k: v for k, v in SERVING.items() if k not in ("cluster", "objective")}
    answers = size(text, Sizing(kinds=("h100", "l40s"), goal="min_cost", max_nodes=4), Run())
    values = [a.plan.objective.value for a in answers if a.plan is not None]
    assert values == sorted(values)  # pyright: ignore[reportArgumentType]
    assert {a.kinds for a in answers} == {("h100",), ("l40s",), ("h100", "l40s")}
    slow = {**text, "slo": {"tpot": "100us"}}
    (answer,) = size(slow, Sizing(kinds=("l40s",), goal="min_cost", max_nodes=1), Run())
    assert answer.plan is None
    assert "tpot_s" in answer.reason


def test_sizing_needs_a_rate() -> None:
    text = {**SERVING, "workload": {"input_tokens": 10, "output_tokens": 10}}
    with pytest.raises(InputError, match="rate"):
        size(text, Sizing(), Run())


def test_a_fleet_is_exported_with_one_launch_per_model(tmp_path: Path) -> None:
    from planner.backends import ExportOptions
    from planner.pipeline import export_plan

    files = export_plan(fleet_plan(), "vllm", tmp_path / "launch", ExportOptions())
    names = {path.relative_to(tmp_path / "launch").as_posix() for path in files}
    assert "chat/hosts.env" in names
    assert "embed" in (tmp_path / "launch" / "README.md").read_text(encoding="utf-8")


def test_racks_and_groups_are_lost_by_name() -> None:
    from planner.replanning import lost_nodes
    from tests.fleet_cases import fleet

    cluster = fleet(stage("embed", 1, l40s=1)).cluster
    assert lost_nodes(cluster, ["big/rack-1"]) == ("big-2", "big-3")
    assert lost_nodes(cluster, ["cheap", "big-0", "cheap-1"]) == ("cheap-0", "cheap-1", "big-0")
    with pytest.raises(UnknownNameError, match="node"):
        lost_nodes(cluster, ["big/rack-2"])


def test_a_tolerance_puts_the_objective_first() -> None:
    before = fleet_plan()
    loss = Loss(nodes=(node_with(before, "chat"),), tolerance=0.0)
    after = replan(before, loss, Run())
    assert after.objective.value == pytest.approx(before.objective.value)
    assert after.details["replanned"]["least"] <= after.details["replanned"]["started"]


def test_an_answer_of_fewest_starts_is_kept_when_no_better_one_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ortools.math_opt.python import mathopt

    from planner.search import fleet_replan
    from planner.search.mip import solve_with_highs

    asked: list[float] = []

    def out_of_time(
        model: mathopt.Model, seconds: float, gap: float, step: float = 0.0
    ) -> mathopt.SolveResult:
        asked.append(seconds)
        if len(asked) > 1:
            impossible = model.add_variable(lb=1.0)
            model.add_linear_constraint(expr=impossible, ub=0.0)
        return solve_with_highs(model, seconds, gap, step)

    before = fleet_plan()
    node = node_with(before, "chat")
    monkeypatch.setattr(fleet_replan, "solve_with_highs", out_of_time)
    after = replan(before, Loss(nodes=(node,)), Run())
    assert len(asked) >= 2
    assert after.status in {"optimal", "feasible"}
    assert after.details["replanned"]["started"] == after.details["replanned"]["least"]


def test_a_model_that_one_domain_cannot_hold_is_sized_with_replicas_over_nodes() -> None:
    spec_ = {
        "model": "llama-3.1-405b",
        "workload": {"input_tokens": 100, "output_tokens": 10, "rate": "0.5/s"},
        "fix": {"tp": 8},
        "modes": ["aggregated"],
    }
    (answer,) = size(spec_, Sizing(kinds=("h100",), max_nodes=4), Run())
    # 405 billion weights of two bytes need more than 8 devices of 80 GB.
    assert answer.plan is not None
    assert dict(answer.devices) == {"h100": 16}
    stated = {"kind": "fleet", "models": [{"name": "m", **spec_, "replica_devices": 8}]}
    (answer,) = size(stated, Sizing(kinds=("h100",), max_nodes=4), Run())
    assert answer.plan is None
    assert "no replica of at most 8 devices" in answer.reason


def test_a_plan_is_not_sized(tmp_path: Path) -> None:
    plan, made_from = tmp_path / "plan.json", tmp_path / "asked.json"
    made_from.write_text(json.dumps({**spec(CHAT), "name": "asked"}))
    write_plan(plan, make_plan(made_from, Run()))
    with pytest.raises(InputError, match=r"this is a plan; a spec is expected.* 'asked\.json'"):
        size(plan, Sizing(), Run())
    with pytest.raises(InputError, match="this is a plan"):
        size(
            {"schema_version": "1.0", "solver": {}, "inputs": [3, {"role": "spec", "name": []}]},
            Sizing(),
            Run(),
        )


def test_an_unknown_device_of_a_sizing_names_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(SERVING))
    assert main(["size", str(path), "--device", "h100", "--device", "H10"]) == 2
    told = capsys.readouterr().err
    assert "--device: unknown device; got 'H10'" in told
    assert "'h100'" in told
    assert "groups[" not in told
    assert str(path) not in told


def test_a_device_of_a_sizing_may_be_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(SERVING))
    assert main(["profiles", "show", "h100", "--yaml"]) == 0
    (tmp_path / "own.yaml").write_text(capsys.readouterr().out)
    assert main(["size", str(path), "--device", "own.yaml", "--max-nodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["kinds"] == ["own.yaml"]
