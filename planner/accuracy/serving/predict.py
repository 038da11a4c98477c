"""Predictions of measured runs, through the evaluator that plans use: one per model, engine and lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from cost_models.curves import NoCurveError
from cost_models.formats import UnsupportedFormatError
from cost_models.work import LinkSpec
from planner.accuracy.kernel_work import CannotPriceError
from planner.accuracy.serving.setup import Setup
from planner.errors import InputError
from planner.ir.cluster import NodeGroup
from planner.ir.workload import Lengths, ServingWorkload, Slo
from planner.space.engine import EngineCosts
from planner.space.evaluate import Evaluator, FixedReplica, Prediction, evaluate_pair
from planner.space.spans import link_spec

METRICS = ("ttft", "tpot", "e2e", "throughput")
_MAX_SEQUENCES = 16384
_MAX_TOKENS = 16384
_PERCENTILES = {"median": 50.0, "p50": 50.0, "p90": 90.0, "p99": 99.0}

Costs = Callable[[Setup, NodeGroup], EngineCosts]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPrediction:
    """What we say of a run: seconds, and output tokens per second of all its devices.

    `sigma` is the standard deviation of the log of measured over predicted, by metric.
    """

    values: dict[str, float]
    sigma: dict[str, float]


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
        try:
            values = self._values(setup)
        except (InputError, NoCurveError, UnsupportedFormatError, ValueError) as error:
            raise CannotPriceError(str(error)) from error
        return RunPrediction(values=values, sigma=dict.fromkeys(values, 0.2))

    def _values(self, setup: Setup) -> dict[str, float]:
        if setup.kind == "static":
            return self._static(setup)
        if setup.kind == "disaggregated":
            return _said(self._pair(setup), setup)
        evaluator = self._evaluator(setup, setup.group)
        prediction = evaluator.evaluate(setup.halves[0])
        if prediction is None:
            raise CannotPriceError("does not fit the memory of the devices by our reckoning")
        if setup.kind == "offline":
            return {"throughput": prediction.output_tokens_per_s}
        return _said(prediction, setup)

    def _static(self, setup: Setup) -> dict[str, float]:
        half = setup.halves[0]
        ranks = half.strategy.attention_dp * half.replicas
        times = self._evaluator(setup, setup.group).evaluate_static(half, max(1.0, setup.load / ranks))
        if times is None:
            raise CannotPriceError("does not fit the memory of the devices by our reckoning")
        tokens = setup.load * setup.lengths.mean_output
        return {
            "ttft": times.ttft_s,
            "tpot": times.tpot_s,
            "e2e": times.e2e_s,
            "throughput": tokens / times.e2e_s,
        }

    def _pair(self, setup: Setup) -> Prediction:
        evaluator = self._evaluator(setup, setup.group)
        first, second = setup.halves
        prediction = evaluate_pair(evaluator, evaluator, (first, second), transfer_link(setup.group))
        if prediction is None:
            raise CannotPriceError("does not fit the memory of the devices by our reckoning")
        return prediction

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
    closed = setup.kind in ("closed", "disaggregated")
    return ServingWorkload(
        lengths=lengths,
        slo=Slo(),
        concurrency=max(1, round(setup.load)) if closed else None,
        rate_rps=setup.load if setup.kind == "open" else None,
    )


def _said(prediction: Prediction, setup: Setup) -> dict[str, float]:
    """Return the statistic that was measured; where a file does not say which, the mean."""
    stat = setup.row.text("stat").lower()
    at = _PERCENTILES.get(stat)
    values = {
        "ttft": prediction.ttft_s,
        "tpot": prediction.tpot_s,
        "e2e": prediction.e2e_s,
        "throughput": prediction.output_tokens_per_s,
    }
    if at is not None:
        values["ttft"] = dict(prediction.ttft_percentiles_s)[at]
        values["e2e"] = dict(prediction.e2e_percentiles_s)[at]
    return values


def engine_limits(half: FixedReplica, load: float, max_num_seqs: int) -> FixedReplica:
    """Return the configuration with the engine's limits; a benchmark's own load is never turned away."""
    per_rank = int(np.ceil(load / (half.replicas * half.strategy.attention_dp)))
    return replace(half, max_num_seqs=max(max_num_seqs, per_rank))


def predict_all(predictor: RunPredictor, setups: Iterable[Setup]) -> list[tuple[Setup, RunPrediction | str]]:
    """Return every run with its prediction, or with the reason why there is none."""
    found: list[tuple[Setup, RunPrediction | str]] = []
    for setup in setups:
        try:
            found.append((setup, predictor.predict(setup)))
        except CannotPriceError as error:
            found.append((setup, str(error)))
    return found
