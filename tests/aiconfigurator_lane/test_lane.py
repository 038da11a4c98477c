"""The real packages: times are plausible, workers are those of its own runs, plans are no worse than its own.

Skipped where the packages are not installed; `make test-aiconfigurator` installs them.
"""

import subprocess
import sys
from importlib.metadata import version

import pytest

pytest.importorskip("aiconfigurator_core", reason="make test-aiconfigurator installs it")

from cost_models.aiconfigurator.package_workers import PackageWorkers, bundled_name
from cost_models.aiconfigurator.query import AiconfiguratorError
from cost_models.aiconfigurator.workers import PREFILL_TTFT_FACTOR, Batch, ModelFacts, Worker
from cost_models.work import Attention, Collective, ExpertGemm, Gemm, LinkSpec, Span, Stream, Work
from hardware_profiles.loader import load_device, load_software
from planner.errors import InputError
from planner.ir.cost_sources import priced_by
from planner.pipeline import Run, check, make_plan

NVLINK = LinkSpec(name="nvlink4", latency_s=1e-6, bandwidth_bytes_per_s=450e9, kind="nvlink")
NODE = Span(ranks_per_level=(8,), links=(NVLINK,))
LLAMA = ModelFacts(
    name="meta-llama/Llama-3.1-70B",
    num_layers=80,
    hidden_size=8192,
    vocab_size=128256,
    num_experts=0,
    weight_fmt="bf16",
    kv_fmt="bf16",
)
LOAD = {"input_tokens": 4000, "output_tokens": 500}
SPEC = {
    "kind": "serving",
    "model": "llama-3.1-70b",
    "workload": LOAD,
    "slo": {"ttft": "1s", "tpot": "30ms"},
    "engine": ["trtllm"],
    "search": {"alternatives": 0},
}
only_012 = pytest.mark.skipif(
    not version("aiconfigurator-core").startswith("0.12.0"), reason="figures of 0.12.0"
)


def _worker(tp: int, pp: int = 1) -> Worker:
    return Worker(model=LLAMA, tp=tp, pp=pp, attention_dp=1, moe_tp=1, ep=1)


@pytest.mark.parametrize(
    ("work", "least_s", "most_s"),
    [
        (Gemm(m=4096, n=8192, k=8192), 2 * 4096 * 8192**2 / 989e12, 3 * 2 * 4096 * 8192**2 / 989e12),
        (Gemm(m=1, n=8192, k=8192), 2 * 8192**2 / 3.35e12, 4 * 2 * 8192**2 / 3.35e12),
        (
            Attention(
                phase="decode",
                batch=64,
                q_len=1,
                kv_len=4000,
                num_heads=8,
                num_kv_heads=1,
                head_dim=128,
                v_head_dim=128,
            ),
            64 * 4000 * 512 / 3.35e12,
            5 * 64 * 4000 * 512 / 3.35e12,
        ),
        (
            ExpertGemm(
                num_tokens=64, hidden=7168, inter=2048, top_k=8, num_experts=256, ep=8, fmt="fp8_block"
            ),
            32 * 0.8 * 3 * 7168 * 2048 / 3.35e12,
            5 * 32 * 3 * 7168 * 2048 / 3.35e12,
        ),
        (Collective(op="all_reduce", num_bytes=16e6, span=NODE), 16e6 / 450e9, 16e6 / 50e9),
        (Collective(op="all_gather", num_bytes=16e6, span=NODE), 14e6 / 450e9, 16e6 / 50e9),
        (Stream(num_bytes=1e9), 1e9 / 3.35e12, 2e9 / 3.35e12),
    ],
)
def test_times_lie_between_the_roofline_and_a_few_times_it(work: Work, least_s: float, most_s: float) -> None:
    priced = priced_by("aiconfigurator", load_device("h100"), load_software("trtllm"))
    assert least_s < float(priced.model.price(work).time_s) < most_s
    assert len(priced.remarks()) == 1


@only_012
def test_workers_are_those_of_its_own_run() -> None:
    workers = PackageWorkers(system="h100_sxm", engine="trtllm")
    prefill = workers.estimate(_worker(2), "prefill", Batch(size=1, **LOAD))
    assert prefill.ttft_s * PREFILL_TTFT_FACTOR == pytest.approx(0.903893, rel=1e-4)
    decode = workers.estimate(_worker(4), "decode", Batch(size=76, **LOAD))
    assert (decode.tpot_s, decode.rate_rps) == pytest.approx((0.029849, 5.103), rel=1e-3)
    both = workers.estimate(_worker(8), "aggregated", Batch(size=48, prompt_tokens=8000, **LOAD))
    assert (both.ttft_s, both.tpot_s, both.rate_rps) == pytest.approx((0.990697, 0.029527, 3.067), rel=1e-3)


def test_models_are_found_by_shape_and_format() -> None:
    assert bundled_name(LLAMA, "trtllm") == "meta-llama/Meta-Llama-3.1-70B"
    with pytest.raises(AiconfiguratorError, match="no model of the shape"):
        bundled_name(ModelFacts(**{**_fields(LLAMA), "num_layers": 79}), "trtllm")


def _fields(facts: ModelFacts) -> dict[str, object]:
    return {name: getattr(facts, name) for name in ModelFacts.__dataclass_fields__}


@pytest.mark.parametrize("costs", ["aiconfigurator", "aiconfigurator-workers"])
def test_plans_pass_the_checker(costs: str) -> None:
    plan = make_plan({**SPEC, "cluster": "8xh100", "costs": costs}, Run())
    assert plan.status == "optimal"
    assert check(plan).passed


@only_012
@pytest.mark.parametrize(("cluster", "theirs_rps"), [("8xh100", 3.584), ("12xh100", 4.041)])
def test_plans_are_no_worse_than_its_default(cluster: str, theirs_rps: float) -> None:
    plan = make_plan({**SPEC, "cluster": cluster, "costs": "aiconfigurator-workers"}, Run())
    assert plan.predicted["request_rate_rps"].value >= theirs_rps * (1 - 2e-4)


def test_a_device_without_rows_is_refused() -> None:
    with pytest.raises(InputError, match="no measured tables for h100-pcie"):
        make_plan({**SPEC, "cluster": "8xh100-pcie", "costs": "aiconfigurator"}, Run())


def test_the_benchmark_prices_both_plans_under_both_costs() -> None:
    pytest.importorskip("aiconfigurator", reason="make test-aiconfigurator installs it")
    from tests.benchmarks.aiconfigurator_cases import CASES
    from tests.benchmarks.aiconfigurator_rival import run_case, table

    (case,) = [case for case in CASES if case.name.startswith("Meta-Llama-3.1-8B 4xh100")]
    record = run_case(case)
    assert record.gain is not None
    assert record.gain >= 1 - 2e-4
    assert record.ours.aic_rps == pytest.approx(record.ours.stated_rps, rel=0.01)
    assert record.ours.aic_ttft_ms <= case.ttft_ms
    assert record.ours.aic_tpot_ms <= case.tpot_ms
    assert record.rival.newel_rps
    assert record.ours.newel_rps
    assert case.name in table([record])


def test_the_package_is_imported_by_no_other_plan() -> None:
    script = (
        "import sys\nfrom planner.pipeline import Run, make_plan\n"
        f"make_plan({ {**SPEC, 'cluster': '8xh100'}!r}, Run())\n"
        "assert 'aiconfigurator_core' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=120)
    assert done.returncode == 0
