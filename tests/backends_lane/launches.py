"""The launches that an export starts: words of the command, environment, devices. Shared by the checks."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from planner.backends import BACKENDS, ExportOptions
from planner.frontend.models import bundled_configs
from planner.plan.schema import Plan

UNKNOWN_AS = "llama-3.1-70b"
"""The model that stands in for a name that no bundled configuration has."""


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    words: list[str]
    environment: dict[str, str]
    num_devices: int


def options_for(plan: Plan, folder: Path) -> ExportOptions:
    """Options that point every model of a plan to a folder with its bundled config.json."""
    paths: list[tuple[str, str]] = []
    for model in sorted({pool.model for pool in plan.pools}):
        known = next((b for b in bundled_configs() if model in (b.name, *b.aliases)), None)
        config = next(b for b in bundled_configs() if b.name == UNKNOWN_AS) if known is None else known
        place = folder / "models" / config.name
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.json").write_text(json.dumps(dict(config.config)))
        paths.append((model, str(place)))
    return ExportOptions(model_paths=tuple(paths), pin_nodes=False)


def script_cases(engine: str, command: str, name: str, plan: Plan, folder: Path) -> Iterator[Case]:
    """The launches of the export to `engine` on hosts, whose scripts run `command`."""
    for file in BACKENDS.get(engine).export(plan, options_for(plan, folder)):
        path = folder / name / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)
    for script in sorted((folder / name).glob("*/server-*.sh")):
        text = script.read_text().replace("$here", str(script.parent))
        text = re.sub(r"\$\{HOST_\d+\}", "127.0.0.1", text)
        words = shlex.split(text.split(f"exec {command}", 1)[1].replace("\\\n", " "))
        pairs = re.findall(r"^export (\w+)=(.*)$", text, flags=re.MULTILINE)
        environment = {key: shlex.split(value)[0] for key, value in pairs}
        devices = len(environment.pop("CUDA_VISIBLE_DEVICES").split(","))
        label = f"{engine} {name} {script.relative_to(folder / name)}"
        yield Case(name=label, words=words, environment=environment, num_devices=devices)


def manifest_cases(name: str, plan: Plan, folder: Path) -> Iterator[Case]:
    """The launches of the export to Kubernetes."""
    for file in BACKENDS.get("kubernetes").export(plan, options_for(plan, folder)):
        if not file.path.endswith(".yaml"):
            continue
        for document in yaml.safe_load_all(file.text):
            spec = document["spec"]
            group = spec.get("leaderWorkerTemplate", {})
            pods = {k: group[k] for k in ("leaderTemplate", "workerTemplate") if k in group}
            pods |= {"template": spec["template"]} if "template" in spec else {}
            for which, pod in pods.items():
                container = pod["spec"]["containers"][0]
                words = [w.replace("$(LWS_LEADER_ADDRESS)", "127.0.0.1") for w in container["args"]]
                words = [w.replace("$(LWS_WORKER_INDEX)", "1").replace("$$(", "$(") for w in words]
                environment = {e["name"]: e["value"] for e in container["env"] if "value" in e}
                (devices,) = container["resources"]["limits"].values()
                label = f"kubernetes {name} {document['metadata']['name']} {which}"
                yield Case(name=label, words=words, environment=environment, num_devices=int(devices))
