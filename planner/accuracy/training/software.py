"""Which training stack a row ran on: what it names, else what its source is known to use."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

from hardware_profiles.errors import ProfileError
from hardware_profiles.loader import UnknownProfileError, load_trainer, validate_profile
from hardware_profiles.profile_file import read_profile_file
from hardware_profiles.schema import TrainerProfile
from planner.accuracy.training.rows import RowError, TrainingRow
from planner.errors import InputError
from planner.space.training.software import TrainingSoftware

GENERIC = "generic-trainer"
_ASYNC_TP_OVERLAP = 0.42
"""What asynchronous tensor parallelism hides: torchtitan's table 4 of 2024-12 has two runs that differ in
nothing else, 19.8 and 18.7 s."""
_EAGER_ELEMENTWISE = 2.5
"""Unfused element-wise kernels move about so many times the bytes: norms, gates and rotations by parts."""
_SIGNS: tuple[tuple[str, str], ...] = (
    (r"zero-3 dp only|deepspeed zero-3", "deepspeed-zero3"),
    (r"torchtitan.*(202[5-9]|20[3-9]\d)", "torchtitan-2025"),
    (r"torchtitan", "torchtitan"),
    (r"vtrain", "megatron-lm-3d"),
    (r"(llm-foundry|composer|mosaicml).*a100", "llm-foundry-ampere"),
    (r"llm-foundry|composer|mosaicml", "llm-foundry"),
    (r"zero bubble|zero-bubble|sail-sg", "zero-bubble"),
    (r"oneflow-gpt", "oneflow"),
    (r"alpa-projects", "alpa"),
    (r"; megascale(\b(?!.*megatron)|$)", "megascale"),
    (r"bigscience|bloom|mt-nlg|turing-nlg|frontier|megatron-deepspeed|deepspeed", "megatron-deepspeed"),
    (r"(megatron-bridge|nemo).*\b(26\.(0[6-9]|1\d)|2[7-9]\.\d)", "megatron-bridge-26.06"),
    (r"megatron-bridge|nemo|mlperf", "megatron-bridge"),
    (r"deepseek-v3 report|dualpipe", "dualpipe"),
    (r"simumax", "megatron-core-plain"),
    (r"model_table|megatron-core|mcore|strong scaling|examples/llama|llama 3 paper", "megatron-lm"),
    (r"korthikanti|megascale", "megatron-lm-2022"),
    (r"sc21|sc'21|narayanan|@v2|megatron", "megatron-lm-2021"),
    (r"megatron|nvidia", "megatron-lm"),
    (r"fsdp2", "torchtitan-2025"),
    (r"fsdp.*a100", "llm-foundry-ampere"),
    (r"fsdp", "llm-foundry"),
)
_OVERLAPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("tp overlap", ("tp_overlap",)),
    ("pp overlap", ("p2p_overlap",)),
    ("dp overlap", ("dp_overlap",)),
    (
        "efficient operators",
        ("flash_attention", "flash_version", "compute_scale", "elementwise_scale", "loss_bytes", "dropout"),
    ),
)
"""Words of MegaScale's ablation (NSDI 2024, table 3) and what they change."""
_FLASH_SINCE_2023 = 2.0
_SINCE_FLASH = re.compile(r"h100|h200|b200|b300|h800|gh200|mi300|mi325|mi35|(?<!no )(?<!without )flash")


def named_profile(name: str) -> TrainerProfile:
    """Return the profile of the training stack of that name, or the one that a YAML file holds.

    Raises
    ------
    InputError
        If there is no such stack or the file describes none.
    """
    try:
        if name.endswith((".yaml", ".yml")):
            return validate_profile(TrainerProfile, read_profile_file(Path(name)))
        return load_trainer(name)
    except ProfileError as error:
        raise InputError(
            error.message,
            file=error.file,
            line=error.line,
            key=error.key or None,
            value=error.value,
            allowed=error.allowed or None,
            hint=error.hint or None,
        ) from error


def named_software(name: str) -> TrainingSoftware:
    """Return the training stack of `named_profile`."""
    return TrainingSoftware.of(named_profile(name))


@cache
def _load(name: str) -> TrainingSoftware:
    return TrainingSoftware.of(load_trainer(name))


def software_of(row: TrainingRow) -> TrainingSoftware:
    """Return the training stack of a row.

    A column `software` (or `framework`) wins; else the source and the notes; else a generic stack of the
    device's time, with a wide interval. Switches that the notes state hold for any of them.

    Raises
    ------
    RowError
        If the row names a stack that has no profile.
    """
    named = row.text("software") or row.text("framework")
    words = row.words + " ; " + row.text("gpu_type").lower()
    precision = row.text("precision").lower()
    if named:
        return _switched(_named(named), words, precision)
    for pattern, name in _SIGNS:
        if re.search(pattern, words) and not (name.endswith("2021") and _SINCE_FLASH.search(words)):
            return _switched(_load(name), words, precision)
    return _switched(_load(GENERIC), words, precision)


def _named(name: str) -> TrainingSoftware:
    try:
        return _load(name)
    except UnknownProfileError as error:
        words = name.lower()
        found = next((stack for pattern, stack in _SIGNS if re.search(pattern, words)), None)
        if found is None:
            raise RowError(f"no training stack is called {name[:60]!r}") from error
        return _load(found)
    except ProfileError as error:
        raise RowError(str(error)) from error


def _overlapped(software: TrainingSoftware, words: str) -> TrainingSoftware:
    """Return the stack with communication hidden, and kernels fused, as notes say that MegaScale does.

    Its stack is the one whose overlaps of every axis were fitted; the words are those of its ablation.
    """
    model = _load("megascale")
    for word, names in _OVERLAPS:
        if re.search(rf"(?<!no )(?<!without )\b{word}\b", words):
            software = replace(software, **{name: getattr(model, name) for name in names})
    return software


def _switched(software: TrainingSoftware, words: str, precision: str) -> TrainingSoftware:
    """Return the stack with the switches that a row's notes and its format state."""
    if re.search(r"async tp(?! off)", words):
        software = replace(software, tp_overlap=max(software.tp_overlap, _ASYNC_TP_OVERLAP))
    if re.search(r"compile\s*=\s*false", words):
        software = replace(software, elementwise_scale=software.elementwise_scale * _EAGER_ELEMENTWISE)
    if not software.flash_attention and re.search(r"(?<!no )(?<!without )flash[- ]?att", words):
        software = replace(software, flash_attention=True, flash_version=_FLASH_SINCE_2023)
    software = _overlapped(software, words)
    if re.search(r"row-?wise", precision):
        software = replace(software, row_scales=True)
    if re.search(r"token[- ]?drop", words):  # experts of one padded size run as one launch
        software = replace(software, per_expert_s=0.0)
    if re.search(r"post-validation off|no post-validation", words):
        software = replace(software, optimizer_sync=True)
    if re.search(r"before [^;]*scatter/gather|(no|without) scatter[/-]gather", words):
        software = replace(software, scatter_gather=False)
    return software
