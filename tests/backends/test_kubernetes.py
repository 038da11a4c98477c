from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from planner.backends import BACKENDS, ExportOptions
from planner.errors import InputError
from planner.plan.schema import Plan

from .plans import NAMES, load, with_pool

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
UNPINNED = ExportOptions(pin_nodes=False)


def objects(plan: Plan, options: ExportOptions = UNPINNED) -> list[dict[str, Any]]:
    files = BACKENDS.get("kubernetes").export(plan, options)
    assert files == BACKENDS.get("kubernetes").export(plan, options)
    return [o for f in files if f.path.endswith(".yaml") for o in yaml.safe_load_all(f.text)]


def workloads(plan: Plan, options: ExportOptions = UNPINNED) -> list[dict[str, Any]]:
    return [o for o in objects(plan, options) if o["kind"] != "Service"]


def num_gpus(workload: dict[str, Any]) -> int:
    def of(template: dict[str, Any]) -> int:
        return sum(int(v) for c in template["spec"]["containers"] for v in c["resources"]["limits"].values())

    spec = workload["spec"]
    if workload["kind"] == "Deployment":
        return spec["replicas"] * of(spec["template"])
    group = spec["leaderWorkerTemplate"]
    workers = (group["size"] - 1) * of(group["workerTemplate"])
    return spec["replicas"] * (of(group["leaderTemplate"]) + workers)


@pytest.mark.parametrize("name", NAMES)
def test_gpu_limits_add_up_to_the_placement(name: str) -> None:
    plan = load(name)
    assert sum(num_gpus(w) for w in workloads(plan)) == sum(len(r.devices) for r in plan.placement)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_dns_labels_and_distinct_per_kind(name: str) -> None:
    found = [(o["kind"], o["metadata"]["name"]) for o in objects(load(name))]
    assert len(set(found)) == len(found)
    assert all(DNS_LABEL.fullmatch(n) for _, n in found)


@pytest.mark.parametrize("name", NAMES)
def test_services_select_the_pods_that_listen(name: str) -> None:
    found = objects(load(name))
    for service in (o for o in found if o["kind"] == "Service"):
        (workload,) = [
            o for o in found if o is not service and o["metadata"]["name"] == service["metadata"]["name"]
        ]
        spec = workload["spec"]
        pod = (
            spec["template"]
            if workload["kind"] == "Deployment"
            else spec["leaderWorkerTemplate"]["leaderTemplate"]
        )
        selector = dict(service["spec"]["selector"])
        if workload["kind"] == "LeaderWorkerSet":
            assert selector.pop("leaderworkerset.sigs.k8s.io/worker-index") == "0"
        assert selector.items() <= pod["metadata"]["labels"].items()


def test_a_server_over_pods_is_a_leader_worker_set() -> None:
    (group,) = workloads(load("deepseek-tp8-pp2-ep"))
    template = group["spec"]["leaderWorkerTemplate"]
    leader = template["leaderTemplate"]["spec"]["containers"][0]
    worker = template["workerTemplate"]["spec"]["containers"][0]
    assert (group["kind"], group["spec"]["replicas"], template["size"]) == ("LeaderWorkerSet", 1, 2)
    assert leader["args"][leader["args"].index("--master-addr") + 1] == "$(LWS_LEADER_ADDRESS)"
    assert worker["args"][worker["args"].index("--node-rank") + 1] == "$(LWS_WORKER_INDEX)"
    assert "--headless" in worker["args"]
    assert "readinessProbe" in leader
    assert "readinessProbe" not in worker


def test_the_model_is_the_first_word_as_vllm_serve_wants_it() -> None:
    (deployment,) = workloads(load("llama-tp8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] == "meta-llama/Llama-3.1-70B"
    assert "--model" not in container["args"]


def test_pods_are_tied_to_the_nodes_of_the_placement() -> None:
    def nodes(options: ExportOptions) -> list[str]:
        (w,) = workloads(load("llama-tp4-replicas"), options)
        rule = w["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        (term,) = rule["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        return term["matchExpressions"][0]["values"]

    assert nodes(ExportOptions()) == ["h100-0", "h100-1"]
    assert nodes(ExportOptions(addresses=(("h100-0", "worker-a"),))) == ["h100-1", "worker-a"]


def test_a_node_name_that_is_no_label_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match="--no-pin"):
        objects(load("metacharacters"), ExportOptions())


def test_dollar_parentheses_in_names_are_not_expanded() -> None:
    plan = load("metacharacters")
    (deployment,) = workloads(plan)
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    served = arguments[arguments.index("--served-model-name") + 1]
    assert re.findall(r"(?<!\$)\$\(", served) == []
    assert served.replace("$$(", "$(") == plan.pools[0].model


def test_the_side_channel_listens_on_the_address_of_the_pod() -> None:
    for workload in workloads(load("llama-pair")):
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        environment = {e["name"]: e for e in container["env"]}
        host = environment["VLLM_NIXL_SIDE_CHANNEL_HOST"]
        assert host["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"


def test_a_router_is_written_where_an_image_is_given() -> None:
    found = objects(load("llama-pair"), ExportOptions(pin_nodes=False, router_image="router:1"))
    (router,) = [o for o in found if o["metadata"]["name"].endswith("router") and o["kind"] == "Deployment"]
    arguments = router["spec"]["template"]["spec"]["containers"][0]["args"]
    services = {o["metadata"]["name"] for o in found if o["kind"] == "Service"}
    targets = {a.split("//")[1].split(":")[0] for a in arguments if a.startswith("http")}
    assert targets < services
    assert len(targets) == 2


def test_the_vendor_decides_the_name_of_the_resource() -> None:
    (w,) = workloads(with_pool(load("llama-tp8"), device="mi300x"))
    assert w["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {"amd.com/gpu": "8"}
