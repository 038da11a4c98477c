"""Quantised checkpoints: from the many spellings of a quantisation config to a format per weight.

Sources: the quantisation configs of transformers (fp8, fbgemm_fp8, mxfp4, awq, gptq, bitsandbytes),
compressed-tensors (config_groups), NVIDIA ModelOpt (hf_quant_config.json) and AMD Quark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.config_reader import ConfigReader
from planner.frontend.model_blocks.decoder import ModelParts
from planner.frontend.module_patterns import NO_MODULES, ModulePatterns, module_patterns, short_name
from planner.ir.model_graph import Experts, Layer, Linear, Op

_ALGORITHMS: Mapping[str, str] = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_PB_WO": "fp8_block",
    "FP8_PB_REAL": "fp8_block",
    "FP8_BLOCK": "fp8_block",
    "MXFP8": "fp8_block",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_NVFP4": "nvfp4",
    "MXFP4": "mxfp4",
    "W4A8_MXFP4_FP8": "mxfp4",
    "W4A16_AWQ": "w4a16",
    "W4A16": "w4a16",
    "W4A8_AWQ": "w4a16",
    "INT8_SQ": "int8",
    "W8A8_SQ": "int8",
    "W8A16": "int8",
}
"""ModelOpt and TensorRT-LLM names of algorithms, by the format that the weights are stored in."""

_APPROXIMATE: Mapping[str, str] = {
    "MXFP8": "fp8 with 32-element scales is treated as fp8 with 128 x 128 blocks",
    "W4A16_NVFP4": "activations stay 16 bit; the cost of nvfp4 GEMMs is assumed",
    "W4A8_AWQ": "activations are 8 bit; the cost of w4a16 GEMMs is assumed",
    "W4A8_MXFP4_FP8": "activations are 8 bit; the cost of mxfp4 GEMMs is assumed",
    "W8A16": "activations stay 16 bit; the cost of int8 GEMMs is assumed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """Formats of a checkpoint: rules in order, exceptions first.

    `modules` gives single modules, `excluded` stay in the checkpoint's dtype, `experts_fmt` applies
    to routed experts, then the first of `rules` that matches; a rule without patterns matches all.
    """

    rules: tuple[tuple[ModulePatterns | None, str], ...] = ()
    excluded: ModulePatterns = NO_MODULES
    modules: Mapping[str, str] = field(default_factory=dict[str, str])
    experts_fmt: str = ""
    kv_fmt: str = "auto"

    def fmt(self, names: tuple[str, ...], *, default: bool, experts: bool) -> str:
        """Return the format of a weight known by `names`, or "" for the checkpoint's dtype.

        `default` false keeps weights that no recipe touches (head, router) out unless named.
        """
        for name in names:
            parts = name.split(".")
            for j in range(len(parts), 0, -1):
                fmt = self.modules.get(".".join(parts[:j]))
                if fmt is not None:
                    return fmt
        if not default or any(self.excluded.matches(name) for name in names):
            return ""
        if experts and self.experts_fmt:
            return self.experts_fmt
        for patterns, fmt in self.rules:
            if patterns is None or any(patterns.matches(name) for name in names):
                return fmt
        return ""


def read_quantisation(
    config: ConfigReader, separate: ConfigReader | None, diagnostics: Diagnostics
) -> Quantisation | None:
    """Return what a checkpoint says about its formats, or None if it is not quantised.

    `separate` is the content of hf_quant_config.json where there is one.

    Raises
    ------
    InputError
        If the method or algorithm is unknown.
    """
    section = _section(config, separate)
    if section is None:
        return None
    method = section.text("quant_method", "modelopt" if section.has("quant_algo") else "").lower()
    reader = _METHODS.get(method)
    if reader is None:
        raise section.refuse(
            "quant_method", "is a quantisation method that is not known", allowed=", ".join(sorted(_METHODS))
        )
    found = replace(reader(section, diagnostics), kv_fmt=_kv_fmt(section))
    if config.text("expert_dtype", "") == "fp4" and not found.modules:
        return replace(found, experts_fmt="mxfp4")
    return found


def _section(config: ConfigReader, separate: ConfigReader | None) -> ConfigReader | None:
    for holder in (config, config.section("text_config") if config.has("text_config") else None):
        for key in ("quantization_config", "compression_config"):
            if holder is not None and holder.has(key):
                return holder.section(key)
    if separate is not None and separate.has("quantization"):
        section = separate.section("quantization")
        return section if section.has("quant_algo") else None
    return None


def _patterns(section: ConfigReader, *keys: str) -> ModulePatterns:
    entries = [entry for key in keys for entry in section.strings(key) or ()]
    return module_patterns(entries, file=section.file, key=f"{section.path}{keys[0]}")


def _uniform(fmt: str, excluded: ModulePatterns) -> Quantisation:
    return Quantisation(rules=((None, fmt),), excluded=excluded)


def _fp8(section: ConfigReader, diagnostics: Diagnostics) -> Quantisation:
    fmt = "fp8_block" if section.has("weight_block_size") else "fp8"
    modules = _quantised_layers(section, diagnostics)
    return replace(_uniform(fmt, _patterns(section, "modules_to_not_convert")), modules=modules)


def _mxfp4(section: ConfigReader, _: Diagnostics) -> Quantisation:
    return _uniform("mxfp4", _patterns(section, "modules_to_not_convert"))


def _bits(section: ConfigReader, _: Diagnostics) -> Quantisation:
    bits = section.count("bits", section.count("w_bit", 4), maximum=16)
    fmt = {4: "w4a16", 8: "int8"}.get(bits)
    if fmt is None:
        raise section.refuse("bits", "is a width that is not known", allowed="4, 8")
    skipped = [key[2:] for key in _keys(section, "dynamic") if key.startswith("-:")]
    dynamic = module_patterns(
        [f"re:{pattern}" for pattern in skipped], file=section.file, key=f"{section.path}dynamic"
    )
    named = _patterns(section, "modules_to_not_convert")
    return _uniform(fmt, replace(named, expressions=(*named.expressions, *dynamic.expressions)))


def _bitsandbytes(section: ConfigReader, _: Diagnostics) -> Quantisation:
    excluded = _patterns(section, "llm_int8_skip_modules")
    if section.flag("load_in_4bit", False):
        return _uniform("w4a16", excluded)
    if section.flag("load_in_8bit", False):
        return _uniform("int8", excluded)
    raise section.refuse("load_in_4bit", "or load_in_8bit must be true")


def _compressed_tensors(section: ConfigReader, diagnostics: Diagnostics) -> Quantisation:
    rules: list[tuple[ModulePatterns | None, str]] = []
    groups = section.section("config_groups")
    for name in list(groups.values)[:64]:
        group = groups.section(name)
        targets = group.strings("targets") or ("Linear",)
        fmt = _group_fmt(group, diagnostics)
        if {"Linear", "re:.*"} & set(targets):
            rules.append((None, fmt))
        else:
            rules.append((module_patterns(targets, file=section.file, key=f"{group.path}targets"), fmt))
    rules.sort(key=lambda rule: rule[0] is None)
    return Quantisation(rules=tuple(rules), excluded=_patterns(section, "ignore"))


def _group_fmt(group: ConfigReader, diagnostics: Diagnostics) -> str:
    weights = group.section("weights")
    bits, kind = weights.count("num_bits", maximum=16), weights.text("type", "int")
    if kind == "float" and bits == 8:
        return "fp8_block" if weights.text("strategy", "") == "block" else "fp8"
    if kind == "float" and bits == 4:
        return "nvfp4" if weights.count("group_size", 16) == 16 else "mxfp4"
    if kind == "int" and bits == 4:
        return "w4a16"
    if kind == "int" and bits == 8:
        if not group.has("input_activations"):
            diagnostics.note("checkpoint-format", f"{group.file}: {_APPROXIMATE['W8A16']}")
        return "int8"
    raise weights.refuse("num_bits", f"with type {kind!r:.20} is a format that is not known")


def _modelopt(section: ConfigReader, diagnostics: Diagnostics) -> Quantisation:
    excluded = _patterns(section, "exclude_modules", "ignore")
    algorithm = section.text("quant_algo", "")
    if not algorithm and section.has("config_groups"):
        return _compressed_tensors(section, diagnostics)
    if algorithm == "MIXED_PRECISION":
        modules = _quantised_layers(section, diagnostics)
        if not modules:
            raise section.refuse("quant_algo", "is MIXED_PRECISION but quantized_layers lists nothing")
        return Quantisation(excluded=excluded, modules=modules)
    return _uniform(_algorithm_fmt(section, "quant_algo", diagnostics), excluded)


def _quark(section: ConfigReader, _: Diagnostics) -> Quantisation:
    weight = section.section("global_quant_config").section("weight")
    dtype = weight.text("dtype", "")
    fmt = {"fp4": "mxfp4", "fp8_e4m3": "fp8", "int8": "int8", "int4": "w4a16", "uint4": "w4a16"}.get(dtype)
    if fmt is None:
        raise weight.refuse("dtype", "is a format that is not known", allowed="fp4, fp8_e4m3, int8, int4")
    return _uniform(fmt, _patterns(section, "exclude"))


_METHODS: Mapping[str, Callable[[ConfigReader, Diagnostics], Quantisation]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "mxfp4": _mxfp4,
    "awq": _bits,
    "gptq": _bits,
    "auto-round": _bits,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "modelopt_mixed": _modelopt,
    "quark": _quark,
}


def _keys(section: ConfigReader, key: str) -> list[str]:
    return [str(k) for k in section.section(key).values] if section.has(key) else []


def _quantised_layers(section: ConfigReader, diagnostics: Diagnostics) -> dict[str, str]:
    if not section.has("quantized_layers"):
        return {}
    listed = section.section("quantized_layers")
    found: dict[str, str] = {}
    for name in listed.values:
        fmt = _algorithm_fmt(listed.section(name), "quant_algo", diagnostics)
        found[short_name(name)] = fmt
    return found


def _algorithm_fmt(section: ConfigReader, key: str, diagnostics: Diagnostics) -> str:
    algorithm = section.text(key, "").upper()
    fmt = _ALGORITHMS.get(algorithm)
    if fmt is None:
        raise section.refuse(
            key, "is an algorithm that is not known", allowed=", ".join((*_ALGORITHMS, "MIXED_PRECISION"))
        )
    if algorithm in _APPROXIMATE:
        diagnostics.note("checkpoint-format", f"{section.file}: {algorithm}: {_APPROXIMATE[algorithm]}")
    return fmt


def _kv_fmt(section: ConfigReader) -> str:
    scheme = section.values.get("kv_cache_scheme")
    if isinstance(scheme, dict):
        inner = section.section("kv_cache_scheme")
        return "fp8" if inner.count("num_bits", 8) == 8 else "nvfp4"
    name = section.text("kv_cache_quant_algo", section.text("kv_cache_scheme", "")).upper()
    if name in {"", "AUTO", "NONE"}:
        return "auto"
    fmt = {"FP8": "fp8", "INT8": "int8", "NVFP4": "nvfp4"}.get(name)
    if fmt is None:
        raise section.refuse(
            "kv_cache_quant_algo", "is a format that is not known", allowed="FP8, INT8, NVFP4"
        )
    return fmt


def apply_quantisation(parts: ModelParts, quantisation: Quantisation) -> tuple[ModelParts, str]:
    """Return the parts with each weight's checkpoint format, and the format of most of them.

    Raises
    ------
    InputError
        If the config claims a quantisation that reaches no weight.
    """
    marker = _Marker(quantisation=quantisation)
    num_layers = len(parts.layers)
    layers = tuple(marker.layer(layer, (f"layers.{i}.",)) for i, layer in enumerate(parts.layers))
    mtp = tuple(
        marker.layer(layer, (f"layers.{num_layers + i}.", f"mtp.layers.{i}."))
        for i, layer in enumerate(parts.mtp_layers)
    )
    head = tuple(marker.op(op, ("",)) for op in parts.head)
    if not marker.num_params:
        raise InputError(
            "leaves every weight unquantised",
            key="quantization_config",
            hint="Remove the section to plan with the 16 bit weights.",
        )
    most = max(sorted(marker.num_params), key=lambda fmt: marker.num_params[fmt])
    return replace(parts, layers=layers, mtp_layers=mtp, head=head), most


@dataclass(slots=True, kw_only=True)
class _Marker:
    """Marks weights with their format and counts parameters per format."""

    quantisation: Quantisation
    num_params: dict[str, int] = field(default_factory=dict[str, int])
    seen: dict[Layer, Layer] = field(default_factory=dict[Layer, Layer])

    def layer(self, layer: Layer, prefixes: tuple[str, ...]) -> Layer:
        marked = replace(layer, ops=tuple(self.op(op, prefixes) for op in layer.ops))
        return self.seen.setdefault(marked, marked)

    def op(self, op: Op, prefixes: tuple[str, ...]) -> Op:
        if not isinstance(op, Linear | Experts):
            return op
        experts = isinstance(op, Experts)
        names = [prefix + op.name for prefix in prefixes]
        if experts:
            leaves = ("gate_proj", "up_proj", "down_proj", "w1")
            names += [f"{name}.0.{leaf}" for name in names for leaf in leaves]
        fmt = self.quantisation.fmt(tuple(names), default=op.quantised, experts=experts)
        if fmt:
            self.num_params[fmt] = self.num_params.get(fmt, 0) + op.num_params
        return replace(op, fmt=fmt, quantised=bool(fmt))
