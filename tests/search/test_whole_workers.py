"""Plans with whole workers: the batch within the limits, rates matched, and the checker asking again."""

import importlib
from collections.abc import Mapping

import pytest

from planner.errors import InputError
from planner.pipeline import Run, check, make_plan
from planner.plan.schema import Plan
from tests.cost_models.aiconfigurator.stub import StubTimes
from tests.cost_models.aiconfigurator.stub_workers import PROMPT_S, SEQUENCE_S, STEP_S, StubWorkers

SPEC: dict[str, object] = {
    "kind": "serving",
    "model": "llama-3.1-8b",
    "cluster": "4xh100",
    "workload": {"input_tokens": 1000, "output_tokens": 101},
    "slo": {"ttft": "1s", "tpot": "30ms"},
    "engine": ["trtllm"],
    "costs": "aiconfigurator-workers",
    "search": {"alternatives": 0},
}


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> StubWorkers:
    found = StubWorkers()
    module = importlib.import_module("cost_models.sources.aiconfigurator_workers")
    monkeypatch.setattr(module, "PackageWorkers", lambda **_: found)
    return found


def _planned(**changes: object) -> Plan:
    return make_plan({**SPEC, **changes}, Run())


def _brute_force(devices: int, limits: tuple[float, float]) -> float:
    """Return the most requests per second that pools of the stub's workers carry, by enumeration."""
    ttft, tpot = limits
    prefill, decode, alone = [0.0] * (devices + 1), [0.0] * (devices + 1), [0.0] * (devices + 1)
    for tp in (1, 2, 4):
        for pp in range(1, devices // tp + 1):
            n = tp * pp
            for size in range(1, 1025):
                if 16e9 / n + size * 1e9 / tp + 4e9 >= 80e9:
                    break
                step = (STEP_S + size * SEQUENCE_S) / tp
                if 1.8 * size * PROMPT_S / tp <= ttft and size <= 16:
                    prefill[n] = max(prefill[n], 0.9 * pp / (PROMPT_S / tp))
                if step <= tpot:
                    decode[n] = max(decode[n], 0.92 * size * pp / (100 * step))
                step += PROMPT_S / tp * size / 100
                if step <= tpot and 2.0 * PROMPT_S / tp <= ttft:
                    alone[n] = max(alone[n], size * pp / (100 * step))
    for table in (prefill, decode, alone):
        for n in range(1, devices + 1):
            table[n] = max(table[n], *(table[k] + table[n - k] for k in range(n)))
    return max(
        alone[a] + min(prefill[p], decode[devices - a - p])
        for a in range(devices + 1)
        for p in range(devices + 1 - a)
    )


@pytest.mark.parametrize("devices", [1, 2, 3, 4])
@pytest.mark.parametrize("limits", [(1.0, 0.030), (0.5, 0.012), (2.0, 0.1)])
def test_the_plan_carries_what_enumeration_of_every_batch_finds(
    workers: StubWorkers, devices: int, limits: tuple[float, float]
) -> None:
    slo = {"ttft": f"{limits[0]}s", "tpot": f"{limits[1]}s"}
    plan = _planned(cluster=f"{devices}xh100", slo=slo)
    best = _brute_force(devices, limits)
    if best == 0.0:
        assert plan.status == "infeasible"
    else:
        assert plan.status == "optimal"
        assert plan.predicted["request_rate_rps"].value == pytest.approx(best, rel=1e-6)


def test_a_model_that_fits_nowhere_is_explained(workers: StubWorkers) -> None:
    plan = _planned(cluster="1xh100", model="llama-3.1-8b", max_num_seqs=1, slo={"ttft": "1ms"})
    assert plan.status == "infeasible"
    assert plan.infeasibility is not None
    assert plan.infeasibility.nearest_relaxation


def test_memory_that_holds_no_worker_is_explained(
    workers: StubWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.cost_models.aiconfigurator.stub_workers.CAPACITY_BYTES", 12e9)
    plan = _planned(cluster="1xh100")
    assert plan.status == "infeasible"
    assert plan.infeasibility is not None
    assert "use 3 h100" in plan.infeasibility.nearest_relaxation


def test_latencies_are_those_of_the_batch_that_runs(workers: StubWorkers) -> None:
    plan = _planned(cluster="1xh100", modes=["aggregated"], slo={"ttft": "2s", "tpot": "50ms"})
    pool = plan.pools[0]
    size = pool.predicted["running_sequences"].value
    assert size == pytest.approx(round(size), abs=1e-6)
    assert pool.predicted["tpot_s"].value == pytest.approx(STEP_S + size * (SEQUENCE_S + PROMPT_S / 100))
    assert pool.predicted["ttft_s"].value == pytest.approx(2 * PROMPT_S)


def test_the_notes_say_what_such_an_estimate_leaves_out(workers: StubWorkers) -> None:
    run = Run()
    make_plan(SPEC, run)
    (note,) = [note.message for note in run.diagnostics.entries if note.code == "cost-source"]
    assert "stub workers 0" in note
    assert "no queues" in note


def test_the_checker_asks_again_and_finds_a_plan_that_promises_too_much(workers: StubWorkers) -> None:
    plan = _planned(slo={"ttft": "2s", "tpot": "50ms"}, modes=["aggregated"])
    report = check(plan)
    assert report.passed
    rules = {finding.rule: finding.outcome for finding in report.findings}
    assert rules["whole-workers"] == "passed"
    assert "memory" not in rules
    (pool,) = plan.pools
    for name, factor in (("request_rate_rps", 1.1), ("tpot_s", 0.9), ("ttft_s", 0.9)):
        claimed = pool.predicted[name]
        better = claimed.model_copy(update={"value": claimed.value * factor})
        changed = pool.model_copy(update={"predicted": {**pool.predicted, name: better}})
        found = check(plan.model_copy(update={"pools": [changed]}))
        assert "whole-workers" in found.failed_rules


def test_splits_without_rows_are_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = StubWorkers(refused=(1, 4))
    module = importlib.import_module("cost_models.sources.aiconfigurator_workers")
    monkeypatch.setattr(module, "PackageWorkers", lambda **_: found)
    run = Run()
    plan = make_plan(SPEC, run)
    assert {pool.strategy.tp for pool in plan.pools} == {2}
    assert any("no rows for tp 4" in note.message for note in run.diagnostics.entries)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workload": {"input_tokens": {"uniform": [100, 900]}, "output_tokens": 9}}, "one length"),
        ({"slo": {"ttft": "1s", "percentile": "p99"}}, "in the mean only"),
        ({"objective": {"name": "max_throughput", "robust": 0.9}}, "without a quantile"),
        ({"workload": {"input_tokens": 1000, "output_tokens": 1}}, "two output tokens"),
    ],
)
def test_what_such_estimates_have_no_notion_of_is_refused(
    workers: StubWorkers, changes: Mapping[str, object], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        _planned(**changes)


def test_steps_of_such_a_plan_are_explained_by_operation_times(
    workers: StubWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    from planner.pipeline import explain

    module = importlib.import_module("cost_models.sources.aiconfigurator")
    tables = StubTimes()
    monkeypatch.setattr(module, "PackageTimes", lambda **_: tables)
    assert explain(_planned(), Run(), vary=False).bottlenecks
    assert tables.asked
