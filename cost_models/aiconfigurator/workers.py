"""AIConfigurator's estimate of a whole worker: its own model of a batch, without queues or transfers.

A worker is one engine instance. For one batch size AIConfigurator states a time to first token, a time per
output token, a rate of requests and the memory that it takes; a deployment is several workers, whose rates
are matched by the constants below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

WorkerRole = Literal["aggregated", "prefill", "decode"]

PREFILL_CORRECTION, DECODE_CORRECTION = 1.1, 1.08
"""Factors on the times of prefill-only and of decode-only workers.

Source of these and the next three: aiconfigurator 0.12.0, sdk/task_v2.py, sdk/sweep.py, read 2026-11."""
PREFILL_TTFT_FACTOR = 1.8
"""What it multiplies a prompt's own time by to get the time to first token of a prefill worker."""
PREFILL_SHARE = 0.9
"""Share of a prefill worker's rate that it counts on in a pair of pools."""
DECODE_SHARE = 0.92
"""Share of a decode worker's rate that it counts on in a pair of pools."""
STEP_SIGMA_LOG = 0.18
"""Spread of measured over predicted time per output token: the median error of 12 % of its estimates against
its own end-to-end measurements (156 rows, three engines on H100, H200 and B200; run by this project 2026-11)
over 0.6745."""
FIRST_TOKEN_SIGMA_LOG = 0.73
"""The same of the time to first token: median error 49 % (same rows)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What tells one of its models from the others.

    `name` wins among models of one shape; formats are this project's names.
    """

    name: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    num_experts: int
    weight_fmt: str
    kv_fmt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One engine instance: a model and how it is split."""

    model: ModelFacts
    tp: int
    pp: int
    attention_dp: int
    moe_tp: int
    ep: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a worker is asked about: requests of one length, `size` at a time per attention rank and stage.

    `prompt_tokens` is what an aggregated worker's step may carry of prompts.
    """

    size: int
    input_tokens: int
    output_tokens: int
    prefix_tokens: int = 0
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEstimate:
    """What AIConfigurator says of a worker at a batch, its corrections included.

    `rate_rps` is that of the whole worker, before rates are matched; `memory` the parts of a device's memory
    in bytes, the cache among them as ``kvcache``; `fits` whether it accepts them.
    """

    ttft_s: float
    tpot_s: float
    rate_rps: float
    memory: tuple[tuple[str, float], ...]
    capacity_bytes: float
    fits: bool


class WorkerTimes(Protocol):
    """Estimates of workers on one GPU system under one engine."""

    @property
    def label(self) -> str:
        """Package, version, system and engine in words."""
        ...

    def estimate(self, worker: Worker, role: WorkerRole, batch: Batch) -> WorkerEstimate:
        """Return the estimate of a worker at a batch, its latencies and rates as AIConfigurator states them.

        Raises
        ------
        MissingDataError
            If it has no rows for an operation of this worker, or refuses the way it is split.
        AiconfiguratorError
            If it does not know the model.
        """
        ...
