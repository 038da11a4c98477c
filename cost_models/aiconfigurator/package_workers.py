"""Whole workers estimated by ``aiconfigurator-core``: its own model classes, schedules and memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from cost_models.aiconfigurator.operations import CACHE_FORMATS, EXPERT_FORMATS, GEMM_FORMATS
from cost_models.aiconfigurator.package import MODULE, database, first_line, package_label, quiet, sdk
from cost_models.aiconfigurator.query import AiconfiguratorError, MissingDataError
from cost_models.aiconfigurator.workers import (
    DECODE_CORRECTION,
    PREFILL_CORRECTION,
    Batch,
    ModelFacts,
    Worker,
    WorkerEstimate,
    WorkerRole,
)

_GIB = 1024.0**3
_REFUSALS = (ValueError, LookupError, RuntimeError, TypeError, AssertionError, ZeroDivisionError)
"""What its model classes raise for splits that they do not support."""
_STATIC = {"prefill": ("static_ctx", PREFILL_CORRECTION), "decode": ("static_gen", DECODE_CORRECTION)}
_PHASES: dict[WorkerRole, tuple[str, ...]] = {
    "aggregated": ("context", "generation"),
    "prefill": ("context",),
    "decode": ("context", "generation"),
}
"""Phases whose exchange of tokens must be known: memory is always counted on the graph of prompts."""


@dataclass(slots=True, kw_only=True)
class _Built:
    """A model of the package with the engine class that keeps its schedules apart from other models'."""

    model: Any
    backend: Any


