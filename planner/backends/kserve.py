"""KServe: one LLMInferenceService per model, vLLM underneath.

Written for ``serving.kserve.io/v1alpha2`` (KServe 0.20). The service's own presets start vLLM; what a plan
decides beyond the degrees of `parallelism` reaches it through VLLM_ADDITIONAL_ARGS, which the presets
hand to a shell. The rules of the project's webhook that concern us are checked here.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from planner.backends._launch import Argument, Launch, Reference, command_words, parse_words
from planner.backends._layout import local_devices, slug
from planner.backends._pods import Object, Workload, dump, metadata, node_affinity, workloads
from planner.backends._protocol import Capabilities, ExportedFile, ExportOptions
from planner.backends._vllm_engine import ENGINE
from planner.errors import InputError, UnsupportedError
from planner.plan.schema import Plan

KSERVE_VERSION = "0.20"
_API = "serving.kserve.io/v1alpha2"
_VARIABLE = "VLLM_ADDITIONAL_ARGS"
_PRESETS_OWN = (
    "model",
    "served-model-name",
    "distributed-executor-backend",
    "nnodes",
    "master-addr",
    "master-port",
    "data-parallel-size",
    "data-parallel-rpc-port",
)
_SCHEMES = ("hf://", "s3://", "gs://", "oci://", "pvc://", "https://", "http://", "file://")


@dataclass(frozen=True, slots=True, kw_only=True)
class KserveBackend:
    """Writes LLMInferenceServices."""

    name: str = "kserve"
    capabilities: Capabilities = ENGINE.capabilities

    def export(self, plan: Plan, options: ExportOptions) -> tuple[ExportedFile, ...]:
        """Return a manifest per model and a README.

        Raises
        ------
        InputError
            If the plan has nothing to launch, contradicts itself or breaks a rule of vLLM.
        UnsupportedError
            If KServe or vLLM cannot run a decision of the plan.
        """
        ENGINE.check_plan(self.name, plan)
        found = workloads(plan, stage_major=False)
        models = sorted({w.pool.model for w in found})
        files: list[ExportedFile] = []
        names: list[str] = []
        for model in models:
            mine = [w for w in found if w.pool.model == model]
            names.append(slug(mine[0].app if len(models) == 1 else model.rpartition("/")[2], names))
            files.append(dump(f"{names[-1]}.yaml", [_service(plan, names[-1], mine, options)]))
        files.append(ExportedFile(path="README.md", text=_readme(names, found)))
        check_files(files)
        return tuple(sorted(files, key=lambda f: f.path))


def _service(plan: Plan, name: str, found: Sequence[Workload], options: ExportOptions) -> Object:
    by_role = {w.pool.role: w for w in found}
    if len(by_role) < len(found):
        raise UnsupportedError(
            "KServe serves a model from equal replicas",
            key="pools.name",
            value=", ".join(w.name for w in found),
            hint="Plan with one shape per role, or export to kubernetes.",
        )
    main = by_role.get("decode", by_role.get("aggregated"))
    if main is None:
        raise UnsupportedError("a model needs a pool that answers", key="pools.role", value=list(by_role))
    model = found[0].pool.model
    path = options.model_path(model)
    spec: Object = {
        "model": {"uri": path if path.startswith(_SCHEMES) else f"hf://{path}", "name": model},
        **_workload(plan, main, options),
        "router": {"gateway": {}, "route": {}, "scheduler": {}},
    }
    if "prefill" in by_role:
        spec["prefill"] = _workload(plan, by_role["prefill"], options)
    labels = {"app.kubernetes.io/part-of": found[0].app}
    return {
        "apiVersion": _API,
        "kind": "LLMInferenceService",
        "metadata": metadata(name, labels, options),
        "spec": spec,
    }


def _workload(plan: Plan, workload: Workload, options: ExportOptions) -> Object:
    strategy, nodes = workload.pool.strategy, workload.num_processes
    degrees: Object = {"tensor": strategy.tp}
    if nodes > 1 and strategy.pp > 1:
        if workload.servers[0].data_parallel > 1:
            raise UnsupportedError(
                "KServe runs a server over several nodes by stages or by data parallelism, not by both",
                key=f"pools.{workload.pool.name}.strategy.pp",
                value=strategy.pp,
                allowed="1",
            )
        degrees["pipeline"] = strategy.pp
    elif workload.servers[0].data_parallel > 1:
        local = local_devices(workload.pool, nodes) // (strategy.tp * strategy.pp * strategy.cp)
        if local < 1:
            raise UnsupportedError(
                "KServe keeps a data-parallel rank on one node",
                key=f"pools.{workload.pool.name}.strategy.attention_dp",
                value=strategy.attention_dp,
            )
        degrees |= {"data": strategy.attention_dp, "dataLocal": local}
    elif nodes > 1:
        raise UnsupportedError(
            "KServe spreads a server over nodes only by pipeline stages or data parallelism",
            key=f"pools.{workload.pool.name}.strategy.tp",
            value=strategy.tp,
        )
    if strategy.ep > 1:
        degrees["expert"] = True
    found: Object = {
        "replicas": len(workload.servers),
        "parallelism": degrees,
        "template": _pod(plan, workload, options),
    }
    if nodes > 1:
        found["worker"] = _pod(plan, workload, options)
    return found


def _pod(plan: Plan, workload: Workload, options: ExportOptions) -> Object:
    limits = workload.gpu_limits
    environment: list[Object] = [{"name": _VARIABLE, "value": _additional(plan, workload, options)}]
    partition = ENGINE.environment(plan, workload.pool, 0, Reference(name="POD_IP"))
    environment += [
        {"name": name, "value": value} for name, value in partition.items() if isinstance(value, str)
    ]
    container: Object = {
        "name": "main",
        "env": environment,
        "resources": {"limits": limits, "requests": dict(limits)},
    }
    if options.image is not None:
        container["image"] = options.image
    spec: Object = {"containers": [container]}
    if options.pin_nodes:
        spec["affinity"] = node_affinity(workload, options)
    return spec


def _additional(plan: Plan, workload: Workload, options: ExportOptions) -> str:
    """Return the arguments that the presets do not set themselves, quoted for their shell."""
    found: dict[str, Argument] = {
        flag: value
        for flag, value in ENGINE.pool_arguments(plan, workload.pool, options).items()
        if flag not in _PRESETS_OWN
    }
    return shlex.join([str(word) for word in command_words(found)]).replace("$(", "$$(")


def _readme(names: Sequence[str], found: Sequence[Workload]) -> str:
    lines = [
        "# KServe",
        "",
        f"For KServe {KSERVE_VERSION} with LLMInferenceService. Apply with `kubectl apply -f .`.",
        "",
        *(f"- `{name}.yaml`" for name in names),
        "",
        "The presets of KServe choose image, probes and certificates; --image overrides the image.",
    ]
    if any(w.num_processes > 1 for w in found):
        lines.append("Servers over several nodes need the LeaderWorkerSet controller.")
    return "\n".join(lines) + "\n"


def check_files(files: Sequence[ExportedFile]) -> None:
    """Read the services back and hold them against the rules of KServe's webhook and of vLLM.

    Raises
    ------
    InputError
        Naming the file and what breaks a rule.
    """
    import yaml

    for file in files:
        if file.path.endswith(".yaml"):
            spec = cast("Object", yaml.safe_load(file.text)["spec"])
            for part in (spec, *([spec["prefill"]] if "prefill" in spec else [])):
                _check_part(file.path, cast("Object", part))


def _check_part(path: str, part: Object) -> None:
    degrees = cast("dict[str, int]", part["parallelism"])
    if ("data" in degrees) != ("dataLocal" in degrees) or {"data", "pipeline"} <= degrees.keys():
        raise InputError("data goes with dataLocal and without pipeline", file=path, key="parallelism")
    if "worker" in part and not degrees.keys() & {"data", "pipeline"}:
        raise InputError("a worker needs data or pipeline parallelism", file=path, key="parallelism")
    if min(degrees.values()) < 1:
        raise InputError("degrees are 1 or more", file=path, key="parallelism", value=degrees)
    (container,) = cast("list[Object]", part["template"]["containers"])
    (devices,) = (int(n) for n in cast("dict[str, str]", container["resources"]["limits"]).values())
    environment = {e["name"]: str(e["value"]) for e in cast("list[Object]", container["env"])}
    words = shlex.split(environment.pop(_VARIABLE).replace("$$(", "$("))
    arguments = parse_words(words, ENGINE.flags)
    arguments.pop("kv-transfer-config", None)
    if "data" in degrees:
        arguments["data-parallel-size"] = degrees["data"]
    world = degrees["tensor"] * degrees.get("data", 1) * int(str(arguments.get("pipeline-parallel-size", 1)))
    world *= int(str(arguments.get("prefill-context-parallel-size", 1)))
    nodes = world // devices if "worker" in part else 1
    if nodes > 1:
        arguments |= {"nnodes": nodes, "master-addr": ""}
    ENGINE.check_launch(Launch(file=path, arguments=arguments, environment=environment, num_devices=devices))


BACKEND = KserveBackend()
