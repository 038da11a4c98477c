"""Pods that run an engine: workloads of a plan, containers, probes, node affinity.

Kubernetes fills ``$(NAME)`` into arguments, so a literal one is doubled. LeaderWorkerSet injects
LWS_LEADER_ADDRESS and LWS_WORKER_INDEX into every pod of a group.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from planner.backends._engine import Endpoint, Engine
from planner.backends._launch import Launch, Reference, command_words, parse_words
from planner.backends._layout import Server, local_devices, pool_slugs, servers, slug
from planner.backends._protocol import ExportedFile, ExportOptions
from planner.errors import InputError
from planner.plan.schema import Plan, Pool

Object = dict[str, Any]

LEADER_PORT = 8000
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_GPU_RESOURCES = (("mi", "amd.com/gpu"), ("gaudi", "habana.ai/gaudi"))
_DEFAULT_GPU_RESOURCE = "nvidia.com/gpu"
_POD_ADDRESS = Reference(name="POD_IP")
_LEADER = Reference(name="LWS_LEADER_ADDRESS")
_RANK = Reference(name="LWS_WORKER_INDEX")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Servers of one pool with equally many processes: one Kubernetes object."""

    name: str
    app: str
    pool: Pool
    servers: tuple[Server, ...]

    @property
    def num_processes(self) -> int:
        """Processes, and so pods, of each server."""
        return len(self.servers[0].processes)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the object and of its pods."""
        return {"app.kubernetes.io/part-of": self.app, "app.kubernetes.io/name": self.name}

    @property
    def nodes(self) -> list[str]:
        """Nodes of the plan that its servers stand on."""
        return sorted({p.node for server in self.servers for p in server.processes})

    @property
    def gpu_limits(self) -> dict[str, str]:
        """Devices of each pod, under the name of their vendor's device plugin."""
        return {gpu_resource(self.pool.device): str(local_devices(self.pool, self.num_processes))}


def workloads(plan: Plan, *, stage_major: bool) -> list[Workload]:
    """Return the workloads of a plan, pool by pool, small servers first."""
    app = slug(plan.name)[:18].rstrip("-")
    slugs = pool_slugs(plan)
    found: list[Workload] = []
    for pool in plan.pools:
        by_size: dict[int, list[Server]] = {}
        for server in servers(plan, pool, stage_major=stage_major):
            by_size.setdefault(len(server.processes), []).append(server)
        for size, group in sorted(by_size.items()):
            suffix = "" if len(by_size) == 1 else f"-x{size}"
            name = f"{app}-{slugs[pool.name][:32].rstrip('-')}{suffix}"
            taken = [w.name for w in found]
            found.append(Workload(name=slug(name, taken), app=app, pool=pool, servers=tuple(group)))
    return found


def gpu_resource(device: str) -> str:
    """Return the name under which the device plugin of the vendor offers `device`."""
    lowered = device.lower()
    return next((r for prefix, r in _GPU_RESOURCES if lowered.startswith(prefix)), _DEFAULT_GPU_RESOURCE)


def dump(path: str, objects: list[Object]) -> ExportedFile:
    """Return Kubernetes objects as one YAML file."""
    import yaml

    return ExportedFile(path=path, text=yaml.safe_dump_all(objects, sort_keys=False, width=110))


def metadata(name: str, labels: Mapping[str, str], options: ExportOptions) -> Object:
    """Return the metadata of an object."""
    found: Object = {"name": name, "labels": dict(labels)}
    if options.namespace is not None:
        found["namespace"] = options.namespace
    return found


def pod_word(word: str | Reference) -> str:
    """Return a word as Kubernetes wants it in an argument."""
    if isinstance(word, Reference):
        return f"$({word.name}){word.suffix}"
    return word.replace("$(", "$$(")


