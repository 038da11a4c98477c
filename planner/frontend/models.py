"""From a config.json, a model directory or a bundled name to a model graph."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, cast

from planner.diagnostics import Diagnostics
from planner.errors import InputError, UnknownNameError, nearest
from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family, find_family, named_family
from planner.frontend.model_blocks.vision_tower import read_tower
from planner.frontend.quantisation import apply_quantisation, read_quantisation
from planner.ir.model_graph import ModelGraph

MAX_CONFIG_BYTES = 16 * 2**20
CONFIG_FOLDER = Path(__file__).parent / "model_configs"
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledConfig:
    """A config that ships with the package: short name, Hugging Face ids, where the facts are from."""

    name: str
    aliases: tuple[str, ...]
    source: str
    config: Mapping[str, object]


def load_model(
    path_or_name: str | Path, *, assume_family: str | None = None, diagnostics: Diagnostics
) -> ModelGraph:
    """Return the model graph of a config file, a directory that holds one, or a bundled name.

    ``-`` reads the config from stdin.

    Raises
    ------
    InputError
        If there is no such file or name, the file is no model config, or no family describes it.
    """
    text = str(path_or_name)
    if text == "-":
        values = parse_json(_limited(sys.stdin.buffer, "stdin"), file="stdin")
        return model_from_config(
            values, name="model", file="stdin", assume_family=assume_family, diagnostics=diagnostics
        )
    if "\0" in text:
        raise InputError("a model's path holds a null character", value=text)
    path = Path(text)
    if not _exists(path):
        bundled = _bundled(text)
        name = bundled.aliases[0] if bundled.aliases else bundled.name
        return model_from_config(
            bundled.config, name=name, file=text, assume_family=assume_family, diagnostics=diagnostics
        )
    file = path / "config.json" if path.is_dir() else path
    separate = file.parent / "hf_quant_config.json"
    return model_from_config(
        read_json(file),
        name=_name_of(file),
        file=str(file),
        assume_family=assume_family,
        diagnostics=diagnostics,
        quant_config=read_json(separate) if path.is_dir() and _exists(separate) else None,
    )


def bundled_model(name: str, diagnostics: Diagnostics) -> ModelGraph:
    """Return the model graph of a bundled config, whatever files there are.

    Raises
    ------
    InputError
        If no bundled config has that name.
    """
    bundled = _bundled(name)
    first = bundled.aliases[0] if bundled.aliases else bundled.name
    return model_from_config(bundled.config, name=first, file=name, diagnostics=diagnostics)


def model_from_config(
    values: Mapping[str, object],
    *,
    name: str,
    file: str = "config.json",
    assume_family: str | None = None,
    diagnostics: Diagnostics,
    quant_config: Mapping[str, object] | None = None,
) -> ModelGraph:
    """Return the model graph of a config that is already parsed.

    Raises
    ------
    InputError
        As `load_model`.
    """
    config = ConfigReader(values=values, file=file)
    architectures = config.strings("architectures") or ()
    family_name, family, assumed = _choose_family(config, architectures, assume_family, diagnostics)
    parts = family.build(_decoder_of(config) if assumed else config)
    separate = ConfigReader(values=quant_config, file="hf_quant_config.json") if quant_config else None
    quantisation = read_quantisation(config, separate, diagnostics)
    dtype = _dtype(config)
    weight_fmt, kv_fmt = dtype, "auto"
    if quantisation is not None:
        parts, weight_fmt = apply_quantisation(parts, quantisation)
        kv_fmt = quantisation.kv_fmt
    if config.defaults_used:
        stated = ", ".join(config.defaults_used)
        diagnostics.note("model-default", f"{name}: not stated, so the family's default is used: {stated}")
    for remark in config.remarks:
        diagnostics.warn("model-part", f"{name}: {remark}")
    return ModelGraph(
        name=name,
        family=family_name,
        architecture=architectures[0] if architectures else config.text("model_type", family_name),
        vocab_size=parts.vocab_size,
        hidden_size=parts.hidden_size,
        tied_embeddings=parts.tied,
        max_position=parts.max_position,
        layers=parts.layers,
        embedding=parts.embedding,
        head=parts.head,
        extra=parts.extra,
        vision=read_tower(family_name, config) if parts.extra and not assumed else None,
        mtp_layers=parts.mtp_layers,
        checkpoint_dtype=dtype,
        checkpoint_weight_fmt=weight_fmt,
        checkpoint_kv_fmt=kv_fmt,
        assumed_family=family_name if assumed else "",
    )


def read_json(file: Path) -> Mapping[str, object]:
    """Return the object in a JSON file of limited size.

    Raises
    ------
    InputError
        If the file cannot be read, is too large, or holds no JSON object.
    """
    try:
        with file.open("rb") as stream:
            raw = _limited(stream, str(file))
    except OSError as error:
        hint = "Name a config.json or a directory that holds one."
        raise InputError(f"cannot be read ({error.strerror or error})", file=str(file), hint=hint) from error
    return parse_json(raw, file=str(file))


def _limited(stream: BinaryIO, file: str) -> bytes:
    raw = stream.read(MAX_CONFIG_BYTES + 1)
    if len(raw) > MAX_CONFIG_BYTES:
        raise InputError(f"is larger than {MAX_CONFIG_BYTES // 2**20} MiB", file=file)
    return raw


def parse_json(raw: bytes, *, file: str) -> Mapping[str, object]:
    """Return the object in JSON text.

    Raises
    ------
    InputError
        If the text is no JSON object.
    """
    try:
        value: object = json.loads(raw.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"is no JSON ({error.msg})", file=file, line=error.lineno) from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"is no JSON ({error})", file=file) from error
    if not isinstance(value, dict):
        raise InputError("does not hold a JSON object", file=file, value=type(value).__name__)
    return cast("dict[str, object]", value)


@cache
def bundled_configs() -> tuple[BundledConfig, ...]:
    """Return the configs that ship with the package, by name."""
    found: list[BundledConfig] = []
    for path in sorted(CONFIG_FOLDER.glob("*.json")):
        entry = ConfigReader(values=read_json(path), file=path.name)
        found.append(
            BundledConfig(
                name=path.stem,
                aliases=entry.strings("aliases") or (),
                source=entry.text("source", ""),
                config=entry.section("config").values,
            )
        )
    return tuple(found)


def _bundled(name: str) -> BundledConfig:
    by_name: dict[str, BundledConfig] = {}
    for entry in bundled_configs():
        for spelling in (entry.name, *entry.aliases):
            by_name[spelling.lower()] = entry
            by_name.setdefault(spelling.lower().rpartition("/")[2], entry)
    entry = by_name.get(name.strip().lower())
    if entry is None:
        names = [e.name for e in bundled_configs()]
        close = nearest(name, by_name)
        raise UnknownNameError(
            "model: neither a file, a directory nor a bundled config",
            name,
            names,
            hint=f"{f'Did you mean {close!r}? ' if close else ''}"
            "Give the path of the model's config.json to plan any other model.",
        )
    return entry


def _exists(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):
        return False


def _name_of(file: Path) -> str:
    """Return a readable name: the directory of a config.json, else the file's stem."""
    stem = file.resolve().parent.name if file.name == "config.json" else file.stem
    return stem.removesuffix("_config").replace("--", "/") or "model"


