"""Times kernels with torch, on a GPU or a CPU. Torch is optional and imported only here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from planner.errors import InputError

_WARM_UPS = 3
_REPEATS = 7
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchTimer:
    """A torch device; every kernel is warmed up and the median of seven runs is taken."""

    torch: Any
    device: Any
    name: str
    formats: tuple[str, ...]

    @staticmethod
    def on(device: str) -> TorchTimer:
        """Return the timer of a torch device such as ``cuda:0`` or ``cpu``.

        Raises
        ------
        InputError
            If torch is not installed or has no such device.
        """
        try:
            torch: Any = import_module("torch")
        except ImportError as error:
            raise InputError(
                "measuring needs torch, which is not installed",
                hint="Install it (pip install newel[calibrate]), or fit times taken by other means.",
            ) from error
        try:
            where = torch.device(device)
            torch.zeros(1, device=where)
        except (RuntimeError, AssertionError) as error:
            first = str(error).splitlines()[0]
            raise InputError(f"torch has no such device ({first})", key="--device", value=device) from error
        on_gpu = where.type == "cuda"
        name = torch.cuda.get_device_name(where) if on_gpu else where.type
        return TorchTimer(
            torch=torch, device=where, name=name, formats=("bf16", "fp16") if on_gpu else ("bf16", "fp32")
        )

    def gemm_s(self, m: int, n: int, k: int, fmt: str) -> float:
        """Time y[m, n] = x[m, k] W[k, n]."""
        x, weight = self._tensor(fmt, m, k), self._tensor(fmt, n, k)
        return self._median_s(lambda: self.torch.nn.functional.linear(x, weight))

    def attention_s(self, sizes: Mapping[str, int], fmt: str) -> float:
        """Time causal attention of `batch` sequences, `q_len` queries against `kv_len` keys."""
        batch, width = sizes["batch"], sizes["head_dim"]
        query = self._tensor(fmt, batch, sizes["heads"], sizes["q_len"], width)
        key, value = (self._tensor(fmt, batch, sizes["kv_heads"], sizes["kv_len"], width) for _ in range(2))
        causal = sizes["q_len"] > 1
        attend = self.torch.nn.functional.scaled_dot_product_attention
        return self._median_s(lambda: attend(query, key, value, is_causal=causal, enable_gqa=True))

    def copy_s(self, num_bytes: int) -> float:
        """Time a copy that reads and writes `num_bytes` in all."""
        source = self.torch.empty(num_bytes // 2, dtype=self.torch.uint8, device=self.device)
        target = self.torch.empty_like(source)
        return self._median_s(lambda: target.copy_(source))

    def _tensor(self, fmt: str, *shape: int) -> Any:
        return self.torch.randn(*shape, dtype=getattr(self.torch, _DTYPES[fmt]), device=self.device)

    def _median_s(self, run: Callable[[], object]) -> float:
        for _ in range(_WARM_UPS):
            run()
        return statistics.median(self._once_s(run) for _ in range(_REPEATS))

    def _once_s(self, run: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        self.torch.cuda.synchronize(self.device)
        return begin.elapsed_time(end) * 1e-3
