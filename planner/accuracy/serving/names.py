"""Names that measurement files use for models and engines, brought to those that we know."""

from __future__ import annotations

import re
from collections.abc import Iterator

_QUANTISED = ("fp8", "fp4", "nvfp4", "mxfp4", "int4", "int8", "awq", "gptq", "w4a16", "block", "kv")
_TUNED = ("instruct", "chat", "it", "hf", "base", "preview", "turbo", "dynamic", "bf16", "fp16")
_VARIANTS = frozenset((*_QUANTISED, *_TUNED))
_DATED = re.compile(r"(?:20)?\d{4}|v\d+(?:\.\d+)*|99(?:\.9)?")
_ENGINES = (("tensorrt", "trtllm"), ("trt", "trtllm"), ("vllm", "vllm"), ("sglang", "sglang"))


def model_spellings(name: str) -> Iterator[str]:
    """Yield a model's name as it is written, then without its owner, then without what names a variant.

    Variants of a checkpoint (quantised, instruction-tuned, dated) have the same dimensions.
    """
    yield name
    plain = name.rsplit("/", 1)[-1].strip().lower().replace("_", "-").replace(" ", "-")
    plain = plain.removeprefix("meta-")
    plain = re.sub(r"^llama(\d)", r"llama-\1", plain)
    seen = {name}
    while plain and plain not in seen:
        seen.add(plain)
        yield plain
        head, _, last = plain.rpartition("-")
        if head and (last in _VARIANTS or _DATED.fullmatch(last)):
            plain = head


def engine_name(framework: str) -> str | None:
    """Return the engine that a framework's name means, or None if we have no profile of it."""
    lowered = framework.strip().lower().replace("-", "").replace("_", "")
    return next((engine for prefix, engine in _ENGINES if lowered.startswith(prefix)), None)