def _choose_family(
    config: ConfigReader,
    architectures: tuple[str, ...],
    assume_family: str | None,
    diagnostics: Diagnostics,
) -> tuple[str, Family, bool]:
    model_type = config.text("model_type", "")
    if not model_type and not architectures:
        raise InputError(
            "states neither model_type nor architectures, so it is no model config", file=config.file
        )
    try:
        name, family = find_family(config)
    except InputError:
        if assume_family is None:
            raise
        family = named_family(assume_family)
        what = model_type or architectures[0]
        diagnostics.warn(
            "assumed-family",
            f"{config.file}: {what!r:.80} is not known and is read as {assume_family!r}; "
            "sizes and times are those of that family",
        )
        return assume_family.replace("_", "-"), family, True
    if assume_family is not None and assume_family.replace("_", "-") != name:
        diagnostics.note(
            "assumed-family",
            f"{config.file} is known as {name!r}; the assumed family {assume_family!r:.80} is not needed",
        )
    return name, family, False


def _decoder_of(config: ConfigReader) -> ConfigReader:
    """Return the text part of an unknown composite config, saying what is left out."""
    if config.has("hidden_size") or not config.has("text_config"):
        return config
    config.remark("only the text decoder is read; other towers are not counted")
    return config.section("text_config")


def _dtype(config: ConfigReader) -> str:
    holder = config
    if not (config.has("dtype") or config.has("torch_dtype")) and config.has("text_config"):
        holder = config.section("text_config")
    name = holder.text("dtype", holder.text("torch_dtype", "bfloat16")).removeprefix("torch.")
    if name not in _DTYPES:
        key = "dtype" if holder.has("dtype") else "torch_dtype"
        raise holder.refuse(key, "is a dtype that is not known", allowed=", ".join(_DTYPES))
    return _DTYPES[name]
