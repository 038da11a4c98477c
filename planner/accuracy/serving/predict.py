"""Predictions of measured runs, through the evaluator that plans use: one per model, engine and lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from cost_models.curves import NoCurveError
from cost_models.formats import UnsupportedFormatError
from cost_models.serving.uncertainty import kernel_sigma, offline_sigma
from cost_models.work import LinkSpec
from hardware_profiles.schema import SoftwareProfile
from planner.accuracy.kernel_work import CannotPriceError
from planner.accuracy.serving.setup import Setup, has_experts
from planner.errors import InputError
from planner.ir.cluster import NodeGroup
from planner.ir.workload import Lengths, ServingWorkload, Slo
from planner.space.engine import EngineCosts
from planner.space.evaluate import Evaluator, Prediction, evaluate_pair
from planner.space.spans import link_spec

_TOO_LARGE = "does not fit the memory of the devices by our reckoning"
METRICS = ("ttft", "tpot", "e2e", "throughput")
_MAX_SEQUENCES = 16384
_MAX_TOKENS = 16384
_PERCENTILES = {"median": 50.0, "p50": 50.0, "p90": 90.0, "p99": 99.0}

Costs = Callable[[Setup, NodeGroup], EngineCosts]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPrediction:
    """What we say of a run: seconds, and output tokens per second of all its devices.

    `sigma` is the standard deviation of the log of measured over predicted, by metric, and `kernel_sigma` the
    relative one of a step that its kernels alone explain.
    """

    values: dict[str, float]
    sigma: dict[str, float]
    kernel_sigma: float = 0.0


@dataclass(slots=True, kw_only=True)
class RunPredictor:
    """Predicts runs; `costs` prices an engine on the devices of a run."""

    costs: Costs
    _evaluators: dict[tuple[object, ...], Evaluator] = field(
        default_factory=dict[tuple[object, ...], Evaluator]
    )

    def predict(self, setup: Setup) -> RunPrediction:
        """Return the prediction of a run.

        Raises
        ------
        CannotPriceError
            If it cannot be priced; the message is the reason.
        """
        found = self._predict(setup)
        replica = self._evaluator(setup, setup.group).replica(setup.halves[-1])
        sigma = replica.tables.sigma if replica is not None else 0.0
        return replace(found, kernel_sigma=kernel_sigma(sigma, sparse=has_experts(setup.model)))

    def _predict(self, setup: Setup) -> RunPrediction:
        try:
            if setup.kind in ("static", "offline"):
                return self._static(setup) if setup.kind == "static" else self._offline(setup)
            prediction = self._pair(setup) if setup.kind == "disaggregated" else self._single(setup)
        except (InputError, NoCurveError, UnsupportedFormatError, ValueError) as error:
            raise CannotPriceError(str(error)) from error
        if prediction is None:
            raise CannotPriceError(_TOO_LARGE)
        return _spread(_said(prediction, setup), prediction.sigma, prediction.first_token_sigma)

    def evaluator(self, setup: Setup) -> Evaluator:
        """Return the evaluator that predicts a run, set to its load."""
        return self._evaluator(setup, setup.group)

    def use(self, software: SoftwareProfile) -> None:
        """Predict from now on with other facts on the engine."""
        for evaluator in self._evaluators.values():
            evaluator.use(software)

    def _single(self, setup: Setup) -> Prediction | None:
        return self._evaluator(setup, setup.group).evaluate(setup.halves[0])

    def _pair(self, setup: Setup) -> Prediction | None:
        evaluator = self._evaluator(setup, setup.group)
        first, second = setup.halves
        return evaluate_pair(evaluator, evaluator, (first, second), transfer_link(setup.group))

    def _static(self, setup: Setup) -> RunPrediction:
        half = setup.halves[0]
        evaluator = self._evaluator(setup, setup.group)
        replica = evaluator.replica(half)
        batch = max(1.0, setup.load / (half.strategy.attention_dp * half.replicas))
        times = evaluator.evaluate_static(half, batch)
        if replica is None or times is None:
            raise CannotPriceError(_TOO_LARGE)
        values = {
            "ttft": times.ttft_s,
            "tpot": times.tpot_s,
            "e2e": times.e2e_s,
            "throughput": setup.load * setup.lengths.mean_output / times.e2e_s,
        }
        return _spread(values, replica.tables.sigma, replica.tables.first_token_sigma)

    def _offline(self, setup: Setup) -> RunPrediction:
        """Return the throughput from the first step to the last token of all requests."""
        half, evaluator = setup.halves[0], self._evaluator(setup, setup.group)
        replica = evaluator.replica(half)
        if replica is None:
            raise CannotPriceError(_TOO_LARGE)
        num_requests = setup.num_requests or evaluator.requests_offline(half, replica)
        run_s = evaluator.evaluate_offline(half, num_requests)
        tables = replica.tables
        most = offline_sigma(tables.sigma, sparse=has_experts(setup.model))
        values = {"throughput": num_requests * setup.lengths.mean_output / run_s}
        return _spread(values, most, tables.first_token_sigma)

    def _evaluator(self, setup: Setup, group: NodeGroup) -> Evaluator:
        """Return the evaluator of a run, with the run's load."""
        key = (
            setup.model_name,
            id(setup.model),
            setup.engine,
            setup.device,
            group.num_devices,
            setup.lengths,
            setup.kind,
        )
        if key not in self._evaluators:
            self._evaluators[key] = Evaluator(
                model=setup.model,
                group=group,
                costs=self.costs(setup, group),
                workload=_workload(setup.lengths, setup),
                max_num_seqs=_MAX_SEQUENCES,
                max_token_budget=_MAX_TOKENS,
            )
        evaluator = self._evaluators[key]
        evaluator.workload = _workload(setup.lengths, setup)
        return evaluator


