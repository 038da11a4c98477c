"""llm-d: prefill and decode as one DisaggregatedSet, whole servers as Deployments, behind an endpoint picker.

Written for the guides of llm-d of 2026: ``disaggregatedset.x-k8s.io/v1`` whose roles hold the
specification of a LeaderWorkerSet, a routing proxy beside each decode engine, an EndpointPickerConfig of
``llm-d.ai/v1alpha1`` and an InferencePool of ``inference.networking.k8s.io/v1``. vLLM underneath.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from planner.backends._layout import slug
from planner.backends._pods import LEADER_PORT, Object, PodMaker, Workload, dump, leader_worker_set, metadata
from planner.backends._protocol import Capabilities, ExportedFile, ExportOptions
from planner.backends._vllm_engine import ENGINE
from planner.errors import InputError, UnsupportedError
from planner.plan.schema import Plan

_PROXIED_PORT = 8200
_PROXY_IMAGE = "ghcr.io/llm-d/llm-d-routing-sidecar:latest"
_NON_CACHED_TOKENS = 16
"""A prompt with fewer tokens outside the prefix cache is prefilled where it is decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmdBackend:
    """Writes workers, an endpoint picker's configuration and a pool per model."""

    name: str = "llmd"
    capabilities: Capabilities = ENGINE.capabilities

    def export(self, plan: Plan, options: ExportOptions) -> tuple[ExportedFile, ...]:
        """Return three files per model and a README.

        Raises
        ------
        InputError
            If the plan has nothing to launch, contradicts itself or breaks a rule of vLLM.
        UnsupportedError
            If llm-d or vLLM cannot run a decision of the plan.
        """
        ENGINE.check_plan(self.name, plan)
        maker = PodMaker(engine=ENGINE, plan=plan, options=options)
        found = maker.workloads()
        models = sorted({w.pool.model for w in found})
        files: list[ExportedFile] = []
        names: list[str] = []
        for model in models:
            mine = [w for w in found if w.pool.model == model]
            names.append(slug(mine[0].app if len(models) == 1 else model.rpartition("/")[2], names))
            files += _model_files(maker, names[-1], mine)
        files.append(ExportedFile(path="README.md", text=_readme(names, found)))
        check_files(maker, files)
        return tuple(sorted(files, key=lambda f: f.path))


def _model_files(maker: PodMaker, name: str, found: Sequence[Workload]) -> list[ExportedFile]:
    if found[0].pool.role == "aggregated":
        workers = [_set(maker, name, workload) for workload in found]
        picker = _picker(paired=False)
    else:
        workers = [_disaggregated(maker, name, found)]
        picker = _picker(paired=True)
    return [
        dump(f"{name}-workers.yaml", workers),
        dump(f"{name}-endpoint-picker.yaml", [picker]),
        dump(f"{name}-pool.yaml", [_inference_pool(maker.options, name)]),
    ]


def _labels(name: str, workload: Workload) -> dict[str, str]:
    role = {} if workload.pool.role == "aggregated" else {"llm-d.ai/role": workload.pool.role}
    return {
        **workload.labels,
        "llm-d.ai/inference-serving": "true",
        "llm-d.ai/model": name,
        "llm-d.ai/engine-type": "vllm",
        **role,
    }


def _set(maker: PodMaker, name: str, workload: Workload) -> Object:
    found = leader_worker_set(maker, workload)
    template = found["spec"]["leaderWorkerTemplate"]
    if workload.num_processes == 1:
        template["workerTemplate"] = template.pop("leaderTemplate")
    for pod in ("leaderTemplate", "workerTemplate"):
        if pod in template:
            template[pod]["metadata"]["labels"] = _labels(name, workload)
    return found


def _disaggregated(maker: PodMaker, name: str, found: Sequence[Workload]) -> Object:
    roles: list[Object] = []
    for role in ("prefill", "decode"):
        mine = [w for w in found if w.pool.role == role]
        if len(mine) > 1:
            raise UnsupportedError(
                "a role of a DisaggregatedSet has equal servers",
                key="pools.role",
                value=", ".join(w.name for w in mine),
                hint="Plan with one shape per role, or export to kubernetes.",
            )
        spec = _set(maker, name, mine[0])["spec"]
        if role == "decode":
            template = spec["leaderWorkerTemplate"]
            _put_proxy(
                maker, mine[0], template["leaderTemplate" if mine[0].num_processes > 1 else "workerTemplate"]
            )
        roles.append({"name": role, "spec": spec})
    return {
        "apiVersion": "disaggregatedset.x-k8s.io/v1",
        "kind": "DisaggregatedSet",
        "metadata": metadata(name, {"app.kubernetes.io/part-of": found[0].app}, maker.options),
        "spec": {"roles": roles},
    }


