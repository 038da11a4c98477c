"""Exports to systems that run engines for the user: Dynamo, KServe, llm-d and Ray Serve."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import yaml

from planner.backends import BACKENDS, ExportOptions
from planner.backends._protocol import ExportedFile
from planner.errors import InputError, UnsupportedError
from planner.plan.schema import Plan

from .plans import NAMES, for_engine, load, with_pool

OPTIONS = ExportOptions(pin_nodes=False)
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def documents(backend: str, plan: Plan, options: ExportOptions = OPTIONS) -> list[dict[str, Any]]:
    files = BACKENDS.get(backend).export(plan, options)
    assert files == BACKENDS.get(backend).export(plan, options)
    assert any(f.path == "README.md" for f in files)
    return [o for f in files if f.path.endswith(".yaml") for o in yaml.safe_load_all(f.text)]


def num_devices(plan: Plan) -> int:
    return sum(len(replica.devices) for replica in plan.placement)


def gpus(container: dict[str, Any]) -> int:
    return sum(int(n) for n in container["resources"]["limits"].values())


def components(plan: Plan) -> dict[str, dict[str, Any]]:
    (graph,) = documents("dynamo", plan)
    assert (graph["apiVersion"], graph["kind"]) == ("nvidia.com/v1beta1", "DynamoGraphDeployment")
    return {c["name"]: c for c in graph["spec"]["components"]}


def main_container(component: dict[str, Any]) -> dict[str, Any]:
    (container,) = component["podTemplate"]["spec"]["containers"]
    return container


def services(plan: Plan) -> list[dict[str, Any]]:
    return [o for o in documents("kserve", plan) if o["kind"] == "LLMInferenceService"]


def additional(pod: dict[str, Any]) -> list[str]:
    (container,) = pod["containers"]
    (value,) = [e["value"] for e in container["env"] if e["name"] == "VLLM_ADDITIONAL_ARGS"]
    return shlex.split(value)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("name", NAMES)
def test_dynamo_asks_for_the_devices_of_the_plan(name: str, engine: str) -> None:
    plan = load(name) if engine == "vllm" else for_engine(load(name), engine)
    if engine == "trtllm" and plan.pools[0].strategy.decode_cp > 1:
        with pytest.raises(UnsupportedError, match="decode_cp"):
            components(plan)
        return
    found = components(plan)
    assert all(DNS_LABEL.fullmatch(name) for name in found)
    workers = [c for c in found.values() if c["type"] != "frontend"]
    total = sum(
        c["replicas"] * c.get("multinode", {}).get("nodeCount", 1) * gpus(main_container(c)) for c in workers
    )
    assert total == num_devices(plan)


def test_dynamo_leaves_ranks_and_addresses_to_the_operator() -> None:
    found = components(load("deepseek-tp8-pp2-ep"))["pool"]
    arguments = main_container(found)["args"]
    assert found["multinode"] == {"nodeCount": 2}
    assert not {"--nnodes", "--node-rank", "--master-addr", "--headless"} & set(arguments)
    assert arguments[arguments.index("--pipeline-parallel-size") + 1] == "2"


def test_dynamo_pairs_by_type_and_mode() -> None:
    found = components(load("llama-pair"))
    for role in ("prefill", "decode"):
        component = found[role]
        arguments = main_container(component)["args"]
        assert component["type"] == role
        assert arguments[arguments.index("--disaggregation-mode") + 1] == role


def test_dynamo_hands_tensorrt_llm_its_configuration() -> None:
    import json

    arguments = main_container(components(for_engine(load("llama-tp8"), "trtllm"))["pool"])["args"]
    config = json.loads(arguments[arguments.index("--override-engine-args") + 1])
    assert config["tensor_parallel_size"] == 8


def test_a_mixture_of_engines_is_refused() -> None:
    plan = load("llama-pair")
    mixed = with_pool(plan, 1, engine="sglang")
    for backend in ("dynamo", "kubernetes"):
        with pytest.raises(UnsupportedError, match="one engine"):
            BACKENDS.get(backend).export(mixed, OPTIONS)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "deepseek-dp8-pp2-ep"])
def test_kserve_keeps_the_rules_of_its_webhook(name: str) -> None:
    plan = load(name)
    total = 0
    for service in services(plan):
        parts = [service["spec"], *([service["spec"]["prefill"]] if "prefill" in service["spec"] else [])]
        for part in parts:
            degrees = part["parallelism"]
            assert ("data" in degrees) == ("dataLocal" in degrees)
            assert not {"data", "pipeline"} <= degrees.keys()
            assert "worker" not in part or degrees.keys() & {"data", "pipeline"}
            nodes = 1
            if "worker" in part:
                nodes = (
                    degrees.get("pipeline", 0) * degrees["tensor"] // gpus(part["template"]["containers"][0])
                )
                nodes = nodes or degrees["data"] // degrees["dataLocal"]
            total += part["replicas"] * nodes * gpus(part["template"]["containers"][0])
    assert total == num_devices(plan)


def test_kserve_refuses_stages_of_data_parallel_ranks_over_nodes() -> None:
    with pytest.raises(UnsupportedError, match="not by both"):
        services(load("deepseek-dp8-pp2-ep"))


def test_kserve_hands_names_to_a_shell_only_quoted() -> None:
    plan = load("metacharacters")
    (service,) = services(plan)
    assert service["spec"]["model"]["name"] == plan.pools[0].model
    assert not any("served-model-name" in word for word in additional(service["spec"]["template"]))


def test_kserve_puts_the_prefill_pool_beside_the_decode_pool() -> None:
    (service,) = services(load("llama-pair"))
    assert service["spec"]["replicas"] == 1
    assert service["spec"]["prefill"]["replicas"] == 2
    words = additional(service["spec"]["prefill"]["template"])
    assert '"kv_role": "kv_producer"' in words[words.index("--kv-transfer-config") + 1]


@pytest.mark.parametrize("name", NAMES)
def test_llmd_workers_are_found_by_the_pool(name: str) -> None:
    found = documents("llmd", load(name))
    (pool,) = [o for o in found if o["kind"] == "InferencePool"]
    selector = pool["spec"]["selector"]["matchLabels"].items()
    sets = [o["spec"] for o in found if o["kind"] == "LeaderWorkerSet"]
    sets += [r["spec"] for o in found if o["kind"] == "DisaggregatedSet" for r in o["spec"]["roles"]]
    total = 0
    for spec in sets:
        group = spec["leaderWorkerTemplate"]
        worker = group["workerTemplate"]
        leader = group.get("leaderTemplate", worker)
        assert selector <= leader["metadata"]["labels"].items()
        each = gpus(leader["spec"]["containers"][0])
        total += spec["replicas"] * group["size"] * each
    assert total == num_devices(load(name))


def test_llmd_puts_a_proxy_before_decode_engines_only() -> None:
    found = documents("llmd", load("llama-pair"))
    (group,) = [o for o in found if o["kind"] == "DisaggregatedSet"]
    pods = {r["name"]: r["spec"]["leaderWorkerTemplate"]["workerTemplate"] for r in group["spec"]["roles"]}
    assert "initContainers" not in pods["prefill"]["spec"]
    (proxy,) = pods["decode"]["spec"]["initContainers"]
    assert proxy["restartPolicy"] == "Always"
    engine = pods["decode"]["spec"]["containers"][0]["args"]
    assert f"--vllm-port={engine[engine.index('--port') + 1]}" in proxy["args"]


def test_llmd_declares_every_plugin_that_a_profile_uses() -> None:
    for name in ("llama-pair", "llama-tp8"):
        (config,) = [o for o in documents("llmd", load(name)) if o["kind"] == "EndpointPickerConfig"]
        declared = {p["type"] for p in config["plugins"]}
        used = {p["pluginRef"] for profile in config["schedulingProfiles"] for p in profile["plugins"]}
        assert used <= declared


RAY_NAMES = [n for n in NAMES if n not in ("dense-data-parallel",) and not n.startswith("deepseek-dp")]


@pytest.mark.parametrize("name", RAY_NAMES)
def test_ray_bundles_are_the_devices_of_the_plan(name: str) -> None:
    plan = load(name)
    if plan.pools[0].strategy.attention_dp > 1:
        with pytest.raises(UnsupportedError, match="attention_dp"):
            documents("ray-serve", plan)
        return
    (found,) = documents("ray-serve", plan)
    total = 0
    for application in found["applications"]:
        arguments = application["args"]
        for config in arguments.get("llm_configs") or arguments.values():
            bundles = config["placement_group_config"]["bundles"]
            assert all(b["GPU"] == 1 for b in bundles)
            total += len(bundles) * config["deployment_config"]["num_replicas"]
    assert total == num_devices(plan)


def test_ray_builds_pairs_with_their_own_builder() -> None:
    (found,) = documents("ray-serve", load("llama-pair"))
    (application,) = found["applications"]
    assert application["import_path"] == "ray.serve.llm:build_pd_openai_app"
    roles = {k: c["engine_kwargs"]["kv_transfer_config"]["kv_role"] for k, c in application["args"].items()}
    assert roles == {"prefill_config": "kv_producer", "decode_config": "kv_consumer"}


def test_ray_gets_the_layers_per_stage_in_the_environment() -> None:
    (found,) = documents("ray-serve", load("llama-tp4-pp2"))
    config = found["applications"][0]["args"]["llm_configs"][0]
    assert config["runtime_env"]["env_vars"] == {"VLLM_PP_LAYER_PARTITION": "41,39"}
    assert config["accelerator_type"] == "H100"


@pytest.mark.parametrize("backend", ["kserve", "llmd", "ray-serve"])
def test_engines_other_than_vllm_are_refused_by_name(backend: str) -> None:
    with pytest.raises(UnsupportedError, match="engine"):
        BACKENDS.get(backend).export(for_engine(load("llama-tp8"), "sglang"), OPTIONS)


@pytest.mark.parametrize("backend", ["kserve", "ray-serve"])
def test_unequal_replicas_of_a_model_are_refused(backend: str) -> None:
    plan = load("llama-tp4-replicas")
    other = plan.pools[0].model_copy(update={"name": "other"})
    placement = [*plan.placement, *(r.model_copy(update={"pool": "other"}) for r in plan.placement)]
    both = plan.model_copy(update={"pools": [*plan.pools, other], "placement": placement})
    with pytest.raises(UnsupportedError, match="equal replicas"):
        BACKENDS.get(backend).export(both, OPTIONS)


def test_what_was_written_is_read_back_and_checked() -> None:
    from planner.backends._pods import PodMaker
    from planner.backends._vllm_engine import ENGINE
    from planner.backends.llmd import check_files

    text = yaml.safe_dump(
        {
            "kind": "EndpointPickerConfig",
            "plugins": [{"type": "queue-scorer"}],
            "schedulingProfiles": [{"name": "default", "plugins": [{"pluginRef": "queue-scorr"}]}],
        }
    )
    maker = PodMaker(engine=ENGINE, plan=load("llama-tp8"), options=OPTIONS)
    with pytest.raises(InputError, match="not declared"):
        check_files(maker, [ExportedFile(path="p.yaml", text=text)])
