"""What a backend is: it turns a plan into files, and refuses by name what it cannot express."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from planner.errors import InputError, UnsupportedError
from planner.plan.schema import Plan, Pool, TrainingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """A file of the export: path relative to the export's folder, its text, its permission bits."""

    path: str
    text: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What a plan does not say and a launch needs.

    `model_paths` maps a model of the plan to the path or hub name to load (its own name if absent).
    `addresses` maps a node of the plan to its host name or address (its own name if absent).
    `pin_nodes` ties work to the nodes of the placement where the runtime leaves that open.
    Servers listen on `base_port` and the ports after it. `image` and `router_image` are container
    images; without a router image a container runtime gets no router. Where several exports share hosts,
    `first_server` servers and `first_router` routers have ports already. With `request_priorities` servers
    go by the priorities that requests bring.
    """

    model_paths: tuple[tuple[str, str], ...] = ()
    addresses: tuple[tuple[str, str], ...] = ()
    pin_nodes: bool = True
    base_port: int = 8000
    image: str | None = None
    router_image: str | None = None
    namespace: str | None = None
    first_server: int = 0
    first_router: int = 0
    request_priorities: bool = False

    def model_path(self, model: str) -> str:
        """Return what to load for a model of the plan."""
        return dict(self.model_paths).get(model, model)

    def address(self, node: str) -> str:
        """Return where a node of the plan is reached."""
        return dict(self.addresses).get(node, node)


def _no_reasons() -> dict[str, str]:
    return {}


TRAINING_DEGREES: Mapping[str, str] = dict.fromkeys(
    ("dp", "etp", "num_chunks"), "it is a degree of training jobs"
)
"""Degrees that backends of served models refuse."""
SERVING_DEGREES: Mapping[str, str] = dict.fromkeys(
    ("attention_dp", "moe_tp", "decode_cp"), "it is a degree of served models"
)
"""Degrees that backends of training jobs refuse."""

ONE_GROUP: Mapping[str, str] = {
    **dict.fromkeys(
        ("first_stage", "num_stages", "first_layer"), "its processes all run one shape on one kind of device"
    ),
    "recompute_stages": "it recomputes the same in every stage",
    "share": "its replicas all have one shape and equally many sequences",
    "outer_loop": "it reduces gradients in every step",
    "rank_tokens": "it runs sequences of one length, on context ranks that stay the same",
}
"""Settings of jobs over several node groups, which trainers refuse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Which decisions of a plan a backend can express; what is in none of the fields is refused.

    `degrees` are the fields of a strategy that it expresses (some values may still be refused),
    `refused_degrees` those that it never does, with the reason. `limits` are the engine settings it
    expresses. `weight_dtypes` and `kv_dtypes` map the plan's names of formats to the runtime's own.
    Without `engines` any will do: the plan was predicted for one of them and is launched with another.
    `settings` and `refused_settings` are the same as for degrees, for what a training job decides.
    """

    kinds: frozenset[str]
    engines: frozenset[str]
    roles: frozenset[str]
    degrees: frozenset[str]
    limits: frozenset[str]
    weight_dtypes: Mapping[str, str]
    kv_dtypes: Mapping[str, str]
    refused_degrees: Mapping[str, str] = field(default_factory=_no_reasons)
    settings: frozenset[str] = frozenset()
    refused_settings: Mapping[str, str] = field(default_factory=_no_reasons)

    def check(self, backend: str, plan: Plan) -> None:
        """Refuse the plan if it holds a decision that these capabilities lack.

        Raises
        ------
        InputError
            If the plan has nothing to launch.
        UnsupportedError
            Naming the first decision that cannot be expressed.
        """
        _require(backend, "kind", plan.kind, self.kinds)
        if plan.status == "infeasible" or not plan.pools:
            raise InputError(
                "this plan has nothing to launch",
                key="status",
                value=plan.status,
                hint="Only a plan with pools can be exported.",
            )
        for index, pool in enumerate(plan.pools):
            self._check_pool(backend, f"pools[{index}]", pool)

    def _check_pool(self, backend: str, key: str, pool: Pool) -> None:
        if self.engines:
            _require(backend, f"{key}.engine", pool.engine, self.engines)
        _require(backend, f"{key}.role", pool.role, self.roles)
        _require(backend, f"{key}.weight_dtype", pool.weight_dtype, self.weight_dtypes)
        _require(backend, f"{key}.kv_dtype", pool.kv_dtype, self.kv_dtypes)
        for name in pool.limits:
            _require(backend, f"{key}.limits", name, self.limits)
        for name, degree in pool.strategy.model_dump().items():
            if degree != 1 and name not in self.degrees:
                reason = self.refused_degrees.get(name, "this backend does not know it")
                raise UnsupportedError(
                    f"{backend} cannot express this degree: {reason}",
                    key=f"{key}.strategy.{name}",
                    value=degree,
                    allowed="1",
                )
        self._check_settings(backend, f"{key}.training", pool.training)

    def _check_settings(self, backend: str, key: str, settings: TrainingSettings | None) -> None:
        if settings is None:
            return
        for name, info in TrainingSettings.model_fields.items():
            value = getattr(settings, name)
            if name in self.settings or value == info.default:
                continue
            reason = self.refused_settings.get(name, "this backend does not know it")
            raise UnsupportedError(
                f"{backend} cannot express this: {reason}", key=f"{key}.{name}", value=value
            )


def _require(backend: str, key: str, value: str, allowed: Iterable[str]) -> None:
    names = sorted(allowed)
    if value not in names:
        raise UnsupportedError(
            f"{backend} cannot express this", key=key, value=value, allowed=", ".join(names)
        )


class Backend(Protocol):
    """An exporter for one runtime."""

    name: str
    capabilities: Capabilities

    def export(self, plan: Plan, options: ExportOptions) -> tuple[ExportedFile, ...]:
        """Return the files that launch `plan`, the same for the same plan and options.

        Raises
        ------
        InputError
            If the plan has nothing to launch or contradicts itself.
        UnsupportedError
            If the runtime cannot express a decision of the plan.
        """
        ...