def _put_proxy(maker: PodMaker, workload: Workload, pod: Object) -> None:
    """Move the decode engine behind the proxy that fetches prefilled caches."""
    words = maker.arguments(workload, port=_PROXIED_PORT)
    container = maker.container(workload, ENGINE.name, words, port=_PROXIED_PORT)
    pod["spec"] = maker.pod_spec(workload, container)
    pod["spec"]["initContainers"] = [
        {
            "name": "routing-proxy",
            "image": maker.options.router_image or _PROXY_IMAGE,
            "args": [f"--port={LEADER_PORT}", f"--vllm-port={_PROXIED_PORT}", "--kv-connector=nixlv2"],
            "ports": [{"name": "proxy", "containerPort": LEADER_PORT}],
            "restartPolicy": "Always",
        }
    ]


def _picker(*, paired: bool) -> Object:
    """Return the configuration of the endpoint picker: prefix cache first, then the shortest queue."""
    plugins: list[Object] = [
        {"type": "prefix-cache-scorer"},
        {"type": "queue-scorer"},
        {"type": "max-score-picker"},
    ]
    scored: list[Object] = [
        {"pluginRef": "prefix-cache-scorer", "weight": 2},
        {"pluginRef": "queue-scorer", "weight": 1},
        {"pluginRef": "max-score-picker"},
    ]
    profiles: list[Object] = [{"name": "default", "plugins": scored}]
    if paired:
        decider: Object = {
            "type": "prefix-based-pd-decider",
            "parameters": {"nonCachedTokens": _NON_CACHED_TOKENS},
        }
        handler: Object = {
            "type": "disagg-profile-handler",
            "parameters": {"deciderPluginName": "prefix-based-pd-decider"},
        }
        plugins += [decider, handler, {"type": "prefill-filter"}, {"type": "decode-filter"}]
        profiles = [
            {"name": role, "plugins": [{"pluginRef": f"{role}-filter"}, *scored]}
            for role in ("prefill", "decode")
        ]
    else:
        plugins.append({"type": "single-profile-handler"})
    return {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": plugins,
        "schedulingProfiles": profiles,
    }


def _inference_pool(options: ExportOptions, name: str) -> Object:
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": metadata(name, {"llm-d.ai/model": name}, options),
        "spec": {
            "selector": {"matchLabels": {"llm-d.ai/inference-serving": "true", "llm-d.ai/model": name}},
            "targetPorts": [{"number": LEADER_PORT}],
            "endpointPickerRef": {"name": f"{name}-epp", "port": {"number": 9002}, "failureMode": "FailOpen"},
        },
    }


def _readme(names: Sequence[str], found: Sequence[Workload]) -> str:
    lines = ["# llm-d", "", "Needs the LeaderWorkerSet controller and, for pairs, its DisaggregatedSet.", ""]
    for name in names:
        lines += [
            f"- `{name}-workers.yaml`: `kubectl apply` it.",
            f"- `{name}-endpoint-picker.yaml`: the configuration of the endpoint picker; hand it to",
            f"  the router's chart, released as `{name}-epp`.",
            f"- `{name}-pool.yaml`: the InferencePool that the picker serves; `kubectl apply` it.",
        ]
    lines += ["", "Gated models: `kubectl create secret generic hf-token --from-literal=token=...`."]
    if any(w.pool.role == "decode" for w in found):
        lines.append(
            f"The routing proxy is `{_PROXY_IMAGE}`; name the release that you run with --router-image."
        )
    return "\n".join(lines) + "\n"


def check_files(maker: PodMaker, files: Sequence[ExportedFile]) -> None:
    """Read the manifests back: every plugin is declared, every engine passes its rules.

    Raises
    ------
    InputError
        Naming the file and what breaks a rule.
    """
    import yaml

    for file in files:
        if not file.path.endswith(".yaml"):
            continue
        for document in cast("list[Object]", list(yaml.safe_load_all(file.text))):
            if document["kind"] == "EndpointPickerConfig":
                _check_picker(file.path, document)
            for pod, num_pods in _pods(document):
                (container,) = cast("list[Object]", pod["spec"]["containers"])
                maker.check_container(file.path, container, num_pods)


def _check_picker(path: str, document: Object) -> None:
    declared = {p.get("name", p["type"]) for p in cast("list[Object]", document["plugins"])}
    for profile in cast("list[Object]", document["schedulingProfiles"]):
        for plugin in cast("list[Object]", profile["plugins"]):
            if plugin["pluginRef"] not in declared:
                raise InputError("this plugin is not declared", file=path, value=plugin["pluginRef"])


def _pods(document: Object) -> list[tuple[Object, int]]:
    if document["kind"] == "LeaderWorkerSet":
        specs = [document["spec"]]
    elif document["kind"] == "DisaggregatedSet":
        specs = [role["spec"] for role in document["spec"]["roles"]]
    else:
        specs = []
    found: list[tuple[Object, int]] = []
    for spec in cast("list[Object]", specs):
        group = cast("Object", spec["leaderWorkerTemplate"])
        size = cast("int", group["size"])
        found += [(group[pod], size) for pod in ("leaderTemplate", "workerTemplate") if pod in group]
    return found


BACKEND = LlmdBackend()