def environment_entries(values: Mapping[str, str | Reference]) -> list[Object]:
    """Return an environment as containers list it; a reference is the address of the pod itself.

    The token for gated models comes from the secret hf-token where there is one.
    """
    found: list[Object] = []
    for name, value in values.items():
        if isinstance(value, Reference):
            found.append({"name": name, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
        else:
            found.append({"name": name, "value": value})
    secret = {"name": "hf-token", "key": "token", "optional": True}
    found.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": secret}})
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PodMaker:
    """Makes the pods that run `engine` for a plan."""

    engine: Engine
    plan: Plan
    options: ExportOptions

    def workloads(self) -> list[Workload]:
        """Return the workloads of the plan in the engine's order of ranks."""
        return workloads(self.plan, stage_major=self.engine.stage_major)

    def arguments(self, workload: Workload, *, leads: bool = True, port: int = LEADER_PORT) -> list[str]:
        """Return the words after the engine's command, for the first pod of a server or for the others."""
        server = workload.servers[0]
        found = self.engine.pool_arguments(self.plan, workload.pool, self.options)
        found |= self.engine.server_arguments(server, 0, _LEADER)
        found |= self.engine.process_arguments(server, 0 if leads else _RANK, port)
        return [pod_word(word) for word in command_words(found, bare=self.engine.bare)]

    def environment(self, pool: Pool) -> list[Object]:
        """Return the environment of a container, the optional token for gated models included."""
        return environment_entries(self.engine.environment(self.plan, pool, 0, _POD_ADDRESS))

    def container(self, workload: Workload, name: str, words: list[str], *, port: int | None) -> Object:
        """Return a container that runs the engine with the arguments `words`, listening at `port`."""
        limits = workload.gpu_limits
        found: Object = {
            "name": name,
            "image": self.options.image or self.engine.image,
            "command": list(self.engine.command),
            "args": words,
            "env": self.environment(workload.pool),
            "resources": {"limits": limits, "requests": dict(limits)},
            "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
        }
        if workload.num_processes > 1 or workload.pool.role in ("prefill", "decode"):
            found["securityContext"] = {"capabilities": {"add": ["IPC_LOCK"]}}
        if port is not None:
            found["ports"] = [{"name": "http", "containerPort": port}]
            found |= _probes()
        return found

    def pod_spec(self, workload: Workload, container: Object) -> Object:
        """Return the specification of a pod with the one container."""
        spec: Object = {
            "enableServiceLinks": False,
            "containers": [container],
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
        }
        if self.options.pin_nodes:
            spec["affinity"] = node_affinity(workload, self.options)
        return spec

    def pod(self, workload: Workload, *, leads: bool = True) -> Object:
        """Return the pod template of the first process of a server, or of the others."""
        words = self.arguments(workload, leads=leads)
        port = LEADER_PORT if leads else None
        container = self.container(workload, self.engine.name, words, port=port)
        meta: Object = {"labels": dict(workload.labels)}
        if self.engine.first_transfer_port is not None and workload.pool.role == "prefill":
            meta["annotations"] = {"sglang.ai/bootstrap-port": str(self.engine.first_transfer_port)}
        return {"metadata": meta, "spec": self.pod_spec(workload, container)}

    def endpoints(self, found: Sequence[Workload]) -> list[Endpoint]:
        """Return how a router reaches the services of workloads."""
        port, first = self.options.base_port, self.engine.first_transfer_port
        return [
            Endpoint(
                role=w.pool.role,
                url=f"http://{w.name}:{port}",
                transfer_port=first if w.pool.role == "prefill" else None,
            )
            for w in found
        ]

    def check_container(self, path: str, container: Object, num_pods: int) -> None:
        """Read a container back and hold its launch against the rules of the engine.

        Raises
        ------
        InputError
            Naming the file and what breaks a rule.
        """
        words = cast("list[str]", container["args"])
        arguments = parse_words(
            ["" if re.match(r"\$\(\w+\)", w) else w.replace("$$(", "$(") for w in words], self.engine.flags
        )
        if int(cast("Any", arguments.get("nnodes", 1))) != num_pods:
            raise InputError("the pods of a server must be its processes", file=path, key="nnodes")
        (devices,) = cast("dict[str, str]", container["resources"]["limits"]).values()
        environment = {e["name"]: str(e.get("value", "")) for e in cast("list[Object]", container["env"])}
        environment.pop("HF_TOKEN")
        self.engine.check_launch(
            Launch(file=path, arguments=arguments, environment=environment, num_devices=int(devices))
        )


def leader_worker_set(maker: PodMaker, workload: Workload) -> Object:
    """Return the LeaderWorkerSet whose groups are the servers of a workload."""
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": metadata(workload.name, workload.labels, maker.options),
        "spec": {
            "replicas": len(workload.servers),
            "startupPolicy": "LeaderCreated",
            "leaderWorkerTemplate": {
                "size": workload.num_processes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": maker.pod(workload),
                "workerTemplate": maker.pod(workload, leads=False),
            },
        },
    }


def _probes() -> Object:
    """Return probes: up to an hour to load the weights, then one failed minute restarts the pod."""
    health = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 5}
    return {
        "startupProbe": {**health, "failureThreshold": 360},
        "readinessProbe": {**health, "failureThreshold": 1},
        "livenessProbe": {**health, "failureThreshold": 6},
    }


def node_affinity(workload: Workload, options: ExportOptions) -> Object:
    """Return the affinity that ties the pods of a workload to the nodes of the placement.

    Raises
    ------
    InputError
        If the name of a node cannot be the value of a label.
    """
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