def transfer_link(group: NodeGroup) -> LinkSpec:
    """Return the link over which caches move between workers: the scale-up one only in rack-scale domains."""
    level = group.levels[0] if group.domain_size > group.devices_per_node else group.levels[-1]
    return link_spec(level.link)


def measured_values(setup: Setup) -> dict[str, float]:
    """Return what was measured in a run: seconds, and output tokens per second of all its devices."""
    row = setup.row
    found: dict[str, float] = {}
    for metric in ("ttft", "tpot", "e2e"):
        value = row.number(f"{metric}_ms")
        if value:
            found[metric] = value / 1e3
    total, each = row.number("out_tok_s_total"), row.number("out_tok_s_per_gpu")
    if total:
        found["throughput"] = total
    elif each:
        found["throughput"] = each * setup.num_devices
    return found


def roofline_values(setup: Setup) -> dict[str, float]:
    """Return the naive roofline of a run: arithmetic at peak, every active weight read once per step.

    No cache, no communication, no overhead, no waiting; what a napkin says.
    """
    model, device, fmt = setup.model, setup.group.device, setup.halves[0].weight_fmt
    from cost_models.formats import number_format, peak_key

    peaks = {key: fact.value for key, fact in device.peak_flops_per_s.items()}
    spec = number_format(fmt)
    key = peak_key(peaks, spec) or peak_key(peaks, number_format("bf16"))
    if key is None:
        raise CannotPriceError(f"{device.name} has no peak for {fmt}")
    params = float(model.num_active_text_params)
    batch = max(1.0, setup.load or 256.0)
    isl, osl = setup.lengths.mean_input, setup.lengths.mean_output
    step = max(
        params * spec.weight_bytes / device.memory_bandwidth_bytes_per_s.value,
        2.0 * params * batch / peaks[key],
    )
    devices = float(setup.num_devices)
    ttft, tpot = 2.0 * params * isl / peaks[key] / devices, step / devices
    if setup.kind == "static":
        ttft *= batch
    e2e = ttft + tpot * (osl - 1.0)
    return {"ttft": ttft, "tpot": tpot, "e2e": e2e, "throughput": batch * osl / (e2e + (batch - 1.0) * ttft)}


def _workload(lengths: Lengths, setup: Setup) -> ServingWorkload:
    closed = setup.kind in ("closed", "disaggregated") and setup.log is None
    return ServingWorkload(
        lengths=lengths,
        slo=Slo(),
        concurrency=max(1, round(setup.load)) if closed else None,
        rate_rps=setup.load if setup.kind == "open" or setup.log is not None else None,
    )


def _spread(values: dict[str, float], sigma: float, first_token_sigma: float) -> RunPrediction:
    """Return values with the spread of each, as standard deviations of logs."""
    step, first = (float(np.sqrt(np.log1p(s * s))) for s in (sigma, first_token_sigma))
    return RunPrediction(values=values, sigma={name: first if name == "ttft" else step for name in values})


def _said(prediction: Prediction, setup: Setup) -> dict[str, float]:
    """Return the statistic that was measured; where a file does not say which, the mean."""
    at = percentile_of(setup)
    values = {
        "ttft": prediction.ttft_s,
        "tpot": prediction.tpot_s,
        "e2e": prediction.e2e_s,
        "throughput": prediction.output_tokens_per_s,
    }
    if at is not None:
        values["ttft"] = dict(prediction.ttft_percentiles_s)[at]
        values["e2e"] = dict(prediction.e2e_percentiles_s)[at]
    if setup.log is not None:
        values["ttft_p90"] = dict(prediction.ttft_percentiles_s)[90.0]
    return values


def percentile_of(setup: Setup) -> float | None:
    """Return the percentile that the figures of a run are; None for the mean, or where nothing is said."""
    return _PERCENTILES.get(setup.row.text("stat").lower()) if setup.log is None else None
