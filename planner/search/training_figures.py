"""What follows from the step of a training job: throughput, share of the peak, money, power, the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from cost_models.energy import COMPUTE_WEIGHT
from hardware_profiles.provenance import Provenance
from planner.ir.candidates import Estimate, Predictions
from planner.ir.cluster import NodeGroup
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.search.training_question import HOUR_S
from planner.space.training.flops import model_flops_per_token


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFigures:
    """A step with its 90 % interval, the seconds of it that devices compute, and the devices per group."""

    step_s: float
    low_s: float
    high_s: float
    compute_s: float
    devices: tuple[tuple[NodeGroup, int], ...]

    @property
    def num_devices(self) -> int:
        """Devices of the job."""
        return sum(count for _, count in self.devices)


def predictions_of(problem: Problem[TrainingProblem], job: JobFigures) -> Predictions:
    """Return the figures of a job."""
    return tuple(_figures(problem, job))


def _figures(problem: Problem[TrainingProblem], job: JobFigures) -> Iterator[tuple[str, Estimate]]:
    workload, step_s, devices = problem.payload.workload, job.step_s, job.num_devices
    tokens = workload.tokens_per_step

    def rate(value: float, unit: str) -> Estimate:
        """Return a figure that falls as the step takes longer."""
        known = Provenance.CALIBRATED
        low, high = value * step_s / job.high_s, value * step_s / job.low_s
        return Estimate(value=value, unit=unit, low=low, high=high, provenance=known)

    def rising(value: float, unit: str, known: Provenance = Provenance.CALIBRATED) -> Estimate:
        low, high = value * job.low_s / step_s, value * job.high_s / step_s
        return Estimate(value=value, unit=unit, low=low, high=high, provenance=known)

    flops = _model_flops(problem.payload) / step_s / devices
    yield "step_time_s", rising(step_s, "s")
    yield "tokens_per_s", rate(tokens / step_s, "token/s")
    yield "tokens_per_s_per_device", rate(tokens / step_s / devices, "token/s")
    yield "model_flops_per_s_per_device", rate(flops, "FLOP/s")
    peak = _mean_peak(job)
    if peak is not None:
        yield "mfu", rate(flops / peak, "1")
    yield "num_devices", Estimate(value=float(devices), unit="devices", provenance=Provenance.MEASURED)
    power_w = _power_w(job)
    yield "power_w", Estimate(value=power_w, unit="W")
    yield "energy_per_step_j", rising(power_w * step_s, "J", Provenance.ANALYTICAL)
    usd = _usd_per_hour(job)
    if usd is not None:
        yield "usd_per_hour", Estimate(value=usd, unit="USD/h", provenance=Provenance.ASSUMED)
        yield "usd_per_step", rising(usd / HOUR_S * step_s, "USD", Provenance.ASSUMED)
    if workload.num_tokens is not None:
        run_s = workload.num_tokens / tokens * step_s
        yield "run_time_s", rising(run_s, "s")
        yield "run_energy_j", rising(power_w * run_s, "J", Provenance.ANALYTICAL)
        if usd is not None:
            yield "run_usd", rising(usd / HOUR_S * run_s, "USD", Provenance.ASSUMED)


def _model_flops(payload: TrainingProblem) -> float:
    """Return the model FLOPs of one step, in the mean where sequences differ."""
    workload, model = payload.workload, payload.model
    if not workload.batches:
        return model_flops_per_token(model, workload.seq_len) * workload.tokens_per_step
    counted = Counter(length for batch in workload.batches for length in batch)
    total = sum(model_flops_per_token(model, n) * n * count for n, count in counted.items())
    return total / len(workload.batches)


def _mean_peak(job: JobFigures) -> float | None:
    """Return the 16-bit peak of a device, FLOP/s, the mean over all; None where one states none."""
    total = 0.0
    for group, count in job.devices:
        peak = group.device.peak_flops_per_s.get("bf16")
        if peak is None:
            return None
        total += peak.value * count
    return total / job.num_devices


def _usd_per_hour(job: JobFigures) -> float | None:
    """Return the price of all devices, None where one has none."""
    total = 0.0
    for group, count in job.devices:
        if group.usd_per_device_hour is None:
            return None
        total += group.usd_per_device_hour * count
    return total


def _power_w(job: JobFigures) -> float:
    """Return the mean power, watts: idle power, and the rest of the rating while devices compute."""
    busy = min(1.0, job.compute_s / job.step_s)
    total = 0.0
    for group, count in job.devices:
        device = group.device
        above_idle = COMPUTE_WEIGHT * (device.tdp_w.value - device.idle_w.value) * busy
        total += (
            device.idle_w.value + above_idle + group.node_power_overhead_w / group.devices_per_node
        ) * count
    return total
