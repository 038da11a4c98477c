"""Engines on Kubernetes: a Deployment per pool, a LeaderWorkerSet where a server spans pods, Services.

Manifests for Kubernetes 1.27 and later (apps/v1, v1) and leaderworkerset.x-k8s.io/v1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from planner.backends._engine import Engine
from planner.backends._engines import ENGINES, engine_of
from planner.backends._layout import local_devices, slug
from planner.backends._pods import (
    LEADER_PORT,
    Object,
    PodMaker,
    Workload,
    dump,
    gpu_resource,
    leader_worker_set,
    metadata,
)
from planner.backends._protocol import Capabilities, ExportedFile, ExportOptions
from planner.errors import UnsupportedError
from planner.plan.schema import Plan

_CAPABILITIES = replace(ENGINES["vllm"].capabilities, engines=frozenset(ENGINES))


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesBackend:
    """Writes manifests that run an engine in pods."""

    name: str = "kubernetes"
    capabilities: Capabilities = _CAPABILITIES

    def export(self, plan: Plan, options: ExportOptions) -> tuple[ExportedFile, ...]:
        """Return one manifest file per pool, one for the router where there is one, and a README.

        Raises
        ------
        InputError
            If the plan has nothing to launch, contradicts itself or breaks a rule of its engine.
        UnsupportedError
            If the engine cannot run a decision of the plan.
        """
        engine = engine_of(self.name, plan)
        engine.check_plan(self.name, plan)
        maker = PodMaker(engine=engine, plan=plan, options=options)
        found = maker.workloads()
        files = [_manifest(maker, workload) for workload in found]
        if options.router_image is not None:
            routed = _routed(found)
            files += [dump(name, router(maker, group)) for name, group in routed]
        files.append(ExportedFile(path="README.md", text=_readme(maker, found)))
        check_files(maker, tuple(files))
        return tuple(sorted(files, key=lambda f: f.path))


def _manifest(maker: PodMaker, workload: Workload) -> ExportedFile:
    build = _deployment if workload.num_processes == 1 else leader_worker_set
    return dump(f"{workload.name}.yaml", [_service(maker, workload), build(maker, workload)])


def _service(maker: PodMaker, workload: Workload) -> Object:
    selector = dict(workload.labels)
    if workload.num_processes > 1:
        selector["leaderworkerset.sigs.k8s.io/worker-index"] = "0"
    ports: list[Object] = [{"name": "http", "port": maker.options.base_port, "targetPort": "http"}]
    transfer = maker.engine.first_transfer_port
    if transfer is not None and workload.pool.role == "prefill":
        ports.append({"name": "bootstrap", "port": transfer, "targetPort": transfer})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(workload.name, workload.labels, maker.options),
        "spec": {"selector": selector, "ports": ports},
    }


def _deployment(maker: PodMaker, workload: Workload) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(workload.name, workload.labels, maker.options),
        "spec": {
            "replicas": len(workload.servers),
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": dict(workload.labels)},
            "template": maker.pod(workload),
        },
    }


def _routed(found: list[Workload]) -> list[tuple[str, list[Workload]]]:
    """Return the workloads of each model that needs a router, with the name of the router's file."""
    models = sorted({w.pool.model for w in found})
    groups = [[w for w in found if w.pool.model == model] for model in models]
    needy = [group for group in groups if len(group) > 1]
    if len(models) == 1:
        return [("router.yaml", group) for group in needy]
    return [(f"{group[0].name}-router.yaml", group) for group in needy]


def router_command(maker: PodMaker, found: list[Workload]) -> list[str]:
    """Return the command of the router in front of the workloads of a model, without its own address.

    Where a request names the very pod that hands its cache over (SGLang), the router finds the pods
    itself: a Service would send it to another one.
    """
    engine = maker.engine
    if engine.first_transfer_port is None or found[0].pool.role == "aggregated":
        return [*engine.router, *engine.router_arguments(maker.endpoints(found))]
    words = [*engine.router, "--pd-disaggregation", "--service-discovery"]
    words += ["--service-discovery-port", str(LEADER_PORT)]
    words += ["--service-discovery-namespace", maker.options.namespace or "default"]
    for role in ("prefill", "decode"):
        names = [w.name for w in found if w.pool.role == role]
        if len(names) > 1:
            raise UnsupportedError(
                f"the router of {engine.title} finds the pods of a role by one label",
                key="pools.role",
                value=", ".join(names),
                hint="Give all servers of the pool the same number of nodes.",
            )
        words += [f"--{role}-selector", f"app.kubernetes.io/name={names[0]}"]
    return words


