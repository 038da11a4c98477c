"""Holds every exported manifest against the schemas of Kubernetes and the models of Dynamo.

Core objects and every pod template go through kubernetes-validate (strict), DynamoGraphDeployments through
the pydantic models of the wheel ai-dynamo. Custom resources whose definitions are files in the folder
named by NEWEL_CRDS (LeaderWorkerSet, DisaggregatedSet, LLMInferenceService, ...) are held against them.
Prints one line per document and leaves with 1 if any was rejected.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from stand_ins import stand_in_for

from planner.backends import BACKENDS, ExportOptions
from planner.errors import UnsupportedError
from planner.plan.schema import Plan

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from tests.backends.plans import NAMES, for_engine, load  # noqa: E402

ENGINES = {
    "kubernetes": ("vllm", "sglang"),
    "dynamo": ("vllm", "sglang", "trtllm"),
    "kserve": ("vllm",),
    "llmd": ("vllm",),
}
CORE_GROUPS = ("v1", "apps/v1", "rbac.authorization.k8s.io/v1")
NOT_NEEDED = (
    "sklearn",
    "aisimulate",
    "scipy",
    "aiconfigurator",
    "oauthlib",
    "kubernetes_asyncio",
    "dynamo.llm",
    "dynamo._core",
    "dynamo.runtime",
    "dynamo.prometheus_names",
    "prometheus_client",
    "msgspec",
    "kubernetes",
    "aisimulate_core",
)
OPTIONS = ExportOptions(pin_nodes=False, router_image="router:1")


def pods(found: Any) -> Iterator[dict[str, Any]]:
    """Every pod specification inside a document."""
    if isinstance(found, dict):
        if "containers" in found:
            yield found
        else:
            for value in found.values():
                yield from pods(value)
    elif isinstance(found, list):
        for value in found:
            yield from pods(value)


def definitions() -> dict[str, dict[str, Any]]:
    """Schemas of custom resources by kind, from the folder NEWEL_CRDS."""
    folder = os.environ.get("NEWEL_CRDS")
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(Path(folder).glob("*.yaml")) if folder else []:
        for crd in yaml.load_all(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if crd and crd.get("kind") == "CustomResourceDefinition":
                for version in crd["spec"]["versions"]:
                    key = f"{crd['spec']['group']}/{version['name']} {crd['spec']['names']['kind']}"
                    found[key] = closed(version["schema"]["openAPIV3Schema"])
    return found


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI schema of Kubernetes as JSON Schema: unknown keys are wrong, either-type fields are."""
    found = {k: v for k, v in schema.items() if not k.startswith("x-kubernetes") and k != "nullable"}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in schema:
        found["properties"] = {k: closed(v) for k, v in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "metadata" not in schema["properties"]:
            found["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict):
        found["additionalProperties"] = closed(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        found["items"] = closed(schema["items"])
    return found


def defects(document: dict[str, Any], schemas: dict[str, dict[str, Any]]) -> Iterator[str]:
    import jsonschema
    import kubernetes_validate

    checked = [document] if document["apiVersion"] in CORE_GROUPS else []
    for spec in pods(document):
        completed = {**spec, "containers": [{"image": "i", **c} for c in spec["containers"]]}
        checked.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": completed})
    for one in checked:
        try:
            kubernetes_validate.validate(one, "1.34", strict=True)
        except Exception as error:  # noqa: BLE001 - whatever the validator raises is the finding
            yield f"{type(error).__name__}: {str(error).splitlines()[0]}"
    key = f"{document['apiVersion']} {document['kind']}"
    if key in schemas:
        for error in jsonschema.Draft7Validator(schemas[key]).iter_errors(document):
            yield f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"
    if document["kind"] == "DynamoGraphDeployment":
        from dynamo.profiler.utils.config import Config, get_main_container

        graph = Config.model_validate(document)
        for component in graph.spec.components:
            get_main_container(component)


def documents(backend: str, plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        files = BACKENDS.get(backend).export(plan, OPTIONS)
    except UnsupportedError as refusal:
        sys.stdout.write(f"refuse {backend} {plan.name}: {str(refusal)[:120]}\n")
        return
    for file in files:
        if file.path.endswith(".yaml"):
            for document in yaml.safe_load_all(file.text):
                yield file.path, document


def main() -> int:
    stand_in_for(*NOT_NEEDED)
    schemas = definitions()
    count = 0
    for backend, engines in ENGINES.items():
        for engine in engines:
            for name in NAMES:
                plan = load(name) if engine == "vllm" else for_engine(load(name), engine)
                for path, document in documents(backend, plan):
                    found = list(defects(document, schemas))
                    count += len(found)
                    label = f"{backend} {engine} {name} {path} {document['kind']}"
                    sys.stdout.write(f"{'REJECT' if found else 'ok':6} {label}\n")
                    for text in found:
                        sys.stdout.write(f"       {text}\n")
    sys.stdout.write(f"{len(schemas)} custom resource definitions, {count} defects\n")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