@dataclass(slots=True, kw_only=True)
class PackageWorkers:
    """Estimates of workers of one system and engine, kept once asked."""

    system: str
    engine: str
    _built: dict[tuple[Worker, WorkerRole], _Built | str] = field(
        default_factory=dict[tuple[Worker, WorkerRole], _Built | str]
    )
    _known: dict[tuple[Worker, WorkerRole, Batch], WorkerEstimate] = field(
        default_factory=dict[tuple[Worker, WorkerRole, Batch], WorkerEstimate]
    )

    def __post_init__(self) -> None:
        """Load the tables, so that a missing package is told at once."""
        database(self.system, self.engine)

    @property
    def label(self) -> str:
        """Package, version, system and engine in words."""
        return package_label(self.system, self.engine)

    def estimate(self, worker: Worker, role: WorkerRole, batch: Batch) -> WorkerEstimate:
        """Return the estimate of a worker at a batch (see `WorkerTimes`)."""
        key = (worker, role, batch)
        if key not in self._known:
            with quiet():
                self._known[key] = self._estimate(self._of(worker, role), role, batch)
        return self._known[key]

    def _estimate(self, built: _Built, role: WorkerRole, batch: Batch) -> WorkerEstimate:
        tables = database(self.system, self.engine)
        runtime = sdk("config").RuntimeConfig(
            batch_size=batch.size,
            isl=batch.input_tokens,
            osl=batch.output_tokens,
            prefix=batch.prefix_tokens,
        )
        try:
            if role == "aggregated":
                summary = built.backend.run_agg(built.model, tables, runtime, ctx_tokens=batch.prompt_tokens)
            else:
                mode, scale = _STATIC[role]
                summary = built.backend.run_static(
                    built.model, tables, runtime, mode, latency_correction_scale=scale
                )
        except _REFUSALS as error:
            raise MissingDataError(first_line(error)) from None
        row = summary.get_result_dict()
        parts = summary.get_memory()
        return WorkerEstimate(
            ttft_s=float(row["ttft"]) * 1e-3,
            tpot_s=float(row["tpot"]) * 1e-3,
            rate_rps=float(row["seq/s"]),
            memory=tuple((name, float(gib) * _GIB) for name, gib in parts.items() if name != "total"),
            capacity_bytes=float(tables.system_spec["gpu"]["mem_capacity"]),
            fits=not summary.check_oom() and not summary.check_kv_cache_oom(),
        )

    def _of(self, worker: Worker, role: WorkerRole) -> _Built:
        """Return the package's model of a worker; splits that it refuses are remembered with the reason."""
        key = (worker, role)
        if key not in self._built:
            try:
                self._built[key] = self._build(worker, role)
            except AiconfiguratorError:
                raise
            except _REFUSALS as error:
                self._built[key] = first_line(error)
        found = self._built[key]
        if isinstance(found, str):
            raise MissingDataError(found)
        return found

    def _build(self, worker: Worker, role: WorkerRole) -> _Built:
        name = bundled_name(worker.model, self.engine)
        tables = database(self.system, self.engine)
        config = self._config(worker, name)
        models = sdk("models")
        if role != "decode":
            models.resolve_context_fmha_by_data(config, name, tables, self.engine, is_context_role=True)
        models.resolve_dsv4_moe_arch(config, name, system_name=self.system, backend_name=self.engine)
        models.resolve_nvfp4_for_system(config, self.system, name, backend_name=self.engine)
        if worker.ep > 1:
            self._exchange(config, worker, name, role)
        model = models.get_model(name, config, self.engine)
        return _Built(model=model, backend=sdk("backends.factory").get_backend(self.engine))

    def _config(self, worker: Worker, name: str) -> Any:
        """Return the package's description of a worker; formats that the checkpoint has stay its own."""
        kinds = sdk("common")
        config = sdk("config").ModelConfig(
            tp_size=worker.tp,
            pp_size=worker.pp,
            attention_dp_size=worker.attention_dp,
            moe_tp_size=worker.moe_tp,
            moe_ep_size=worker.ep,
            num_gpus_per_node=int(
                database(self.system, self.engine).system_spec["node"]["num_gpus_per_node"]
            ),
            system=self.system,
        )
        wanted, cache_fmt = worker.model.weight_fmt, CACHE_FORMATS.get(worker.model.kv_fmt)
        if wanted not in checkpoint_formats(name, self.engine):
            sparse = worker.model.num_experts > 0
            if wanted not in (EXPERT_FORMATS if sparse else GEMM_FORMATS):
                raise MissingDataError(f"it has no tables for {wanted}")
            if wanted in GEMM_FORMATS:
                config.gemm_quant_mode = kinds.GEMMQuantMode[GEMM_FORMATS[wanted]]
            if sparse:
                config.moe_quant_mode = kinds.MoEQuantMode[EXPERT_FORMATS[wanted]]
        if cache_fmt is None:
            raise MissingDataError(f"it has no caches in {worker.model.kv_fmt}")
        config.kvcache_quant_mode = kinds.KVCacheQuantMode[cache_fmt]
        return config

    def _exchange(self, config: Any, worker: Worker, name: str, role: WorkerRole) -> None:
        """Choose the measured exchange of tokens; without one, experts may not leave the node.

        Follows the rule of AIConfigurator's own front end: an exchange counts if both phases it needs have
        rows for this model at this expert degree, and pure expert parallelism only.
        """
        across = worker.ep > config.num_gpus_per_node
        chosen: dict[str, str] = {}
        if worker.moe_tp == 1:
            chosen = self._covered_exchange(config, worker, name)
        if all(phase in chosen for phase in _PHASES[role]):
            config.moe_comm_backend = chosen
        elif across:
            raise MissingDataError(f"it has no exchange of tokens among {worker.ep} devices of this model")

    def _covered_exchange(self, config: Any, worker: Worker, name: str) -> dict[str, str]:
        """Return for each phase the first exchange with rows for this model at this expert degree."""
        blocks, helpers = sdk("models.blocks.moe"), sdk("models.helpers")
        if sdk("models").get_model_family(name) not in blocks.LARGE_EP_READY_FAMILIES:
            return {}
        if self.engine == "trtllm" and worker.attention_dp <= 1:
            return {}
        info = helpers._get_model_info(name)
        helpers._apply_model_quant_defaults(
            config, info.get("raw_config", {}), info["architecture"], self.engine, worker_name=name
        )
        shape = blocks.MoEBlockShape.from_model_info(info)
        exchange, tables = sdk("operations.moe_comm"), database(self.system, self.engine)
        num_nodes = exchange.nodes_for(worker.ep, config.num_gpus_per_node)
        chosen: dict[str, str] = {}
        for phase in ("context", "generation"):
            if worker.ep not in self._computed_degrees(shape, config.moe_quant_mode, phase):
                continue
            pairs = tables.moe_a2a_coverage(
                shape.hidden_size, shape.topk, shape.num_experts, config.moe_quant_mode, phase
            )
            for kernel, spec in exchange.MOE_A2A_BACKENDS.items():
                if (
                    self.engine in spec.frameworks
                    and phase in spec.inference_phases
                    and self._reaches(pairs.get(kernel, set()), kernel, (worker.ep, num_nodes))
                    and spec.feasible(
                        topk=shape.topk,
                        num_experts=shape.num_experts,
                        moe_tp_size=1,
                        moe_ep_size=worker.ep,
                        sm_version=int(tables.system_spec["gpu"].get("sm_version") or 0) or None,
                    )
                ):
                    chosen[phase] = kernel
                    break
        return chosen

    def _computed_degrees(self, shape: Any, quant_mode: Any, phase: str) -> set[int]:
        """Return the expert degrees at which experts themselves were measured for this model."""
        tables = database(self.system, self.engine)
        of_model = (shape.hidden_size, shape.moe_inter_size, shape.topk, shape.num_experts, quant_mode)
        found = set(cast("set[int]", tables.moe_expert_compute_coverage(*of_model, phase)))
        if self.engine in ("vllm", "trtllm"):
            found |= set(cast("set[int]", tables.legacy_moe_compute_coverage(*of_model)))
        return found

    def _reaches(self, pairs: set[tuple[int, int]], kernel: str, scale: tuple[int, int]) -> bool:
        """Return whether an exchange has rows at (expert degree, nodes), or one-node rows that stand in."""
        if scale in pairs:
            return True
        if "deepep" not in kernel or "v2" in kernel or scale[1] <= 1:
            return False
        node = int(database(self.system, self.engine).system_spec["node"]["num_gpus_per_node"])
        return ((8 if self.engine == "sglang" else node), 1) in pairs


