"""The cases on which Newel is held against AIConfigurator: dense and sparse models, three GPU kinds, SLOs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question to both planners; latencies in milliseconds, `model` is AIConfigurator's name."""

    model: str
    ours: str
    device: str
    devices: int
    engine: str = "trtllm"
    isl: int = 4000
    osl: int = 500
    ttft_ms: float = 1000.0
    tpot_ms: float = 30.0

    @property
    def name(self) -> str:
        """Short name, unique among the cases."""
        parts = [self.model.split("/")[-1], f"{self.devices}x{self.device}", f"{self.isl}/{self.osl}"]
        parts.append(f"{self.ttft_ms:g}/{self.tpot_ms:g}")
        return " ".join(parts if self.engine == "trtllm" else [*parts, self.engine])


_LLAMA = ("meta-llama/Meta-Llama-3.1-70B", "llama-3.1-70b")
_LLAMA_FP8 = ("nvidia/Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b")
_LLAMA_8B = ("meta-llama/Meta-Llama-3.1-8B", "llama-3.1-8b")
_LLAMA_405B = ("meta-llama/Meta-Llama-3.1-405B", "llama-3.1-405b")
_QWEN = ("Qwen/Qwen3-32B", "qwen3-32b")
_QWEN_MOE = ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b")
_DEEPSEEK = ("deepseek-ai/DeepSeek-V3", "deepseek-v3")
_GPT_OSS = ("openai/gpt-oss-120b", "gpt-oss-120b")


def _case(pair: tuple[str, str], device: str, devices: int, *load: float, engine: str = "trtllm") -> Case:
    """Return a case; `load` is prompt, output, limits on both latencies (its own example's if none)."""
    isl, osl, ttft, tpot = load or (4000, 500, 1000, 30)
    return Case(
        model=pair[0],
        ours=pair[1],
        device=device,
        devices=devices,
        engine=engine,
        isl=int(isl),
        osl=int(osl),
        ttft_ms=float(ttft),
        tpot_ms=float(tpot),
    )


CASES = (
    *(_case(m, d, n) for m, d, n in product((_LLAMA, _QWEN), ("h200", "h100"), (8, 16, 32))),
    *(_case(_DEEPSEEK, d, n) for d, n in product(("h200", "h100"), (8, 16, 32))),
    _case(_LLAMA, "h100", 12),
    _case(_LLAMA, "h100", 20),
    _case(_LLAMA, "b200", 4),
    _case(_LLAMA_FP8, "h100", 8),
    _case(_LLAMA_405B, "h100", 64),
    _case(_LLAMA_405B, "h200", 16, 2000, 1000, 3000, 60),
    _case(_LLAMA_8B, "h100", 4, 1000, 250, 200, 10),
    _case(_QWEN, "b200", 24, 8000, 300, 1500, 25),
    _case(_QWEN, "h100", 6, 1000, 1000, 500, 20),
    _case(_QWEN_MOE, "h200", 16, 1000, 1000, 500, 25),
    _case(_QWEN_MOE, "b200", 8, 8000, 1000, 2000, 30),
    _case(_DEEPSEEK, "b200", 16),
    _case(_DEEPSEEK, "h200", 64, 2000, 1000, 2000, 50),
    _case(_GPT_OSS, "b200", 8, 2000, 500, 600, 15),
    _case(_QWEN, "h100", 16, engine="vllm"),
    _case(_LLAMA, "h200", 16, engine="sglang"),
    _case(_LLAMA, "h200", 8, 32000, 500, 8000, 40),
)