def router(maker: PodMaker, found: list[Workload]) -> list[Object]:
    """Return the router in front of the workloads of a model, with the rights that it needs."""
    name = slug(f"{found[0].app}-router", [w.name for w in found])
    if len({w.pool.model for w in maker.workloads()}) > 1:
        name = slug(f"{found[0].name[:32]}-router", [w.name for w in found])
    labels = {"app.kubernetes.io/part-of": found[0].app, "app.kubernetes.io/name": name}
    port = maker.options.base_port
    command = router_command(maker, found)
    discovers = "--service-discovery" in command
    container: Object = {
        "name": "router",
        "image": maker.options.router_image,
        "command": command[: len(maker.engine.router)],
        "args": [*command[len(maker.engine.router) :], "--host", "0.0.0.0", "--port", str(port)],
        "ports": [{"name": "http", "containerPort": port}],
    }
    spec: Object = {"containers": [container]}
    if discovers:
        spec = {"serviceAccountName": name, **spec}
    pod = {"metadata": {"labels": dict(labels)}, "spec": spec}
    deployment: Object = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(name, labels, maker.options),
        "spec": {"replicas": 1, "selector": {"matchLabels": dict(labels)}, "template": pod},
    }
    service: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(name, labels, maker.options),
        "spec": {"selector": dict(labels), "ports": [{"name": "http", "port": port, "targetPort": "http"}]},
    }
    rights = _pod_reader(maker, name, labels) if discovers else []
    return [service, *rights, deployment]


def _pod_reader(maker: PodMaker, name: str, labels: dict[str, str]) -> list[Object]:
    """Return an account that may read the pods of its namespace, for a router that finds them itself."""
    group = "rbac.authorization.k8s.io"
    head = metadata(name, labels, maker.options)
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": maker.options.namespace or "default"}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": head},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": dict(head), "rules": [rule]},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": dict(head),
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [subject],
        },
    ]


def workload_lines(engine: Engine, found: list[Workload]) -> list[str]:
    """Return one line of a README per workload."""
    lines: list[str] = []
    for w in found:
        pods = f"{len(w.servers)} server(s) of {w.num_processes} pod(s)"
        devices = f"{local_devices(w.pool, w.num_processes)} {gpu_resource(w.pool.device)}"
        lines.append(f"- `{w.name}` ({w.pool.role}, {engine.title}): {pods}, {devices} each.")
    return lines


def _readme(maker: PodMaker, found: list[Workload]) -> str:
    engine, options = maker.engine, maker.options
    lines = [
        "# Manifests",
        "",
        f"For {engine.title} {engine.version} and later. Apply with `kubectl apply -f .`.",
        "",
        *workload_lines(engine, found),
    ]
    lines += ["", "Gated models: `kubectl create secret generic hf-token --from-literal=token=...`."]
    if any(w.num_processes > 1 for w in found):
        lines.append(
            "Servers of several pods need the LeaderWorkerSet controller (https://lws.sigs.k8s.io) and, on "
            "InfiniBand, your device plugin's RDMA resource beside the GPUs."
        )
    if options.pin_nodes:
        lines.append("Pods are tied to the nodes of the plan's placement by kubernetes.io/hostname.")
    if options.router_image is None:
        for _, group in _routed(found):
            command = " ".join(router_command(maker, group))
            lines.append(f"Put a router in front (or export again with --router-image): `{command}`")
    lines += [f"- {text}" for text in engine.cautions(maker.plan)]
    return "\n".join(lines) + "\n"


def check_files(maker: PodMaker, files: tuple[ExportedFile, ...]) -> None:
    """Read the manifests back and hold every engine's container against its rules.

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
            for pod, num_pods in pods(document):
                for container in cast("list[Object]", pod["spec"]["containers"]):
                    if container["command"] == list(maker.engine.command):
                        maker.check_container(file.path, container, num_pods)


def pods(document: Object) -> list[tuple[Object, int]]:
    """Return the pod templates of a manifest with the pods of one server."""
    spec = cast("Object", document.get("spec", {}))
    if document["kind"] == "Deployment":
        return [(spec["template"], 1)]
    if document["kind"] == "LeaderWorkerSet":
        group = cast("Object", spec["leaderWorkerTemplate"])
        size = cast("int", group["size"])
        return [(group["leaderTemplate"], size), (group["workerTemplate"], size)]
    return []


BACKEND = KubernetesBackend()
