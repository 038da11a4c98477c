"""From a measured run to the fixed configuration that it was: model, devices, degrees, formats and load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np

from cost_models.formats import number_format
from planner.accuracy.devices import find_device
from planner.accuracy.kernel_work import CannotPriceError
from planner.accuracy.serving.names import engine_name, model_spellings
from planner.accuracy.serving.recipes import (
    BENCHMARK_SEQUENCES,
    drafts_tokens,
    prompt_wait_steps,
    published_requests,
    splits_attention_by_data,
)
from planner.accuracy.serving.rows import ServingRow
from planner.errors import InputError
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import Experts, Layer, Linear, ModelGraph
from planner.ir.strategy import ServingStrategy
from planner.ir.trace import RequestTrace
from planner.ir.workload import Lengths
from planner.space.evaluate import FixedReplica

LoadKind = Literal["closed", "open", "offline", "static", "disaggregated"]

_MODES: dict[str, LoadKind] = {
    "agg": "closed",
    "aggregated": "closed",
    "trace": "open",
    "open": "open",
    "offline_max": "offline",
    "offline": "offline",
    "mlperf_offline": "offline",
    "mlperf_server": "offline",
    "mlperf_interactive": "offline",
    "static_batch": "static",
    "disagg": "disaggregated",
    "disaggregated": "disaggregated",
}
_MAX_SEQUENCES = {"vllm": 1024, "trtllm": 2048, "sglang": 4096}
"""Sequences that run at once by default on large devices (engine argument references, 2026)."""
_SPREAD_POINTS = 64
_MAX_LOGGED = 1000
_MAX_DEGREE = 65536
_GOLDEN = 0.6180339887498949
_UNCLEAR = "UNCLEAR"
_FP8_CACHE_ENGINES = ("trtllm", "vllm")
_BLOCK_FP8_OWNERS = ("qwen/", "zai-org/", "zhipuai/", "minimaxai/", "deepseek-ai/", "moonshotai/")
"""Owners whose FP8 checkpoints carry a scale per block (their model cards); others scale per tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A run as we evaluate it. `load` is the concurrency, the rate or the batch over all replicas.

    `halves` is one configuration, or those of prefill and decode; `num_devices` what all of them have.
    `num_requests` is how many an offline run had, 0 where that is not known.
    `log` holds the requests of the run, where they were recorded.
    """

    row: ServingRow
    kind: LoadKind
    model_name: str
    model: ModelGraph
    engine: str
    device: str
    group: NodeGroup
    lengths: Lengths
    halves: tuple[FixedReplica, ...]
    load: float
    num_devices: int
    num_requests: int = 0
    log: RequestTrace | None = None


@dataclass(slots=True, kw_only=True)
class SetupReader:
    """Reads runs; `find_model` and `find_group` (device, devices) look up what the names mean.

    `read_log` reads the requests of a run that were recorded. All raise InputError for what they do not know.
    """

    find_model: Callable[[str], ModelGraph]
    find_group: Callable[[str, int], NodeGroup]
    read_log: Callable[[Path], RequestTrace] | None = None
    _models: dict[str, tuple[str, ModelGraph] | None] = field(
        default_factory=dict[str, tuple[str, ModelGraph] | None]
    )
    _sparse_models: dict[str, ModelGraph] = field(default_factory=dict[str, ModelGraph])
    _groups: dict[tuple[str, int], NodeGroup] = field(default_factory=dict[tuple[str, int], NodeGroup])

    def read(self, row: ServingRow) -> Setup:
        """Return what a run was.

        Raises
        ------
        CannotPriceError
            If the row does not say enough, or names what is not known; the message is the reason.
        """
        _refuse_unusable(row)
        kind = _kind(row)
        model_name, model = self._model(row.text("model"))
        device = find_device(row.text("gpu"))
        if device is None:
            raise CannotPriceError(f"no device profile is called {row.text('gpu')!r:.60}")
        engine = engine_name(row.text("framework"))
        if engine is None:
            raise CannotPriceError(f"no engine profile for {row.text('framework')!r:.60}")
        weight_fmt, kv_fmt = formats(row, model, engine)
        if weight_fmt.startswith("mxfp4") and engine == "trtllm" and "fp4" in device.peak_flops_per_s:
            weight_fmt = "mxfp4_mxfp8"
        if weight_fmt == "nvfp4" and has_experts(model):
            model = self._sparse(model_name, model)
        halves = tuple(_limited(half, engine, row) for half in _halves(row, kind, model, weight_fmt, kv_fmt))
        log = self._log(row)
        num_devices = sum(half.strategy.num_devices * half.replicas for half in halves)
        return Setup(
            row=row,
            kind=kind,
            model_name=model_name,
            model=model,
            engine=engine,
            device=device.name,
            group=self._group(device.name, max(half.strategy.num_devices for half in halves)),
            lengths=_lengths(row, log),
            halves=halves,
            load=_load(row, kind) if log is None else _log_rate_rps(log),
            num_devices=num_devices,
            num_requests=_degree(row, "num_requests", published_requests(row) if kind == "offline" else 0),
            log=log,
        )

    def _log(self, row: ServingRow) -> RequestTrace | None:
        if row.log is None:
            return None
        if self.read_log is None:
            raise CannotPriceError("logs of requests are not read here")
        log = self.read_log(row.log)
        if not (log.arrival_s and log.ttft_s and log.e2e_s):
            raise CannotPriceError("the log does not say when requests came and when their tokens did")
        return log

    def _sparse(self, name: str, model: ModelGraph) -> ModelGraph:
        if name not in self._sparse_models:
            self._sparse_models[name] = keep_attention(model)
        return self._sparse_models[name]

    def _model(self, name: str) -> tuple[str, ModelGraph]:
        if name not in self._models:
            self._models[name] = next(self._known(name), None)
        found = self._models[name]
        if found is None:
            raise CannotPriceError(f"no bundled config of the model {name!r:.80}")
        return found

    def _known(self, name: str) -> Iterator[tuple[str, ModelGraph]]:
        for spelling in model_spellings(name):
            try:
                yield spelling, self.find_model(spelling)
            except InputError:
                continue

    def _group(self, device: str, num_devices: int) -> NodeGroup:
        key = (device, num_devices)
        if key not in self._groups:
            try:
                self._groups[key] = self.find_group(device, num_devices)
            except InputError as error:
                raise CannotPriceError(f"no cluster of {num_devices} x {device}: {error}") from error
        return self._groups[key]


def formats(row: ServingRow, model: ModelGraph, engine: str) -> tuple[str, str]:
    """Return the weight and cache formats of a run; blank weights are the checkpoint's.

    TensorRT-LLM's quantised checkpoints state an FP8 cache; the other engines keep the model's type.
    """
    said = row.text("quantization").lower()
    if not said:
        return model.checkpoint_weight_fmt, "auto"
    try:
        fmt = number_format(said).name
    except ValueError:
        raise CannotPriceError(f"unknown quantisation {said!r:.40}") from None
    own = model.checkpoint_weight_fmt
    kv_fmt = "fp8" if engine in _FP8_CACHE_ENGINES and fmt in ("fp8", "nvfp4") else "auto"
    if own.startswith("mxfp4") and fmt in ("nvfp4", "fp8"):
        return own, kv_fmt
    if fmt == "fp8" and (own == "fp8_block" or _is_block(row.text("model"))):
        return "fp8_block", kv_fmt
    if (
        number_format(own).weight_bits < 16
        and number_format(own).weight_bits == number_format(fmt).weight_bits
    ):
        return own, kv_fmt
    return fmt, kv_fmt


def keep_attention(model: ModelGraph) -> ModelGraph:
    """Return the model with attention and mixers in 16 bit, as public NVFP4 checkpoints of MoE models are.

    Source: model cards of NVFP4 checkpoints of DeepSeek, Kimi and Qwen (experts and dense maps quantised).
    """
    known: dict[Layer, Layer] = {}
    for layer in model.layers:
        if layer not in known:
            ops = tuple(
                replace(op, quantised=False, fmt="")
                if isinstance(op, Linear) and op.slot in ("attention", "mixer")
                else op
                for op in layer.ops
            )
            known[layer] = replace(layer, ops=ops)
    return replace(model, layers=tuple(known[layer] for layer in model.layers))


def _is_block(name: str) -> bool:
    return name.lower().startswith(_BLOCK_FP8_OWNERS)


@lru_cache(maxsize=256)
def lengths_of(isl: float, osl: float, spread: tuple[float, float]) -> Lengths:
    """Return the lengths of requests drawn uniformly between `spread` times the nominal ones.

    The sample is a lattice, so that inputs and outputs are each even and independent of each other.
    """
    low, high = spread
    if low == high:
        return Lengths(samples=((max(1, round(isl * low)), max(1, round(osl * low)), 1.0),))
    even = (np.arange(_SPREAD_POINTS) + 0.5) / _SPREAD_POINTS
    inputs = low + (high - low) * even
    outputs = low + (high - low) * ((np.arange(_SPREAD_POINTS) * _GOLDEN) % 1.0)
    samples = tuple(
        (max(1, round(isl * a)), max(1, round(osl * b)), 1.0 / _SPREAD_POINTS)
        for a, b in zip(inputs.tolist(), outputs.tolist(), strict=True)
    )
    return Lengths(samples=samples, source="uniform")


def _refuse_unusable(row: ServingRow) -> None:
    if _UNCLEAR in row.text("note"):
        raise CannotPriceError("the note says that the layout of devices is unclear")
    if drafts_tokens(row):
        raise CannotPriceError("its recipe drafts tokens, and nobody says how many are accepted")
    if row.text("suspect"):
        raise CannotPriceError(f"marked as suspect: {row.text('suspect'):.60}")
    if row.log is None and not any(
        row.number(n) for n in ("ttft_ms", "tpot_ms", "e2e_ms", "out_tok_s_total", "out_tok_s_per_gpu")
    ):
        raise CannotPriceError("nothing was measured")


def _kind(row: ServingRow) -> LoadKind:
    mode = row.mode
    if mode in _MODES:
        return _MODES[mode]
    raise CannotPriceError(f"unknown mode {mode!r:.40}")


def _need(row: ServingRow, name: str) -> float:
    value = row.number(name)
    if not value:
        raise CannotPriceError(f"{name} is not stated")
    return value


def _limited(half: FixedReplica, engine: str, row: ServingRow) -> FixedReplica:
    """Return the configuration with the limits of the row, or the engine's own.

    A benchmark's own load is let in, unless the row states the limit.
    """
    kind = _kind(row)
    most = BENCHMARK_SEQUENCES if kind == "offline" and engine == "trtllm" else _MAX_SEQUENCES[engine]
    per_rank = ceil((row.number("concurrency") or 0.0) / (half.replicas * half.strategy.attention_dp))
    return replace(
        half,
        max_num_seqs=_degree(row, "max_num_seqs", max(most, per_rank)),
        token_budget=_degree(row, "token_budget", half.token_budget),
        prompt_wait_steps=prompt_wait_steps(row) if engine == "trtllm" else 0,
    )


def _lengths(row: ServingRow, log: RequestTrace | None) -> Lengths:
    if log is None:
        return lengths_of(_need(row, "isl"), _need(row, "osl"), row.length_spread)
    pairs = sorted(zip(log.input_tokens, log.output_tokens, strict=True))
    kept = pairs[:: -(-len(pairs) // _MAX_LOGGED)]
    return Lengths(samples=tuple((i, o, 1.0 / len(kept)) for i, o in kept), source="log")


def _log_rate_rps(log: RequestTrace) -> float:
    span = log.arrival_s[-1] - log.arrival_s[0]
    if span <= 0.0:
        raise CannotPriceError("the requests of the log all came at once")
    return (log.num_requests - 1) / span


def _degree(row: ServingRow, name: str, default: int = 1) -> int:
    """Return a degree; blank and zero both mean that it was not used or not stated."""
    value = row.number(name)
    if not value:
        return default
    if value != int(value) or value > _MAX_DEGREE:
        raise CannotPriceError(f"{name} is no degree: {value:g}")
    return int(value)


def _load(row: ServingRow, kind: LoadKind) -> float:
    if kind in ("closed", "disaggregated"):
        return _need(row, "concurrency")
    if kind == "static":
        return _need(row, "batch")
    return _need(row, "rate") if kind == "open" else 0.0


def _halves(
    row: ServingRow, kind: LoadKind, model: ModelGraph, weight_fmt: str, kv_fmt: str
) -> tuple[FixedReplica, ...]:
    if kind == "disaggregated":
        prefill = _half(row, "p", model)
        decode = _half(row, "d", model)
        return (
            FixedReplica(
                strategy=prefill[0], role="prefill", weight_fmt=weight_fmt, kv_fmt=kv_fmt, replicas=prefill[1]
            ),
            FixedReplica(
                strategy=decode[0], role="decode", weight_fmt=weight_fmt, kv_fmt=kv_fmt, replicas=decode[1]
            ),
        )
    _need(row, "tp")
    tp, ranks = _degree(row, "tp"), _degree(row, "attn_dp")
    ep = _degree(row, "ep")
    if ranks > 1 and tp == _degree(row, "n_gpus", 0):
        tp = tp // ranks or 1
    if has_experts(model) and splits_attention_by_data(row):
        tp, ranks, ep = 1, tp, tp
    strategy = _strategy(
        model,
        tp=tp,
        ranks=ranks,
        ep=ep,
        pp=_degree(row, "pp"),
    )
    copies = 1 if has_experts(model) else _degree(row, "attn_dp")
    devices = strategy.num_devices * copies
    total = _degree(row, "n_gpus", devices)
    if total % strategy.num_devices:
        raise CannotPriceError(f"{total} devices are no whole number of replicas of {strategy.num_devices}")
    return (
        FixedReplica(
            strategy=strategy,
            weight_fmt=weight_fmt,
            kv_fmt=kv_fmt,
            replicas=max(total // strategy.num_devices, copies),
            layers_per_stage=even_stages(model.num_layers, strategy.pp),
        ),
    )


def even_stages(num_layers: int, num_stages: int) -> tuple[int, ...] | None:
    """Return the layers per stage as engines split them when nobody says otherwise, None without a pipeline.

    Source: TensorRT-LLM (Mapping.pp_layers) gives what remains to the first stages; vLLM differs by a layer.
    """
    if num_stages == 1:
        return None
    least, more = divmod(num_layers, num_stages)
    return tuple(least + (stage < more) for stage in range(num_stages))


def _half(row: ServingRow, side: str, model: ModelGraph) -> tuple[ServingStrategy, int]:
    workers = _degree(row, f"{side}_workers", 0)
    if not workers:
        raise CannotPriceError("the number of prefill or decode workers is not stated")
    _need(row, f"{side}_tp")
    strategy = _strategy(
        model,
        tp=_degree(row, f"{side}_tp"),
        ranks=_degree(row, f"{side}_dp"),
        ep=_degree(row, f"{side}_ep"),
        pp=1,
    )
    return strategy, workers


def has_experts(model: ModelGraph) -> bool:
    """Return whether a model routes tokens to experts."""
    return any(isinstance(op, Experts) for layer in set(model.layers) for op in layer.ops)


def _strategy(model: ModelGraph, *, tp: int, ranks: int, ep: int, pp: int) -> ServingStrategy:
    """Return the degrees of one replica; what is not split by expert is split inside each expert."""
    if not has_experts(model):
        return ServingStrategy(tp=tp, pp=pp)
    stage = tp * ranks
    if stage % ep:
        raise CannotPriceError(f"ep {ep} does not divide the {stage} devices of a stage")
    return ServingStrategy(tp=tp, pp=pp, attention_dp=ranks, ep=ep, moe_tp=stage // ep)
