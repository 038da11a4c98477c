from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.backends import BACKENDS, ExportOptions
from planner.backends._trtllm_config import check_config
from planner.errors import InputError, UnsupportedError
from planner.plan.schema import Plan

from .plans import NAMES, for_engine, load, with_pool

SPLIT_ATTENTION = "deepseek-tp8-dp2-moe-tp"
"""Attention over tensor ranks and data-parallel ranks at once, which TensorRT-LLM does not do."""


def export(plan: Plan) -> dict[str, str]:
    return {f.path: f.text for f in BACKENDS.get("trtllm").export(plan, ExportOptions())}


def trtllm(name: str) -> Plan:
    return for_engine(load(name), "trtllm")


def config(files: dict[str, str], path: str = "pool/config.yaml") -> dict[str, Any]:
    return yaml.safe_load(files[path])


@pytest.mark.parametrize("name", [n for n in NAMES if n != SPLIT_ATTENTION])
def test_scripts_parse_and_cover_the_placement(name: str, tmp_path: Path) -> None:
    plan = trtllm(name)
    devices = 0
    for path, text in export(plan).items():
        if path.endswith(".sh"):
            script = tmp_path / path.replace("/", "-")
            script.write_text(text)
            subprocess.run(["bash", "-n", str(script)], check=True)
        if "/server-" in path:
            groups = [part for part in text.split() if part.startswith("CUDA_VISIBLE_DEVICES=")]
            devices += sum(len(g.split("=")[1].split(",")) for g in groups)
    assert devices == sum(len(r.devices) for r in plan.placement)


def test_attention_over_two_kinds_of_ranks_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="over all ranks of a stage or over none"):
        export(with_pool(trtllm(SPLIT_ATTENTION), strategy={"decode_cp": 1}))


def test_attention_data_parallelism_takes_all_ranks_of_a_stage() -> None:
    files = export(trtllm("deepseek-dp8-pp2-ep"))
    found = config(files, "pool/config-x2.yaml")
    assert found["tensor_parallel_size"] == 8
    assert found["enable_attention_dp"] is True
    assert (found["moe_expert_parallel_size"], found["moe_tensor_parallel_size"]) == (8, 1)
    assert found["pipeline_parallel_size"] == len(found["pp_partition"]) == 2
    assert found["gpus_per_node"] == 8


def test_a_server_over_nodes_runs_under_mpi_with_the_devices_of_each(tmp_path: Path) -> None:
    for file in BACKENDS.get("trtllm").export(trtllm("deepseek-dp8-pp2-ep"), ExportOptions()):
        path = tmp_path / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)
        path.chmod(file.mode)
    stub = tmp_path / "bin" / "mpirun"
    stub.parent.mkdir()
    stub.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    done = subprocess.run(
        [str(tmp_path / "pool" / "server-0.sh")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}"},
    )
    said = done.stdout.splitlines()
    assert [said[i + 1] for i, w in enumerate(said) if w == "-host"] == ["h100-0:8", "h100-1:8"]
    assert said.count("trtllm-llmapi-launch") == said.count("trtllm-serve") == 2
    assert said[said.index("--config") + 1] == str(tmp_path / "pool" / "config-x2.yaml")


def test_the_cache_takes_its_share_of_what_the_rest_leaves() -> None:
    # 0.9 of 80 GB for the engine, 0.45 of them for the cache: 0.45 of 0.55 that are free.
    share = config(export(trtllm("llama-tp8")))["kv_cache_config"]["free_gpu_memory_fraction"]
    assert share == pytest.approx(0.45 / 0.55, abs=1e-3)


def test_a_pair_has_a_coordinator_that_names_every_server() -> None:
    files = export(trtllm("llama-pair"))
    found = yaml.safe_load(files["disaggregated.yaml"])
    assert found["context_servers"] == {"num_instances": 2, "urls": ["h100-0:8000", "h100-0:8001"]}
    assert found["generation_servers"]["urls"] == ["h100-1:8002"]
    assert config(files, "prefill/config.yaml")["disable_overlap_scheduler"] is True
    assert "cache_transceiver_config" in config(files, "decode/config.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensor_parallel_siz": 8}, "no such key"),
        ({"max_batch_size": "8"}, "wrong kind"),
        ({"enable_attention_dp": 1}, "wrong kind"),
        ({"kv_cache_config": {"dtype": "fp16"}}, "wrong kind"),
        ({"moe_expert_parallel_size": 3}, "multiply"),
        ({"pipeline_parallel_size": 3, "pp_partition": [40, 40]}, "per stage"),
    ],
)
def test_wrong_configurations_are_found_out(change: dict[str, Any], message: str) -> None:
    good = {"tensor_parallel_size": 8, "max_batch_size": 4}
    check_config(good, file="f")
    with pytest.raises(InputError, match=message):
        check_config({**good, **change}, file="f")


def test_fp8_needs_a_checkpoint_and_context_parallelism_is_refused() -> None:
    plan = trtllm("llama-tp8")
    assert "quantises nothing" in export(with_pool(plan, weight_dtype="fp8"))["README.md"]
    with pytest.raises(UnsupportedError, match="Helix"):
        export(with_pool(plan, strategy={"decode_cp": 2}))
