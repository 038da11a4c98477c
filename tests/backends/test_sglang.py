from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.backends import BACKENDS, ExportOptions
from planner.errors import InputError, UnsupportedError
from planner.plan.schema import Plan

from .plans import NAMES, for_engine, load, with_pool

OPTIONS = ExportOptions()


def export(plan: Plan) -> dict[str, str]:
    return {f.path: f.text for f in BACKENDS.get("sglang").export(plan, OPTIONS)}


def words(script: str) -> list[str]:
    return shlex.split(script.split("exec python3 -m sglang.launch_server", 1)[1].replace("\\\n", " "))


def sglang(name: str) -> Plan:
    return for_engine(load(name), "sglang")


def config(files: dict[str, str], folder: str = "pool") -> dict[str, Any]:
    return yaml.safe_load(files[f"{folder}/config.yaml"])


@pytest.mark.parametrize("name", NAMES)
def test_every_placed_device_is_seen_by_one_process_and_the_scripts_parse(name: str, tmp_path: Path) -> None:
    plan = sglang(name)
    files = export(plan)
    seen = 0
    for path, text in files.items():
        if path.endswith(".sh"):
            script = tmp_path / path.replace("/", "-")
            script.write_text(text)
            subprocess.run(["bash", "-n", str(script)], check=True)
        if "-process-" in path:
            (line,) = [li for li in text.splitlines() if li.startswith("export CUDA_VISIBLE_DEVICES=")]
            seen += len(line.split("=")[1].split(","))
    assert seen == sum(len(r.devices) for r in plan.placement)


def test_tp_size_counts_all_ranks_of_a_stage_and_limits_are_those_of_the_server() -> None:
    plan = sglang("deepseek-dp8-pp2-ep")
    pool = plan.pools[0]
    found = config(export(plan))
    assert (found["tp-size"], found["attn-dp-size"], found["pp-size"], found["ep-size"]) == (8, 8, 2, 8)
    assert found["max-running-requests"] == 8 * pool.limits["max_num_seqs"]
    assert found["chunked-prefill-size"] == 8 * pool.limits["max_num_batched_tokens"]


def test_ranks_keep_the_order_of_the_plan() -> None:
    # Stage 0 is node 0 and stage 1 node 1; SGLang counts stages first, so each node is one process.
    files = export(sglang("deepseek-dp8-pp2-ep"))
    for rank in range(2):
        script = files[f"pool/server-0-process-{rank}.sh"]
        assert "CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7\n" in script
        flags = words(script)
        assert flags[flags.index("--nnodes") + 1] == "2"
        assert flags[flags.index("--node-rank") + 1] == str(rank)
        assert flags[flags.index("--dist-init-addr") + 1] == "${HOST_0}:20000"
        assert ("--port" in flags) == (rank == 0)
        assert f'process-{rank}.sh" &' in files[f"nodes/h100-{rank}.sh"]


def test_the_static_share_is_converted_through_bytes() -> None:
    # 0.9 of the memory for the engine, of which weights and caches take 0.85.
    assert config(export(sglang("llama-tp8")))["mem-fraction-static"] == 0.85


def test_a_share_without_a_breakdown_is_refused() -> None:
    with pytest.raises(InputError, match="weights and caches only"):
        export(with_pool(sglang("llama-tp8"), memory=[]))


def test_layers_per_stage_reach_sglang_through_its_environment() -> None:
    script = export(sglang("llama-tp4-pp2"))["pool/server-0-process-0.sh"]
    assert "export SGLANG_PP_LAYER_PARTITION=41,39\n" in script


