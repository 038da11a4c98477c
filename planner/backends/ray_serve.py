"""Ray Serve LLM: a Serve configuration with one application per model, vLLM underneath.

Written for Ray 2.60: ``LLMConfig`` and the builders of ``ray.serve.llm``. Ray places the workers of a
replica itself, one bundle per device; what a plan says of nodes is left to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from planner.backends._launch import Launch, Reference
from planner.backends._layout import replica_size, slug
from planner.backends._pods import Object
from planner.backends._protocol import Capabilities, ExportedFile, ExportOptions
from planner.backends._vllm_arguments import refuse_pushing
from planner.backends._vllm_engine import ENGINE
from planner.errors import InputError, UnsupportedError
from planner.plan.schema import Plan, Pool

RAY_VERSION = "2.60.0"

_CAPABILITIES = replace(
    ENGINE.capabilities,
    degrees=ENGINE.capabilities.degrees - {"attention_dp", "cp"},
    refused_degrees={
        **ENGINE.capabilities.refused_degrees,
        "attention_dp": "its data-parallel builder fixes the number of ranks per replica itself",
        "cp": "its placement groups hold one bundle per tensor rank and stage",
    },
)

# Names of ray.util.accelerators (Ray 2.60) by the first word of ours.
_ACCELERATORS = {
    "a100": "A100",
    "a10g": "A10G",
    "b200": "B200",
    "b300": "B300",
    "gb200": "GB200",
    "gb300": "GB300",
    "h100": "H100",
    "h20": "H20",
    "h200": "H200",
    "l4": "L4",
    "l40s": "L40S",
    "mi250x": "AMD-Instinct-MI250X",
    "mi300x": "AMD-Instinct-MI300X-OAM",
    "mi325x": "AMD-Instinct-MI325X-OAM",
    "mi350x": "AMD-Instinct-MI350X-OAM",
    "mi355x": "AMD-Instinct-MI355X-OAM",
    "t4": "T4",
    "v100": "V100",
}

_CONFIG_KEYS = frozenset(
    {
        "model_loading_config",
        "accelerator_type",
        "engine_kwargs",
        "placement_group_config",
        "deployment_config",
        "runtime_env",
    }
)
_RAYS_OWN = ("model", "served-model-name")


@dataclass(frozen=True, slots=True, kw_only=True)
class RayServeBackend:
    """Writes a configuration for ``serve deploy``."""

    name: str = "ray-serve"
    capabilities: Capabilities = _CAPABILITIES

    def export(self, plan: Plan, options: ExportOptions) -> tuple[ExportedFile, ...]:
        """Return serve.yaml and a README.

        Raises
        ------
        InputError
            If the plan has nothing to launch, contradicts itself or breaks a rule of vLLM.
        UnsupportedError
            If Ray or vLLM cannot run a decision of the plan.
        """
        self.capabilities.check(self.name, plan)
        ENGINE.check_plan(self.name, plan)
        refuse_pushing(self.name, plan)
        import yaml

        models = sorted({pool.model for pool in plan.pools})
        names: list[str] = []
        applications: list[Object] = []
        for model in models:
            pools = [pool for pool in plan.pools if pool.model == model]
            names.append(slug(model.rpartition("/")[2], names))
            prefix = "/" if len(models) == 1 else f"/{names[-1]}"
            applications.append(_application(plan, names[-1], prefix, pools, options))
        text = yaml.safe_dump({"applications": applications}, sort_keys=False, width=110)
        files = (
            ExportedFile(path="README.md", text=_readme(plan)),
            ExportedFile(path="serve.yaml", text=text),
        )
        check_files(plan, files)
        return files


def _application(plan: Plan, name: str, prefix: str, pools: Sequence[Pool], options: ExportOptions) -> Object:
    by_role = {pool.role: pool for pool in pools}
    if len(by_role) < len(pools):
        raise UnsupportedError(
            "Ray Serve LLM serves a model from equal replicas",
            key="pools.name",
            value=", ".join(pool.name for pool in pools),
            hint="Plan with one shape per role, or export to kubernetes.",
        )
    if "aggregated" in by_role:
        builder = "build_openai_app"
        arguments: Object = {"llm_configs": [_llm_config(plan, by_role["aggregated"], options)]}
    else:
        builder = "build_pd_openai_app"
        arguments = {
            f"{role}_config": _llm_config(plan, by_role[role], options) for role in ("prefill", "decode")
        }
    return {
        "name": name,
        "route_prefix": prefix,
        "import_path": f"ray.serve.llm:{builder}",
        "args": arguments,
    }


def _llm_config(plan: Plan, pool: Pool, options: ExportOptions) -> Object:
    arguments = ENGINE.pool_arguments(plan, pool, options)
    engine = {flag.replace("-", "_"): v for flag, v in arguments.items() if flag not in _RAYS_OWN}
    accelerator = accelerator_type(pool.device)
    bundle: dict[str, float] = {"GPU": 1}
    if accelerator is not None:
        bundle[f"accelerator_type:{accelerator}"] = 0.001
    found: Object = {
        "model_loading_config": {"model_id": pool.model, "model_source": options.model_path(pool.model)},
        "engine_kwargs": engine,
        "placement_group_config": {
            "bundles": [dict(bundle) for _ in range(replica_size(pool.strategy))],
            "strategy": "PACK",
        },
        "deployment_config": {"num_replicas": pool.replicas},
    }
    if accelerator is not None:
        found["accelerator_type"] = accelerator
    partition = {
        name: value
        for name, value in ENGINE.environment(plan, pool, 0, Reference(name="POD_IP")).items()
        if name.endswith("LAYER_PARTITION")
    }
    if partition:
        found["runtime_env"] = {"env_vars": partition}
    return found


def accelerator_type(device: str) -> str | None:
    """Return Ray's name for a device, None where it has none: then bundles ask for any GPU."""
    base = device.lower().split("_")[0].split("-")[0]
    return _ACCELERATORS.get(base)


