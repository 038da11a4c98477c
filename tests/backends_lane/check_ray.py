"""Holds every exported Serve configuration against Ray's own models, without a cluster.

Runs in the virtual environment of run.sh with Ray on the path. ``ServeDeploySchema`` checks the file,
``LLMConfig`` and its engine configuration each model, ``DeploymentSchema`` the deployment options.
Prints one line per configuration and leaves with 1 if any was rejected.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from launches import options_for
from stand_ins import stand_in_for

from planner.backends import BACKENDS
from planner.errors import UnsupportedError
from planner.plan.schema import Plan

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from tests.backends.plans import NAMES, load  # noqa: E402

NOT_NEEDED = ("grpc_reflection",)


def defects(document: dict[str, Any]) -> Iterator[str]:
    from ray.serve.llm import LLMConfig
    from ray.serve.schema import DeploymentSchema, ServeDeploySchema

    try:
        ServeDeploySchema.model_validate(document)
    except ValueError as error:
        yield f"ServeDeploySchema: {str(error)[:300]}"
    for application in document["applications"]:
        arguments = application["args"]
        for config in arguments.get("llm_configs") or arguments.values():
            try:
                LLMConfig.model_validate(config).get_engine_config()
                DeploymentSchema.model_validate({"name": "d", **config["deployment_config"]})
            except (ValueError, TypeError, AssertionError) as error:
                yield f"{type(error).__name__}: {str(error)[:300]}"


def documents(plan: Plan, folder: Path) -> Iterator[dict[str, Any]]:
    try:
        files = BACKENDS.get("ray-serve").export(plan, options_for(plan, folder))
    except UnsupportedError as refusal:
        sys.stdout.write(f"refuse ray-serve {plan.name}: {str(refusal)[:120]}\n")
        return
    yield from (yaml.safe_load(f.text) for f in files if f.path.endswith(".yaml"))


def main() -> int:
    stand_in_for(*NOT_NEEDED)
    count = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name in NAMES:
            for document in documents(load(name), Path(scratch)):
                found = list(defects(document))
                count += len(found)
                sys.stdout.write(f"{'REJECT' if found else 'ok':6} ray-serve {name}\n")
                for text in found:
                    sys.stdout.write(f"       {text}\n")
                sys.stdout.flush()
    sys.stdout.write(f"{count} defects\n")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
