"""NVIDIA Dynamo: one DynamoGraphDeployment that runs the pools of a plan behind its frontend.

Written for ``nvidia.com/v1beta1`` and Dynamo 1.6.1: components are a list, a worker's pod template has a
container called ``main``, and for servers over several pods (``multinode.nodeCount``) the operator adds
ranks and the leader's address itself. Flags of the workers: ``dynamo/{vllm,sglang,trtllm}`` of the wheel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from planner.backends._engines import ENGINES, engine_of
from planner.backends._launch import (
    Argument,
    Launch,
    Reference,
    command_words,
    parse_words,
    safe_text,
)
from planner.backends._layout import slug
from planner.backends._pods import (
    Object,
    PodMaker,
    Workload,
    dump,
    environment_entries,
    metadata,
    node_affinity,
    pod_word,
    workloads,
)
from planner.backends._protocol import Capabilities, ExportedFile, ExportOptions
from planner.backends._trtllm_config import CAPABILITIES as TRTLLM_CAPABILITIES
from planner.backends._trtllm_config import check_config, pool_config
from planner.backends._trtllm_config import check_plan as check_trtllm_plan
from planner.backends._vllm_arguments import refuse_pushing
from planner.errors import InputError
from planner.plan.schema import Plan

DYNAMO_VERSION = "1.6.1"
_API = "nvidia.com/v1beta1"
_MAX_COMPONENTS = 25
_MAX_NAME = 63
_RUNTIME = {"vllm": "vllm-runtime", "sglang": "sglang-runtime", "trtllm": "tensorrtllm-runtime"}
_COMPONENT_TYPES = {"aggregated": "worker", "prefill": "prefill", "decode": "decode"}
_OPERATORS_OWN = ("nnodes", "node-rank", "master-addr", "master-port", "dist-init-addr", "headless")
_NO_ADDRESS = Reference(name="POD_IP")

_CAPABILITIES = replace(
    ENGINES["vllm"].capabilities,
    engines=frozenset((*ENGINES, "trtllm")),
    weight_dtypes={
        **TRTLLM_CAPABILITIES.weight_dtypes,
        **ENGINES["vllm"].capabilities.weight_dtypes,
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoBackend:
    """Writes a DynamoGraphDeployment."""

    name: str = "dynamo"
    capabilities: Capabilities = _CAPABILITIES

    def export(self, plan: Plan, options: ExportOptions) -> tuple[ExportedFile, ...]:
        """Return the deployment and a README.

        Raises
        ------
        InputError
            If the plan has nothing to launch, contradicts itself or breaks a rule of its engine.
        UnsupportedError
            If Dynamo or the engine cannot run a decision of the plan.
        """
        engine = _check_plan(self.name, plan)
        found = workloads(plan, stage_major=engine != "vllm")
        components = [_frontend(engine, options), *(_component(plan, w, options) for w in found)]
        graph: Object = {
            "apiVersion": _API,
            "kind": "DynamoGraphDeployment",
            "metadata": metadata(found[0].app, {"app.kubernetes.io/part-of": found[0].app}, options),
            "spec": {"backendFramework": engine, "components": components},
        }
        files = (
            ExportedFile(path="README.md", text=_readme(engine, found)),
            dump("deployment.yaml", [graph]),
        )
        check_files(plan, files)
        return files


def _check_plan(backend: str, plan: Plan) -> str:
    if {pool.engine for pool in plan.pools} == {"trtllm"}:
        check_trtllm_plan(backend, plan)
        return "trtllm"
    engine = engine_of(backend, plan)
    engine.check_plan(backend, plan)
    refuse_pushing(backend, plan)
    return engine.name


def _image(engine: str, options: ExportOptions) -> str:
    return options.image or f"nvcr.io/nvidia/ai-dynamo/{_RUNTIME[engine]}:{DYNAMO_VERSION}"


def _frontend(engine: str, options: ExportOptions) -> Object:
    container: Object = {
        "name": "main",
        "image": _image(engine, options),
        "command": ["python3", "-m", "dynamo.frontend"],
        "args": ["--router-mode", "power-of-two", "--http-port", "8000"],
    }
    return {
        "name": "frontend",
        "type": "frontend",
        "replicas": 1,
        "podTemplate": {"spec": {"containers": [container]}},
    }


def _component(plan: Plan, workload: Workload, options: ExportOptions) -> Object:
    engine = workload.pool.engine
    limits = workload.gpu_limits
    environment = [] if engine == "trtllm" else _environment(plan, workload, options)
    container: Object = {
        "name": "main",
        "image": _image(engine, options),
        "command": ["python3", "-m", f"dynamo.{engine}"],
        "args": [pod_word(word) for word in command_words(_arguments(plan, workload, options))],
        "env": [*environment, *environment_entries({})],
        "resources": {"limits": limits, "requests": dict(limits)},
    }
    if workload.num_processes > 1 or workload.pool.role != "aggregated":
        container["securityContext"] = {"capabilities": {"add": ["IPC_LOCK"]}}
    spec: Object = {"containers": [container]}
    if options.pin_nodes:
        spec["affinity"] = node_affinity(workload, options)
    found: Object = {
        "name": slug(workload.name.removeprefix(f"{workload.app}-")),
        "type": _COMPONENT_TYPES[workload.pool.role],
        "replicas": len(workload.servers),
        "podTemplate": {"metadata": {"labels": dict(workload.labels)}, "spec": spec},
    }
    if workload.num_processes > 1:
        found["multinode"] = {"nodeCount": workload.num_processes}
    return found


def _environment(plan: Plan, workload: Workload, options: ExportOptions) -> list[Object]:
    """Return the environment of an engine but its address, which Dynamo sets itself."""
    maker = PodMaker(engine=ENGINES[workload.pool.engine], plan=plan, options=options)
    values = maker.engine.environment(plan, workload.pool, 0, _NO_ADDRESS)
    kept = {name: value for name, value in values.items() if name.endswith("LAYER_PARTITION")}
    return [{"name": name, "value": value} for name, value in kept.items()]


def _arguments(plan: Plan, workload: Workload, options: ExportOptions) -> dict[str, Argument]:
    pool = workload.pool
    found: dict[str, Argument]
    if pool.engine == "trtllm":
        import json

        config = pool_config(pool, len(workload.servers[0].processes[0].indexes))
        found = {
            "model": safe_text(options.model_path(pool.model), "model"),
            "served-model-name": safe_text(pool.model, "model"),
            "override-engine-args": json.dumps(config, sort_keys=True),
        }
    else:
        engine = ENGINES[pool.engine]
        found = engine.pool_arguments(plan, pool, options)
        found |= engine.server_arguments(workload.servers[0], 0, _NO_ADDRESS)
        found = {flag: value for flag, value in found.items() if flag not in _OPERATORS_OWN}
    if pool.role != "aggregated":
        found["disaggregation-mode"] = pool.role
    return found


def _readme(engine: str, found: list[Workload]) -> str:
    lines = [
        "# Dynamo",
        "",
        f"For Dynamo {DYNAMO_VERSION} and its operator. Apply with `kubectl apply -f deployment.yaml`; the",
        "frontend then serves the OpenAI API on port 8000.",
        "",
    ]
    for w in found:
        (resource, devices), *_ = w.gpu_limits.items()
        pods = f"{len(w.servers)} replica(s) of {w.num_processes} pod(s), {devices} {resource} each"
        lines.append(f"- `{w.name.removeprefix(f'{w.app}-')}` ({w.pool.role}, {engine}): {pods}.")
    lines += ["", "Gated models: `kubectl create secret generic hf-token --from-literal=token=...`."]
    if any(w.num_processes > 1 for w in found):
        lines.append("Replicas of several pods need Grove or LeaderWorkerSet beside the operator.")
    return "\n".join(lines) + "\n"


def check_files(plan: Plan, files: tuple[ExportedFile, ...]) -> None:
    """Read the deployment back and hold it against the rules of Dynamo and of the engine.

    Raises
    ------
    InputError
        Naming the file and what breaks a rule.
    """
    import yaml

    path = "deployment.yaml"
    (text,) = [file.text for file in files if file.path == path]
    graph = cast("Object", yaml.safe_load(text))
    components = cast("list[Object]", graph["spec"]["components"])
    names = [str(c["name"]).lower() for c in components]
    if len(components) > _MAX_COMPONENTS:
        raise InputError(
            "a deployment has too many components",
            file=path,
            key="spec.components",
            value=len(components),
            allowed=f"at most {_MAX_COMPONENTS}",
            hint="Export the models of the plan one by one.",
        )
    if len(set(names)) < len(names) or max(len(n) for n in names) > _MAX_NAME:
        raise InputError("components need short and different names", file=path, key="spec.components")
    gpus = 0
    for component in components:
        (container,) = cast("list[Object]", component["podTemplate"]["spec"]["containers"])
        if container["name"] != "main" or not container["image"]:
            raise InputError("a component runs in the container main", file=path, key=str(component["name"]))
        if component["type"] != "frontend":
            num_pods = cast("int", component.get("multinode", {}).get("nodeCount", 1))
            gpus += _check_worker(path, container, num_pods) * num_pods * cast("int", component["replicas"])
    placed = sum(len(replica.devices) for replica in plan.placement)
    if gpus != placed:
        raise InputError(f"the deployment asks for {gpus} devices, the plan for {placed}", file=path)


def _check_worker(path: str, container: Object, num_pods: int) -> int:
    """Hold the launch of a worker against the rules of its engine, and return its devices."""
    engine = cast("list[str]", container["command"])[-1].removeprefix("dynamo.")
    (devices,) = (int(n) for n in cast("dict[str, str]", container["resources"]["limits"]).values())
    words = [w.replace("$$(", "$(") for w in cast("list[str]", container["args"])]
    if engine == "trtllm":
        import json

        config = cast("Mapping[str, object]", json.loads(words[words.index("--override-engine-args") + 1]))
        check_config(config, file=path)
        world = cast("int", config["tensor_parallel_size"])
        world *= cast("int", config.get("pipeline_parallel_size", 1))
        if world != devices * num_pods:
            raise InputError("the sizes need other devices than the pods have", file=path, value=world)
        return devices
    arguments = parse_words(words, ENGINES[engine].flags)
    if engine == "vllm":
        for dynamos_own in ("disaggregation-mode", "kv-transfer-config"):
            arguments.pop(dynamos_own, None)
    if num_pods > 1:
        leader = "master-addr" if engine == "vllm" else "dist-init-addr"
        arguments |= {"nnodes": str(num_pods), leader: ""}
    environment = {e["name"]: str(e["value"]) for e in cast("list[Object]", container["env"]) if "value" in e}
    ENGINES[engine].check_launch(
        Launch(file=path, arguments=arguments, environment=environment, num_devices=devices)
    )
    return devices


BACKEND = DynamoBackend()