def _readme(plan: Plan) -> str:
    lines = [
        "# Ray Serve LLM",
        "",
        f'For Ray {RAY_VERSION} and later (`pip install "ray[serve,llm]"`). On a running Ray cluster:',
        "",
        "    serve deploy serve.yaml",
        "",
        "On Kubernetes, put the text of serve.yaml into `serveConfigV2` of a RayService.",
        "Ray chooses the nodes: bundles are packed, and the placement of the plan is not pinned.",
        "",
        *(f"- {text}" for text in ENGINE.cautions(plan)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def check_files(plan: Plan, files: Sequence[ExportedFile]) -> None:
    """Read the configuration back and hold it against the rules of Ray and of vLLM.

    Ray does not look into `deployment_config`, so its keys are checked here.

    Raises
    ------
    InputError
        Naming the file and what breaks a rule.
    """
    import yaml

    (text,) = [file.text for file in files if file.path == "serve.yaml"]
    applications = cast("list[Object]", yaml.safe_load(text)["applications"])
    devices = 0
    for application in applications:
        arguments = cast("Object", application["args"])
        configs = arguments.get("llm_configs") or list(arguments.values())
        for config in cast("list[Object]", configs):
            devices += _check_config(config)
    placed = sum(len(replica.devices) for replica in plan.placement)
    if devices != placed:
        raise InputError(f"the bundles ask for {devices} devices, the plan for {placed}", file="serve.yaml")


def _check_config(config: Object) -> int:
    """Check one LLMConfig and return the devices of all its replicas."""
    path = "serve.yaml"
    if not config.keys() <= _CONFIG_KEYS:
        raise InputError("LLMConfig has no such key", file=path, key=str(config.keys() - _CONFIG_KEYS))
    if config["deployment_config"].keys() != {"num_replicas"}:
        raise InputError("unknown deployment option", file=path, key="deployment_config")
    bundles = cast("list[Object]", config["placement_group_config"]["bundles"])
    arguments = {
        name.replace("_", "-"): value for name, value in cast("Object", config["engine_kwargs"]).items()
    }
    arguments.pop("kv-transfer-config", None)
    environment = cast("dict[str, str]", config.get("runtime_env", {}).get("env_vars", {}))
    ENGINE.check_launch(
        Launch(file=path, arguments=arguments, environment=environment, num_devices=len(bundles))
    )
    return len(bundles) * cast("int", config["deployment_config"]["num_replicas"])


BACKEND = RayServeBackend()
