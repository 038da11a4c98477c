"""vLLM on Kubernetes: a Deployment per pool, a LeaderWorkerSet where a server spans pods, Services.

Manifests for Kubernetes 1.27 and later (apps/v1, v1) and leaderworkerset.x-k8s.io/v1, which injects
LWS_LEADER_ADDRESS and LWS_WORKER_INDEX into every pod of a group.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from planner.backends._layout import Server, pool_slugs, servers, slug
from planner.backends._protocol import Capabilities, ExportedFile, ExportOptions
from planner.backends._vllm_arguments import (
    CAPABILITIES,
    FIRST_SIDE_CHANNEL_PORT,
    Argument,
    check_plan,
    checkpoint_format,
    command_line,
    group_arguments,
    local_devices,
    pool_arguments,
    pool_environment,
    uses_side_channel,
)
from planner.backends._vllm_flags import VLLM_VERSION
from planner.backends._vllm_rules import Launch, check_launch, parse_words
from planner.errors import InputError
from planner.plan.schema import Plan, Pool

_Object = dict[str, Any]

_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_GPU_RESOURCES = (("mi", "amd.com/gpu"), ("gaudi", "habana.ai/gaudi"))
_DEFAULT_GPU_RESOURCE = "nvidia.com/gpu"
_LEADER_PORT = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Workload:
    """Servers of one pool with equally many processes: one Kubernetes object."""

    name: str
    app: str
    pool: Pool
    servers: tuple[Server, ...]

    @property
    def num_processes(self) -> int:
        return len(self.servers[0].processes)

    @property
    def labels(self) -> dict[str, str]:
        return {"app.kubernetes.io/part-of": self.app, "app.kubernetes.io/name": self.name}

    @property
    def nodes(self) -> list[str]:
        return sorted({p.node for server in self.servers for p in server.processes})


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesBackend:
    """Writes manifests that run vLLM in pods."""

    name: str = "kubernetes"
    capabilities: Capabilities = CAPABILITIES

    def export(self, plan: Plan, options: ExportOptions) -> tuple[ExportedFile, ...]:
        """Return one manifest file per pool, one for the router where there is one, and a README.

        Raises
        ------
        InputError
            If the plan has nothing to launch, contradicts itself or breaks a rule of vLLM.
        UnsupportedError
            If vLLM cannot run a decision of the plan.
        """
        check_plan(self.name, plan)
        workloads = _workloads(plan)
        files = [_manifest(plan, workload, options) for workload in workloads]
        if options.router_image is not None and len(workloads) > 1:
            files.append(_dump("router.yaml", _router(workloads, options)))
        files.append(ExportedFile(path="README.md", text=_readme(workloads, options)))
        check_files(tuple(files))
        return tuple(sorted(files, key=lambda f: f.path))


def _workloads(plan: Plan) -> list[_Workload]:
    app = slug(plan.name)[:18].rstrip("-")
    slugs = pool_slugs(plan)
    found: list[_Workload] = []
    for pool in plan.pools:
        by_size: dict[int, list[Server]] = {}
        for server in servers(plan, pool):
            by_size.setdefault(len(server.processes), []).append(server)
        for size, group in sorted(by_size.items()):
            suffix = "" if len(by_size) == 1 else f"-x{size}"
            name = f"{app}-{slugs[pool.name][:32].rstrip('-')}{suffix}"
            taken = [w.name for w in found]
            found.append(_Workload(name=slug(name, taken), app=app, pool=pool, servers=tuple(group)))
    return found


def _dump(path: str, objects: list[_Object]) -> ExportedFile:
    import yaml

    return ExportedFile(path=path, text=yaml.safe_dump_all(objects, sort_keys=False, width=110))


def _metadata(name: str, labels: Mapping[str, str], options: ExportOptions) -> _Object:
    found: _Object = {"name": name, "labels": dict(labels)}
    if options.namespace is not None:
        found["namespace"] = options.namespace
    return found


def _manifest(plan: Plan, workload: _Workload, options: ExportOptions) -> ExportedFile:
    arguments = pool_arguments(workload.pool, options, checkpoint_format(plan))
    arguments |= group_arguments(workload.servers[0], 0)
    build = _deployment if workload.num_processes == 1 else _leader_worker_set
    service = _service(workload, options)
    return _dump(f"{workload.name}.yaml", [service, build(workload, arguments, options)])


def _service(workload: _Workload, options: ExportOptions) -> _Object:
    selector = dict(workload.labels)
    if workload.num_processes > 1:
        selector["leaderworkerset.sigs.k8s.io/worker-index"] = "0"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(workload.name, workload.labels, options),
        "spec": {
            "selector": selector,
            "ports": [{"name": "http", "port": options.base_port, "targetPort": "http"}],
        },
    }


def _deployment(workload: _Workload, arguments: Mapping[str, Argument], options: ExportOptions) -> _Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(workload.name, workload.labels, options),
        "spec": {
            "replicas": len(workload.servers),
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": dict(workload.labels)},
            "template": _pod(workload, [*command_line(arguments), *_listen()], options, listens=True),
        },
    }


def _leader_worker_set(
    workload: _Workload, arguments: Mapping[str, Argument], options: ExportOptions
) -> _Object:
    words = [*command_line(arguments), "--master-addr", _Variable("LWS_LEADER_ADDRESS")]
    leader = [*words, "--node-rank", "0", *_listen()]
    worker = [*words, "--node-rank", _Variable("LWS_WORKER_INDEX"), "--headless"]
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": _metadata(workload.name, workload.labels, options),
        "spec": {
            "replicas": len(workload.servers),
            "startupPolicy": "LeaderCreated",
            "leaderWorkerTemplate": {
                "size": workload.num_processes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": _pod(workload, leader, options, listens=True),
                "workerTemplate": _pod(workload, worker, options, listens=False),
            },
        },
    }


class _Variable(str):
    """The name of an environment variable that Kubernetes fills into an argument."""

    __slots__ = ()


def _argument(word: str) -> str:
    """Return a word as Kubernetes wants it: ``$(NAME)`` is expanded, so a literal one is doubled."""
    return f"$({word})" if isinstance(word, _Variable) else word.replace("$(", "$$(")


def _listen() -> list[str]:
    return ["--host", "0.0.0.0", "--port", str(_LEADER_PORT)]


def _pod(workload: _Workload, words: list[str], options: ExportOptions, *, listens: bool) -> _Object:
    devices = str(local_devices(workload.pool, workload.num_processes))
    resource = gpu_resource(workload.pool.device)
    container: _Object = {
        "name": "vllm",
        "image": options.image or f"vllm/vllm-openai:v{VLLM_VERSION}",
        "command": ["vllm", "serve"],
        "args": [_argument(word) for word in words],
        "env": _environment(workload.pool),
        "resources": {"limits": {resource: devices}, "requests": {resource: devices}},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    if workload.num_processes > 1 or uses_side_channel(workload.pool):
        container["securityContext"] = {"capabilities": {"add": ["IPC_LOCK"]}}
    if listens:
        container["ports"] = [{"name": "http", "containerPort": _LEADER_PORT}]
        container |= _probes()
    spec: _Object = {
        "enableServiceLinks": False,
        "containers": [container],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
    }
    if options.pin_nodes:
        spec["affinity"] = _affinity(workload, options)
    return {"metadata": {"labels": dict(workload.labels)}, "spec": spec}


def gpu_resource(device: str) -> str:
    """Return the name under which the device plugin of the vendor offers `device`."""
    lowered = device.lower()
    return next((r for prefix, r in _GPU_RESOURCES if lowered.startswith(prefix)), _DEFAULT_GPU_RESOURCE)


def _environment(pool: Pool) -> list[_Object]:
    found: list[_Object] = [{"name": k, "value": v} for k, v in sorted(pool_environment(pool).items())]
    if uses_side_channel(pool):
        by_pod = {"fieldRef": {"fieldPath": "status.podIP"}}
        found.append({"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": by_pod})
        found.append({"name": "VLLM_NIXL_SIDE_CHANNEL_PORT", "value": str(FIRST_SIDE_CHANNEL_PORT)})
    secret = {"name": "hf-token", "key": "token", "optional": True}
    found.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": secret}})
    return found


def _probes() -> _Object:
    """Return probes: up to an hour to load the weights, then one failed minute restarts the pod."""
    health = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 5}
    return {
        "startupProbe": {**health, "failureThreshold": 360},
        "readinessProbe": {**health, "failureThreshold": 1},
        "livenessProbe": {**health, "failureThreshold": 6},
    }


def _affinity(workload: _Workload, options: ExportOptions) -> _Object:
    values = [options.address(node) for node in workload.nodes]
    for value in values:
        if not _LABEL_VALUE.fullmatch(value):
            raise InputError(
                "this node name cannot be the value of a Kubernetes label",
                key="placement.devices",
                value=value,
                hint="Map it with --node NAME=HOSTNAME, or leave placement to Kubernetes with --no-pin.",
            )
    term = {
        "matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": sorted(set(values))}
        ]
    }
    required = {"nodeSelectorTerms": [term]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def _router_words(workloads: list[_Workload], options: ExportOptions) -> list[str]:
    urls = [(w.pool.role, f"http://{w.name}:{options.base_port}") for w in workloads]
    if urls[0][0] == "aggregated":
        return ["--policy", "power_of_two", "--worker-urls", *(url for _, url in urls)]
    words = ["--vllm-pd-disaggregation", "--prefill-policy", "cache_aware"]
    words += ["--decode-policy", "power_of_two"]
    return words + [word for role, url in urls for word in (f"--{role}", url)]


def _router(workloads: list[_Workload], options: ExportOptions) -> list[_Object]:
    name = slug(f"{workloads[0].app}-router", [w.name for w in workloads])
    labels = {"app.kubernetes.io/part-of": workloads[0].app, "app.kubernetes.io/name": name}
    port = options.base_port
    container: _Object = {
        "name": "router",
        "image": options.router_image,
        "command": ["vllm-router"],
        "args": [*_router_words(workloads, options), "--host", "0.0.0.0", "--port", str(port)],
        "ports": [{"name": "http", "containerPort": port}],
    }
    pod = {"metadata": {"labels": dict(labels)}, "spec": {"containers": [container]}}
    deployment: _Object = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(name, labels, options),
        "spec": {"replicas": 1, "selector": {"matchLabels": dict(labels)}, "template": pod},
    }
    service: _Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name, labels, options),
        "spec": {"selector": dict(labels), "ports": [{"name": "http", "port": port, "targetPort": "http"}]},
    }
    return [service, deployment]


def _readme(workloads: list[_Workload], options: ExportOptions) -> str:
    lines = [
        "# Manifests",
        "",
        f"For vLLM {VLLM_VERSION} and later. Apply with `kubectl apply -f .`.",
        "",
    ]
    for w in workloads:
        pods = f"{len(w.servers)} server(s) of {w.num_processes} pod(s)"
        devices = f"{local_devices(w.pool, w.num_processes)} {gpu_resource(w.pool.device)}"
        lines.append(f"- `{w.name}` ({w.pool.role}): {pods}, {devices} each.")
    lines += ["", "Gated models: `kubectl create secret generic hf-token --from-literal=token=...`."]
    if any(w.num_processes > 1 for w in workloads):
        lines.append(
            "Servers of several pods need the LeaderWorkerSet controller (https://lws.sigs.k8s.io) and, on "
            "InfiniBand, your device plugin's RDMA resource beside the GPUs."
        )
    if options.pin_nodes:
        lines.append("Pods are tied to the nodes of the plan's placement by kubernetes.io/hostname.")
    if len(workloads) > 1 and options.router_image is None:
        command = " ".join(["vllm-router", *_router_words(workloads, options)])
        lines.append(f"Put a router in front (or export again with --router-image): `{command}`")
    return "\n".join(lines) + "\n"


def check_files(files: tuple[ExportedFile, ...]) -> None:
    """Read the manifests back and hold every vLLM container against the rules.

    Raises
    ------
    InputError
        Naming the file and what breaks a rule.
    """
    import yaml

    for file in files:
        if not file.path.endswith(".yaml"):
            continue
        for document in cast("list[_Object]", list(yaml.safe_load_all(file.text))):
            for pod, num_pods in _pods(document):
                _check_pod(file.path, pod, num_pods)


def _pods(document: _Object) -> list[tuple[_Object, int]]:
    """Return the pod templates of a manifest with the pods of one server."""
    spec = cast("_Object", document["spec"])
    if document["kind"] == "Deployment":
        return [(spec["template"], 1)]
    if document["kind"] == "LeaderWorkerSet":
        group = cast("_Object", spec["leaderWorkerTemplate"])
        size = cast("int", group["size"])
        return [(group["leaderTemplate"], size), (group["workerTemplate"], size)]
    return []


def _check_pod(path: str, pod: _Object, num_pods: int) -> None:
    for container in cast("list[_Object]", pod["spec"]["containers"]):
        if container["command"] != ["vllm", "serve"]:
            continue
        words = cast("list[str]", container["args"])
        arguments = parse_words(
            ["" if re.fullmatch(r"\$\(\w+\)", w) else w.replace("$$(", "$(") for w in words]
        )
        if int(cast("Any", arguments.get("nnodes", 1))) != num_pods:
            raise InputError("the pods of a server must be its processes", file=path, key="nnodes")
        (devices,) = cast("dict[str, str]", container["resources"]["limits"]).values()
        environment = {e["name"]: str(e.get("value", "")) for e in cast("list[_Object]", container["env"])}
        environment.pop("HF_TOKEN")
        check_launch(
            Launch(file=path, arguments=arguments, environment=environment, num_devices=int(devices))
        )


BACKEND = KubernetesBackend()
