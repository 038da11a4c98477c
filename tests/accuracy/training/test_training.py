"""Published training runs: what is read, refused, predicted and scored."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from planner.accuracy.training.clusters import cluster_of
from planner.accuracy.training.models import model_of
from planner.accuracy.training.predict import predict, question_of
from planner.accuracy.training.rows import TrainingRow, read_training
from planner.accuracy.training.score import (
    TrainingReport,
    best_factor,
    factors_left_out,
    score_training,
    spearman,
)
from planner.accuracy.training.software import software_of
from planner.cli.main import build_app
from planner.errors import InputError
from planner.ir.model_graph import Experts, Linear

RUNS = Path(__file__).parents[2] / "data" / "training" / "runs.csv"


@pytest.fixture(scope="module")
def report() -> TrainingReport:
    return score_training(read_training(RUNS))


def _base() -> dict[str, str]:
    with RUNS.open(encoding="utf-8") as handle:
        return next(row for row in csv.DictReader(handle) if row["source"].startswith("calculon"))


def _row(tmp_path: Path, **cells: str) -> TrainingRow:
    return read_training(_file(tmp_path, [_base() | cells])).rows[0]


def _file(tmp_path: Path, rows: list[dict[str, str]]) -> Path:
    path = tmp_path / "runs.csv"
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_published_runs_are_predicted_and_beat_the_constant(report: TrainingReport) -> None:
    found = {score.source.split(":")[0][:12]: score for score in report.scores if score.num_timed > 3}
    korthikanti = found["calculon-ai/"]
    assert korthikanti.model is not None
    assert korthikanti.constant is not None
    assert korthikanti.model.mape < 6.0 < korthikanti.constant.mape
    bubble = found["Zero Bubble "]
    assert bubble.model is not None
    assert bubble.model.mape < 10.0


def test_alternatives_of_one_model_are_ranked(report: TrainingReport) -> None:
    group = next(g for g in report.groups if g.model == "GPT-28.3B")
    assert group.num_plans == 4
    assert group.spearman is not None
    assert group.spearman >= 0.8
    assert group.regret_pct == 0.0


def test_every_row_is_priced_or_refused_with_a_reason(tmp_path: Path) -> None:
    base = _base()
    rows = [
        base | {"hidden": ""},
        base | {"tp": "3"},
        base | {"value": "fast"},
        base | {"gpu_type": "abacus"},
        base | {"metric": "beauty"},
        base | {"micro_batch": "3"},
        base | {"precision": "fp8"},
        base | {"global_batch": ""},
        base | {"gpus": "0"},
    ]
    report = score_training(read_training(_file(tmp_path, rows)))
    assert len(report.refusals) == len(rows)
    assert all(refusal.reason for refusal in report.refusals)
    assert sum(score.num_refused for score in report.scores) == len(rows)


def test_a_table_without_its_columns_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("source,value\na,1\n", encoding="utf-8")
    with pytest.raises(InputError, match="gpus"):
        read_training(path)


@pytest.mark.parametrize(
    ("interconnect", "bytes_per_s"),
    [
        ("8 GPU/node NVSwitch; 8x200 Gb/s HDR IB per node", 25e9),
        ("8 GPU/node NVLink; 100 Gb/s IB per node", 12.5e9 / 8),
        ("8 GPU/node NVLink; 400 Gb/s RDMA per GPU", 50e9),
        ("8 GPU/node NVLink; 4x100 Gb/s Omni-Path per node", 6.25e9),
        ("8 GPU/node NVLink; 12.5 GB/s per GPU", 12.5e9),
        ("8 GPU/node NVLink (160 GB/s); 8x400 Gb/s IB per node", 50e9),
    ],
)
def test_networks_are_read_from_words(tmp_path: Path, interconnect: str, bytes_per_s: float) -> None:
    row = _row(tmp_path, interconnect=interconnect, gpus="64", dp="8")
    levels = cluster_of(row).group.levels
    assert [level.num_devices for level in levels] == [8, 64]
    assert levels[1].link.bandwidth_bytes_per_s == pytest.approx(bytes_per_s)


def test_servers_with_fewer_devices_than_usual_are_domains_of_their_own(tmp_path: Path) -> None:
    row = _row(tmp_path, gpu_type="H200-141GB", interconnect="4 GPU/node NVLink; 4x400 Gb/s IB per node")
    levels = cluster_of(row).group.levels
    assert levels[0].num_devices == 4
    tray = cluster_of(_row(tmp_path, gpu_type="GB200", interconnect="4 GPU/node NVLink", gpus="72")).group
    assert (tray.devices_per_node, tray.levels[0].num_devices) == (4, 72)


def test_rack_scale_domains_and_power_caps_are_read(tmp_path: Path) -> None:
    rack = cluster_of(_row(tmp_path, gpu_type="GB200", interconnect="NVL72", gpus="256"))
    assert rack.group.levels[0].num_devices == 72
    capped = cluster_of(_row(tmp_path, gpu_type="H100-96GB-HBM2e (500 W, 2.4 TB/s)"))
    assert capped.slower > 1.1
    assert capped.group.device.memory_bandwidth_bytes_per_s.value == 2.4e12
    assert capped.group.device.memory_bytes.value == 96e9


@pytest.mark.parametrize(
    ("cells", "num_params"),
    [
        ({"model": "Llama-3.1-8B", "layers": "32", "hidden": "4096", "heads": "32", "kv_heads": "8",
          "ffn": "14336", "vocab": "128256", "params_B": "8.03"}, 8.03e9),
        ({"model": "GPT-175B", "layers": "96", "hidden": "12288", "heads": "96", "kv_heads": "96",
          "ffn": "49152", "vocab": "51200", "params_B": ""}, 174.6e9),
        ({"model": "DeepSeek-V3", "layers": "61", "hidden": "7168", "heads": "128", "kv_heads": "MLA",
          "ffn": "18432 dense / 2048 expert x(256 routed top-8 + 1 shared)", "vocab": "129280",
          "params_B": "671"}, 671e9),
        ({"model": "Qwen3-30B-A3B", "layers": "48", "hidden": "2048", "heads": "32", "kv_heads": "4",
          "ffn": "768 expert x128 top-8", "vocab": "151936", "params_B": "30.5"}, 30.5e9),
    ],
)  # fmt: skip
def test_shapes_give_models_of_the_stated_size(
    tmp_path: Path, cells: dict[str, str], num_params: float
) -> None:
    row = _row(tmp_path, notes="without MTP", **cells)
    assert model_of(row).num_params == pytest.approx(num_params, rel=0.01)


def _sparse(tmp_path: Path, name: str, **cells: str) -> TrainingRow:
    shape = {
        "layers": "4",
        "hidden": "2048",
        "heads": "32",
        "kv_heads": "8",
        "params_B": "",
        "vocab": "32000",
    }
    ffn = {"ffn": "1024 expert x8 top-2", "model": name, "tp": "1", "pp": "1", "gpus": "8", "dp": "8"}
    return _row(tmp_path, **(shape | ffn | {"notes": ""} | cells))


def test_models_trained_to_predict_further_tokens_have_a_layer_more(tmp_path: Path) -> None:
    plain, more = (model_of(_sparse(tmp_path, name, layers="61")) for name in ("Mixtral", "DeepSeek-V3"))
    assert len(more.layers) == len(plain.layers) + 1 == 62
    assert [op.slot for op in more.layers[-1].ops if isinstance(op, Linear) and op.tied] == ["head"]
    without = model_of(_sparse(tmp_path, "DeepSeek-V3", layers="61", notes="container 25.11; (w/o MTP)"))
    cut = model_of(_sparse(tmp_path, "DeepSeek-V3", layers="4"))
    assert (len(without.layers), len(cut.layers)) == (61, 4)


def test_families_bring_their_windows_and_biases(tmp_path: Path) -> None:
    graph = model_of(_sparse(tmp_path, "GPT-OSS"))
    assert [core.window for core in graph.attention_cores()] == [128, 0, 128, 0]
    assert all(op.bias for layer in graph.layers for op in layer.ops if isinstance(op, Experts))
    other = model_of(_sparse(tmp_path, "Mixtral"))
    assert not any(core.window for core in other.attention_cores())
    assert not any(op.bias for layer in other.layers for op in layer.ops if isinstance(op, Experts))


def test_a_network_that_is_not_stated_counts_for_what_published_runs_reached(tmp_path: Path) -> None:
    for device, stated, gigabits in (
        ("B300", "8 GPU/node NVLink", 400.0),
        ("B300", "8 GPU/node NVLink; 800 Gb/s per GPU", 800.0),
        ("H100-SXM5-80GB", "8 GPU/node NVLink", 400.0),
    ):
        row = _row(tmp_path, gpu_type=device, interconnect=stated, gpus="64", tp="8", pp="8", dp="1")
        assert cluster_of(row).group.levels[-1].link.bandwidth_bytes_per_s == gigabits * 1e9 / 8.0


def test_dropped_tokens_are_launched_as_one(tmp_path: Path) -> None:
    bridge = {"source": "NVIDIA-NeMo/Megatron-Bridge (25.09 NeMo Container)"}
    for notes, launched in (("(tokendrop)", False), ("dropless", True)):
        assert (software_of(_row(tmp_path, notes=notes, **bridge)).per_expert_s > 0.0) is launched


def test_rates_that_count_causal_attention_mean_shorter_steps(tmp_path: Path) -> None:
    cells = {"metric": "model_TFLOPs_per_gpu", "value": "140"}
    every, causal = (
        predict(question_of(_row(tmp_path, flops_count=count, **cells))) for count in ("", "causal")
    )
    assert causal.step_s == every.step_s
    assert every.measured_s is not None
    assert causal.measured_s is not None
    # Attention over all pairs is 12 L s h of 6 P + 12 L s h FLOPs per token; half of it goes.
    layers, hidden, seq, vocab = (int(_base()[name]) for name in ("layers", "hidden", "seq_len", "vocab"))
    pairs = 12.0 * layers * seq * hidden
    whole = 6.0 * (12.0 * layers * hidden**2 + vocab * hidden) + pairs
    assert causal.measured_s / every.measured_s == pytest.approx(1.0 - pairs / 2.0 / whole, rel=1e-3)


def test_what_a_source_tells_replaces_cells_and_is_said(tmp_path: Path) -> None:
    row = _row(tmp_path, source="Llama 3 paper (arXiv 2407.21783) Table 4")
    assert row.text("flops_count") == "causal"
    assert any("3.8e25" in text for text in row.told)
    assert _row(tmp_path).told == ()


def test_switches_of_the_notes_hold_for_stacks_that_are_named(tmp_path: Path) -> None:
    named = {"software": "megatron-lm-2022"}
    assert not software_of(_row(tmp_path, notes="", **named)).flash_attention
    assert software_of(_row(tmp_path, notes="flash attention", **named)).flash_attention


def test_a_plan_that_is_asked_about_is_not_bent_until_it_fits(tmp_path: Path) -> None:
    plan = {"gpus": "64", "tp": "1", "pp": "1", "dp": "64", "micro_batch": "1", "recompute": "full"}
    open_stage = plan | {"global_batch": "64", "zero_stage": "", "value": "30"}
    # 22B parameters with whole 16-bit weights and 32-bit gradients do not fit; sharded in full they would.
    ran, asked = (
        predict(question_of(_row(tmp_path, metric=m, **open_stage))) for m in ("mfu_pct", "feasible")
    )
    assert ran.strategy.zero == 3
    assert ran.fits
    assert asked.strategy.zero == 1
    assert not asked.fits


def test_a_scale_per_row_costs_what_its_casts_move(tmp_path: Path) -> None:
    # pytorch/torchtitan commit 7a04053: 7186 and 6424 tokens/s per device of Llama 3 8B on 8 H100 at 500 W.
    cells = {"source": "pytorch/torchtitan commit 7a04053", "model": "Llama-3.1-8B", "params_B": "8.03"}
    cells |= {"layers": "32", "hidden": "4096", "heads": "32", "kv_heads": "8", "ffn": "14336"}
    cells |= {"vocab": "128256", "seq_len": "8192", "gpu_type": "H100-96GB-HBM2e (500 W, 2.4 TB/s)"}
    cells |= {"tp": "1", "dp": "8", "zero_stage": "3", "micro_batch": "1", "global_batch": "8"}
    cells |= {"recompute": "selective", "metric": "tokens_per_s_per_gpu", "value": "1"}
    cells |= {"notes": "torch.compile=True"}
    tensor, row = (
        predict(question_of(_row(tmp_path, precision=f"float8 {way}", **cells)))
        for way in ("tensorwise", "rowwise")
    )
    assert row.step_s / tensor.step_s == pytest.approx(7186 / 6424, rel=0.02)
    half = predict(question_of(_row(tmp_path, precision="bf16 rowwise", **cells)))
    assert half.step_s == predict(question_of(_row(tmp_path, precision="bf16", **cells))).step_s


def test_rows_of_a_cumulative_table_inherit_the_changes_before_them(tmp_path: Path) -> None:
    source = {"source": "MegaScale Table 3 (cumulative ablation)"}
    plain, hidden, fused = (
        software_of(_row(tmp_path, notes=notes, **source))
        for notes in ("Megatron-LM baseline", "+PP overlap", "+misc")
    )
    assert (plain.tp_overlap, plain.p2p_overlap, plain.dp_overlap) == (0.0, 0.0, 0.0)
    assert hidden.tp_overlap > 0.0
    assert hidden.p2p_overlap > 0.0
    assert hidden.dp_overlap == 0.0
    assert not hidden.flash_attention
    assert fused.dp_overlap > 0.0
    assert fused.flash_attention
    row = _row(tmp_path, notes="+PP overlap", **source)
    assert any("tp overlap" in text for text in row.told)
    alone = software_of(_row(tmp_path, notes="+PP overlap", source="MegaScale Table 2; Megatron-LM"))
    assert (alone.tp_overlap, alone.p2p_overlap > 0.0) == (0.0, True)


def test_software_is_named_by_a_column_or_by_the_source(tmp_path: Path) -> None:
    assert software_of(_row(tmp_path)).name == "megatron-lm-2022"
    base = _base()
    row = read_training(_file(tmp_path, [base | {"software": "torchtitan"}])).rows[0]
    assert software_of(row).name == "torchtitan"
    unknown = _row(tmp_path, source="somebody's cluster", notes="", gpu_type="A100-SXM4-80GB")
    assert software_of(unknown).name == "generic-trainer"


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("", None),
        ("0", 0),
        ("1", 1),
        ("ZeRO-1 (DeepSpeed 0.4.2)", 1),
        ("stage 3", 3),
        ("FSDP FULL_SHARD (3)", 3),
        ("FSDP SHARD_GRAD_OP (2)", 2),
        ("FSDP2 (3 or 2)", 2),
        ("FSDP (ZeRO-2-like, no reshard after forward)", 2),
        ("2-style sharded DP", 2),
        ("distributed optimizer (1) assumed", 1),
        ("Megatron-FSDP", 3),
    ],
)
def test_zero_stages_are_read_from_words(tmp_path: Path, text: str, stage: int | None) -> None:
    assert _row(tmp_path, zero_stage=text).zero == stage


def test_what_is_not_stated_is_said(tmp_path: Path) -> None:
    row = _row(tmp_path, micro_batch="", recompute="", vocab="")
    assumed = " ".join(predict(question_of(row)).assumed)
    assert "micro_batch" in assumed
    assert "recompute" in assumed
    assert "vocab" in assumed


def test_best_constant_is_the_best() -> None:
    rng = np.random.default_rng(1)
    ideal, measured = rng.uniform(1, 3, 15), rng.uniform(2, 9, 15)
    best = np.abs(best_factor(ideal, measured) * ideal / measured - 1).mean()
    grid = [np.abs(f * ideal / measured - 1).mean() for f in np.linspace(0.3, 9, 4000)]
    assert best <= min(grid) + 1e-9


def test_a_constant_left_out_never_sees_the_row_that_it_predicts() -> None:
    ideal, measured = np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 80.0])
    # The odd third row gets the factor of the others, which agree on 2.
    factors = factors_left_out(ideal, measured)
    assert factors[2] == pytest.approx(2.0)
    assert factors[2] * ideal[2] == pytest.approx(8.0)
    assert (
        np.abs(factors * ideal / measured - 1).mean()
        >= np.abs(best_factor(ideal, measured) * ideal / measured - 1).mean()
    )


def test_both_constants_stand_beside_the_model(report: TrainingReport) -> None:
    for score in report.scores:
        assert (score.left_out is None) == (score.num_timed < 2)
        if score.left_out is not None and score.constant is not None:
            assert score.left_out.mape >= score.constant.mape - 1e-9


def test_rank_correlation_shares_ranks_of_ties() -> None:
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])) == -1.0
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5 over sqrt(4.5 * 5).
    tied = spearman(np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert tied == pytest.approx(4.5 / np.sqrt(4.5 * 5.0), abs=1e-3)


def test_command_prints_scores_as_json() -> None:
    result = CliRunner().invoke(build_app(), ["accuracy", "--training", str(RUNS), "--json"])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert {"scores", "groups", "rows", "refusals", "summary"} <= set(data)
    assert all(row["step_time_low_s"] < row["step_time_s"] < row["step_time_high_s"] for row in data["rows"])


@pytest.mark.parametrize(
    ("notes", "name", "value"),
    [
        ("before interleaving and scatter/gather", "scatter_gather", False),
        ("scatter/gather p2p optimisation", "scatter_gather", True),
        ("flash attention 2", "flash_attention", True),
        ("without flash attention", "flash_attention", False),
    ],
)
def test_switches_are_read_from_notes(tmp_path: Path, notes: str, name: str, value: bool) -> None:
    row = _row(tmp_path, source="NVIDIA/Megatron-LM@v2.0", notes=notes)
    assert getattr(software_of(row), name) is value


def test_a_zero_bubble_run_without_post_validation_ends_together(tmp_path: Path) -> None:
    source = "Zero Bubble PP (ICLR 2024)"
    assert not software_of(_row(tmp_path, source=source, notes="")).optimizer_sync
    assert software_of(_row(tmp_path, source=source, notes="optimizer post-validation off")).optimizer_sync