@cache
def checkpoint_formats(name: str, engine: str) -> frozenset[str]:
    """Return this project's names of the formats in which a bundled model's weights are stored."""
    with quiet():
        config = sdk("config").ModelConfig(moe_tp_size=1, moe_ep_size=1)
        sdk("models").get_model(name, config, engine)
    found = {ours for ours, theirs in GEMM_FORMATS.items() if theirs == config.gemm_quant_mode.name}
    if config.moe_quant_mode is not None and config.moe_quant_mode.name != config.gemm_quant_mode.name:
        found = {ours for ours, theirs in EXPERT_FORMATS.items() if theirs == config.moe_quant_mode.name}
    return frozenset(found)


@cache
def bundled_name(model: ModelFacts, engine: str) -> str:
    """Return the package's name of a model: of its shape, in its format if there is one, of its name at best.

    Raises
    ------
    AiconfiguratorError
        If no bundled model has this shape.
    """
    alike = [name for name, facts in _bundled() if facts == _shape_of(model)]
    if not alike:
        raise AiconfiguratorError(
            f"AIConfigurator has no model of the shape of {model.name}",
            "Plan it with `costs: aiconfigurator`, which needs operation times only.",
        )
    named = [name for name in alike if name.lower() == model.name.lower()]
    stored = [name for name in (*named, *alike) if model.weight_fmt in _stored(name, engine)]
    return (stored or named or alike)[0]


def _stored(name: str, engine: str) -> frozenset[str]:
    try:
        return checkpoint_formats(name, engine)
    except _REFUSALS:
        return frozenset()


def _shape_of(model: ModelFacts) -> tuple[int, int, int, int]:
    return (model.num_layers, model.hidden_size, model.vocab_size, model.num_experts)


@cache
def _bundled() -> tuple[tuple[str, tuple[int, int, int, int]], ...]:
    """Return the names and shapes of the models whose configurations ship with the package."""
    sdk("common")
    return tuple(_read(Path(str(files(MODULE) / "model_configs"))))


def _read(folder: Path) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    for path in sorted(folder.glob("*_config.json")):
        if path.name.endswith("_hf_quant_config.json"):
            continue
        config = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        text = {**config, **cast("dict[str, Any]", config.get("text_config") or {})}
        experts = next(
            (text[key] for key in ("n_routed_experts", "num_local_experts", "num_experts") if text.get(key)),
            0,
        )
        numbers = [text.get(key) for key in ("num_hidden_layers", "hidden_size", "vocab_size")]
        if all(isinstance(number, int) for number in numbers):
            layers, hidden, vocab = (int(cast("int", number)) for number in numbers)
            name = path.name.removesuffix("_config.json").replace("--", "/")
            yield name, (layers, hidden, vocab, int(cast("int", experts)))
