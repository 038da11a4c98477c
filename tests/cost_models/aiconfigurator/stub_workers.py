"""A stand-in for AIConfigurator's estimates of whole workers, in closed forms that tests can redo by hand."""

from __future__ import annotations

from cost_models.aiconfigurator.query import MissingDataError
from cost_models.aiconfigurator.workers import Batch, Worker, WorkerEstimate, WorkerRole

CAPACITY_BYTES = 80e9
PROMPT_S = 0.8
"""Seconds of a prompt on one device."""
STEP_S = 0.020
"""Seconds of a step of one sequence on one device."""
SEQUENCE_S = 0.0004
"""What one more sequence adds to it."""
SEQUENCE_BYTES = 1e9


class StubWorkers:
    """Times fall with the devices of a stage; 16e9 bytes of weights; tensor degrees in `refused` are."""

    label = "stub workers 0"

    def __init__(self, refused: tuple[int, ...] = ()) -> None:
        self.refused = refused
        self.asked: list[tuple[Worker, WorkerRole, Batch]] = []

    def estimate(self, worker: Worker, role: WorkerRole, batch: Batch) -> WorkerEstimate:
        self.asked.append((worker, role, batch))
        if worker.tp in self.refused:
            raise MissingDataError(f"no rows for tp {worker.tp}")
        prompt_s = batch.size * PROMPT_S / worker.tp
        tpot_s = (STEP_S + batch.size * SEQUENCE_S) / worker.tp
        steps = batch.output_tokens - 1
        if role == "prefill":
            ttft_s, rate = prompt_s, batch.size * worker.pp / prompt_s
        elif role == "decode":
            ttft_s, rate = 0.0, batch.size * worker.pp / (steps * tpot_s)
        else:
            tpot_s += PROMPT_S / worker.tp * batch.size / steps
            ttft_s, rate = 2.0 * PROMPT_S / worker.tp, batch.size * worker.pp / (steps * tpot_s)
        weights = 16e9 / worker.tp / worker.pp
        cache = batch.size * SEQUENCE_BYTES / worker.tp
        return WorkerEstimate(
            ttft_s=ttft_s,
            tpot_s=0.0 if role == "prefill" else tpot_s,
            rate_rps=rate,
            memory=(("weights", weights), ("kvcache", cache), ("others", 4e9)),
            capacity_bytes=CAPACITY_BYTES,
            fits=weights + cache + 4e9 < CAPACITY_BYTES,
        )
