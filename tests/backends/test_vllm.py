from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.backends import BACKENDS, ExportedFile, ExportOptions
from planner.backends import _vllm_arguments as vllm_arguments
from planner.errors import InputError, UnsupportedError
from planner.plan.schema import Plan

from .plans import NAMES, load, with_pool

OPTIONS = ExportOptions()


def export(plan: Plan, options: ExportOptions = OPTIONS) -> dict[str, str]:
    return {f.path: f.text for f in BACKENDS.get("vllm").export(plan, options)}


def words(script: str) -> list[str]:
    return shlex.split(script.split("exec vllm serve", 1)[1].replace("\\\n", " "))


def exported(script: str, name: str) -> str:
    (line,) = [li for li in script.splitlines() if li.startswith(f"export {name}=")]
    return line.split("=", 1)[1]


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_valid_bash_and_the_export_is_reproducible(name: str, tmp_path: Path) -> None:
    files = BACKENDS.get("vllm").export(load(name), OPTIONS)
    assert files == BACKENDS.get("vllm").export(load(name), OPTIONS)
    scripts = [f for f in files if f.path.endswith(".sh")]
    for number, file in enumerate(scripts):
        assert file.mode == 0o755
        (tmp_path / f"{number}.sh").write_text(file.text)
        done = subprocess.run(
            ["bash", "-n", str(tmp_path / f"{number}.sh")], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_placed_device_is_seen_by_exactly_one_process(name: str) -> None:
    plan = load(name)
    files = export(plan)
    seen = [
        index
        for path, text in files.items()
        if "-process-" in path
        for index in exported(text, "CUDA_VISIBLE_DEVICES").split(",")
    ]
    assert len(seen) == sum(len(r.devices) for r in plan.placement)


def test_a_single_node_server_with_tensor_parallelism() -> None:
    files = export(load("llama-tp8"))
    config = yaml.safe_load(files["pool/config.yaml"])
    assert config == {
        "model": "meta-llama/Llama-3.1-70B",
        "served-model-name": "meta-llama/Llama-3.1-70B",
        "kv-cache-dtype": "auto",
        "dtype": "bfloat16",
        "tensor-parallel-size": 8,
        "gpu-memory-utilization": 0.9,
        "max-num-batched-tokens": 8192,
        "max-num-seqs": 128,
    }
    script = files["pool/server-0-process-0.sh"]
    assert words(script) == ["--config", "$here/config.yaml", "--host", "0.0.0.0", "--port", "8000"]
    assert "router.sh" not in files


def test_uneven_pipeline_layers_reach_vllm_through_its_environment() -> None:
    script = export(load("llama-tp4-pp2"))["pool/server-0-process-0.sh"]
    assert exported(script, "VLLM_PP_LAYER_PARTITION") == "41,39"


def test_a_server_over_nodes_of_unequal_share_gets_equal_processes() -> None:
    files = export(load("llama-tp4-pp3"))
    for rank, (devices, host) in enumerate([("0,1,2,3", "0"), ("4,5,6,7", "0"), ("0,1,2,3", "1")]):
        script = files[f"pool/server-0-process-{rank}.sh"]
        flags = words(script)
        assert exported(script, "CUDA_VISIBLE_DEVICES") == devices
        assert flags[flags.index("--nnodes") + 1] == "3"
        assert flags[flags.index("--node-rank") + 1] == str(rank)
        assert flags[flags.index("--master-addr") + 1] == "${HOST_0}"
        assert ("--headless" in flags) == (rank > 0)
        assert f'process-{rank}.sh" &' in files[f"nodes/h100-{host}.sh"]


def test_ranks_are_renumbered_from_stage_major_to_data_parallel_major() -> None:
    # Plan: stage 0 is node 0 and stage 1 node 1, eight data-parallel ranks each. vLLM counts rank 0 of
    # data parallelism first: its stage 0 (node 0, device 0), then its stage 1 (node 1, device 0).
    files = export(load("deepseek-dp8-pp2-ep"))
    order = []
    for rank in range(16):
        script = files[f"pool/server-0-process-{rank}.sh"]
        node = next(p for p in files if p.startswith("nodes/") and f'process-{rank}.sh"' in files[p])
        order.append((node[-4], exported(script, "CUDA_VISIBLE_DEVICES")))
    assert order == [(node, str(d)) for d in range(8) for node in ("0", "1")]


def test_expert_parallelism_over_data_parallel_ranks_on_two_nodes() -> None:
    files = export(load("deepseek-dp16-ep"))
    config = yaml.safe_load(files["pool/config.yaml"])
    assert config["enable-expert-parallel"] is True
    assert config["data-parallel-size"] == 16
    assert config["tensor-parallel-size"] == 1
    flags = words(files["pool/server-0-process-1.sh"])
    assert flags[flags.index("--nnodes") + 1] == "2"


def test_dense_data_parallel_ranks_become_servers() -> None:
    files = export(load("dense-data-parallel"))
    assert "data-parallel-size" not in yaml.safe_load(files["pool/config.yaml"])
    seen = [exported(files[f"pool/server-{s}-process-0.sh"], "CUDA_VISIBLE_DEVICES") for s in range(4)]
    assert seen == ["0,1", "2,3", "4,5", "6,7"]
    assert files["router.sh"].count("http://") == 4


def test_prefill_and_decode_are_joined_by_side_channel_and_router() -> None:
    files = export(load("llama-pair"))
    roles = {
        folder: yaml.safe_load(files[f"{folder}/config.yaml"])["kv-transfer-config"]["kv_role"]
        for folder in ("prefill", "decode")
    }
    assert roles == {"prefill": "kv_producer", "decode": "kv_consumer"}
    first, second = (files[f"prefill/server-{s}-process-0.sh"] for s in range(2))
    assert exported(first, "VLLM_NIXL_SIDE_CHANNEL_HOST") == '"${HOST_0}"'
    port = "VLLM_NIXL_SIDE_CHANNEL_PORT"
    assert exported(first, port) != exported(second, port)
    router = files["router.sh"]
    assert router.count("--prefill ") == 2
    assert '--decode "http://${HOST_1}:8002"' in router


def test_names_with_metacharacters_arrive_unchanged_and_run_nothing(tmp_path: Path) -> None:
    plan = load("metacharacters")
    for file in BACKENDS.get("vllm").export(plan, OPTIONS):
        _write(tmp_path, file)
    stub = tmp_path / "bin" / "vllm"
    stub.parent.mkdir()
    stub.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@" > "$OUT/args.$CUDA_VISIBLE_DEVICES"\n')
    stub.chmod(0o755)
    before = sorted(p.name for p in tmp_path.iterdir())
    environment = {"PATH": f"{stub.parent}:{os.environ['PATH']}", "OUT": str(stub.parent)}
    for script in sorted((tmp_path / "nodes").iterdir()):
        subprocess.run([str(script)], check=True, env=environment, cwd=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    arguments = sorted(stub.parent.glob("args.*"))
    assert len(arguments) == 2  # two servers per node, the same devices on either node
    config = Path(arguments[0].read_text().splitlines()[2])
    assert yaml.safe_load(config.read_text())["served-model-name"] == plan.pools[0].model


def _write(folder: Path, file: ExportedFile) -> None:
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(file.text)
    path.chmod(file.mode)


def test_options_name_the_checkpoint_the_addresses_and_the_ports() -> None:
    options = ExportOptions(
        model_paths=(("meta-llama/Llama-3.1-70B", "/models/llama"),),
        addresses=(("h100-0", "10.0.0.7"),),
        base_port=9000,
    )
    files = export(load("llama-tp8"), options)
    assert yaml.safe_load(files["pool/config.yaml"])["model"] == "/models/llama"
    assert "HOST_0=10.0.0.7\n" in files["hosts.env"]
    assert "--port 9000" in files["pool/server-0-process-0.sh"]


@pytest.mark.parametrize(
    ("name", "change", "key"),
    [
        ("llama-tp8", {"engine": "sglang"}, "engine"),
        ("llama-tp8", {"role": "drafting"}, "role"),
        ("llama-tp8", {"kv_dtype": "int8"}, "kv_dtype"),
        ("llama-tp8", {"weight_dtype": "int3"}, "weight_dtype"),
        ("llama-tp8", {"limits": {"colour": 3}}, "limits"),
        ("llama-tp8", {"strategy": {"decode_cp": 3}}, "strategy.decode_cp"),
        ("deepseek-tp8-pp2-ep", {"strategy": {"ep": 4, "moe_tp": 2}}, "strategy.ep"),
        ("deepseek-tp8-pp2-ep", {"strategy": {"ep": 1, "moe_tp": 4}}, "strategy.moe_tp"),
        ("llama-pair", {"kv_dtype": "bf16"}, "kv_dtype"),
        ("llama-pair", {"role": "aggregated"}, "role"),
    ],
)
def test_what_vllm_cannot_express_is_refused_by_name(name: str, change: dict[str, Any], key: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        export(with_pool(load(name), **change))
    assert key in str(caught.value.key)


def test_decode_pools_with_stages_are_refused() -> None:
    plan = with_pool(load("llama-pair"), 1, strategy={"tp": 4, "pp": 2}, layers_per_stage=[40, 40])
    with pytest.raises(UnsupportedError, match="pipeline stages"):
        export(plan)


def staged_prefill() -> Plan:
    return with_pool(load("llama-pair"), 0, strategy={"tp": 4, "pp": 2}, layers_per_stage=[40, 40])


def test_prefill_with_stages_pushes_its_caches() -> None:
    plan = staged_prefill()
    sent = {vllm_arguments.connector_of(plan, pool) for pool in plan.pools}
    assert sent == {"NixlPushConnector"}
    kept = load("llama-pair")
    assert {vllm_arguments.connector_of(kept, pool) for pool in kept.pools} == {"NixlConnector"}


@pytest.mark.parametrize("runtime", ["dynamo", "ray-serve"])
def test_runtimes_that_only_pull_refuse_prefill_with_stages(runtime: str) -> None:
    with pytest.raises(UnsupportedError, match="NixlPushConnector"):
        vllm_arguments.refuse_pushing(runtime, staged_prefill())
    with pytest.raises(UnsupportedError):
        BACKENDS.get(runtime).export(staged_prefill(), OPTIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limits": {"max_num_seqs": 64, "max_num_batched_tokens": 32}}, "at least as many batched tokens"),
        ({"limits": {"gpu_memory_utilization": 1.5}}, "fraction"),
        ({"limits": {"max_num_seqs": 1.5}}, "no count"),
        ({"model": "--port=1"}, "cannot be passed"),
        ({"model": "a\nb"}, "cannot be passed"),
        ({"replicas": 2}, "are placed"),
        ({"strategy": {"tp": 4}}, "needs 4 devices"),
        ({"strategy": {"tp": 4, "pp": 2}, "layers_per_stage": [80]}, "has 2 stages"),
        ({"strategy": {"tp": 4, "pp": 2}, "layers_per_stage": [80, 0]}, "one positive number per stage"),
    ],
)
def test_a_plan_that_would_not_start_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        export(with_pool(load("llama-tp8"), **change))


def test_a_device_placed_twice_is_refused() -> None:
    plan = load("llama-tp4-replicas")
    twice = [r.model_copy(update={"devices": plan.placement[0].devices}) for r in plan.placement]
    with pytest.raises(InputError, match="as well"):
        export(plan.model_copy(update={"placement": twice}))


def test_an_infeasible_plan_has_nothing_to_launch() -> None:
    plan = load("llama-tp8").model_copy(update={"status": "infeasible", "pools": [], "placement": []})
    with pytest.raises(InputError, match="nothing to launch"):
        export(plan)


@pytest.mark.parametrize(
    ("plan_fmt", "checkpoint_of", "expected"),
    [
        ("fp8_block", "deepseek-tp8-pp2-ep", None),
        ("fp8_block", "llama-tp8", "fp8_per_block"),
        ("fp8", "llama-tp8", "fp8"),
        ("fp8", "", "fp8"),
        ("bf16", "llama-tp8", None),
        ("nvfp4", "llama-tp8", None),
    ],
)
def test_vllm_quantises_only_a_checkpoint_in_16_bits(
    plan_fmt: str, checkpoint_of: str, expected: str | None
) -> None:
    plan = with_pool(load("deepseek-tp8-pp2-ep"), weight_dtype=plan_fmt)
    plan = plan.model_copy(update={"problem": load(checkpoint_of).problem if checkpoint_of else ""})
    assert yaml.safe_load(export(plan)["pool/config.yaml"]).get("quantization") == expected


def test_formats_that_need_a_checkpoint_are_said_in_the_readme() -> None:
    files = export(with_pool(load("llama-tp8"), weight_dtype="w4a16", limits={}))
    assert "wants weights in w4a16" in files["README.md"]
    assert "vLLM's own default" in files["README.md"]