def test_prefill_servers_tell_the_router_where_they_hand_over() -> None:
    files = export(sglang("llama-pair"))
    assert config(files, "prefill")["disaggregation-mode"] == "prefill"
    assert config(files, "decode")["disaggregation-mode"] == "decode"
    ports = []
    for server in range(2):
        flags = words(files[f"prefill/server-{server}-process-0.sh"])
        ports.append(flags[flags.index("--disaggregation-bootstrap-port") + 1])
    assert len(set(ports)) == 2
    router = files["router.sh"]
    assert all(f'--prefill "http://${{HOST_0}}:{8000 + i}" {port}' in router for i, port in enumerate(ports))
    assert "--pd-disaggregation" in router


def test_the_router_is_called_with_the_addresses_of_the_hosts(tmp_path: Path) -> None:
    for file in BACKENDS.get("sglang").export(sglang("llama-pair"), OPTIONS):
        path = tmp_path / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)
        path.chmod(file.mode)
    stub = tmp_path / "bin" / "python3"
    stub.parent.mkdir()
    stub.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(tmp_path / "router.sh")], check=True, capture_output=True, text=True, env=environment
    )
    said = done.stdout.split()
    assert said[:2] == ["-m", "sglang_router.launch_router"]
    assert said[said.index("--decode") + 1] == "http://h100-1:8002"


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"ep": 3}, "ep times moe_tp"),
        ({"cp": 2, "pp": 2, "tp": 2}, "together with pipeline stages"),
        ({"decode_cp": 3}, "decode_cp must divide tp"),
        ({"cp": 2, "tp": 4, "decode_cp": 2}, "not both"),
    ],
)
def test_what_sglang_cannot_do_is_refused_by_name(strategy: dict[str, int], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        export(with_pool(sglang("llama-tp8"), strategy=strategy))


def test_weights_that_sglang_cannot_make_are_named_in_the_readme() -> None:
    plan = with_pool(sglang("llama-tp8"), weight_dtype="fp8_block")
    assert "wants weights in fp8_block" in export(plan)["README.md"]
    assert "quantization" not in config(export(plan))
    assert config(export(with_pool(sglang("llama-tp8"), weight_dtype="fp8")))["quantization"] == "fp8"


def test_kubernetes_finds_the_pods_of_a_pair_by_label() -> None:
    options = ExportOptions(pin_nodes=False, router_image="router:1", namespace="chat")
    files = BACKENDS.get("kubernetes").export(sglang("llama-pair"), options)
    found = [o for f in files if f.path.endswith(".yaml") for o in yaml.safe_load_all(f.text)]
    kinds = sorted(o["kind"] for o in found)
    assert {"ServiceAccount", "Role", "RoleBinding"} < set(kinds)
    (router,) = [o for o in found if o["kind"] == "Deployment" and o["metadata"]["name"].endswith("router")]
    arguments = router["spec"]["template"]["spec"]["containers"][0]["args"]
    for role in ("prefill", "decode"):
        key, value = arguments[arguments.index(f"--{role}-selector") + 1].split("=")
        (pods,) = [
            o["spec"]["template"]
            for o in found
            if o["kind"] == "Deployment" and o["spec"]["template"]["metadata"]["labels"].get(key) == value
        ]
        assert ("sglang.ai/bootstrap-port" in pods["metadata"].get("annotations", {})) == (role == "prefill")


def test_kubernetes_runs_a_server_over_pods_with_the_leaders_address() -> None:
    files = BACKENDS.get("kubernetes").export(sglang("deepseek-tp8-pp2-ep"), ExportOptions(pin_nodes=False))
    found = [o for f in files if f.path.endswith(".yaml") for o in yaml.safe_load_all(f.text)]
    (group,) = [o for o in found if o["kind"] == "LeaderWorkerSet"]
    template = group["spec"]["leaderWorkerTemplate"]
    worker = template["workerTemplate"]["spec"]["containers"][0]["args"]
    assert worker[worker.index("--dist-init-addr") + 1] == "$(LWS_LEADER_ADDRESS):20000"
    assert worker[worker.index("--node-rank") + 1] == "$(LWS_WORKER_INDEX)"
    assert "--port" not in worker
