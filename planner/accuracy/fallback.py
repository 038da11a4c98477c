"""How far off the round constants are that price what nobody measured: judged on everything that was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cost_models.communication.fitted import fitted_terms
from cost_models.library import NETWORK, Pricing, device_cost_model
from cost_models.work import Collective, LinkSpec
from hardware_profiles.calibration import CalibrationFile
from hardware_profiles.schema import FittedCurve
from planner.accuracy.devices import device_links, find_device, network_link
from planner.accuracy.fitting import Sample, main_samples, residuals, sigma_log
from planner.accuracy.kernel_work import CannotPriceError, work_of
from planner.accuracy.kernels import KernelTable, read_kernels
from planner.accuracy.table import FloatArray

NETWORK_RUNS = Path(__file__).parents[2] / "hardware_profiles" / "measurements" / "network.csv"
_LINK_FORM = "generic"
_HOP_FORM = "per_hop"


def judged(
    fallback: CalibrationFile, by_device: Mapping[str, Sequence[Sample]], tables: Iterable[KernelTable]
) -> CalibrationFile:
    """Return the fallback curves with the errors that they make on measured devices.

    No constant is fitted here. Kernels are judged on the main kernel of every engine on every device, links
    on library collectives inside nodes, networks on the published runs. What was never measured keeps the
    error that was assumed, and says so by counting no rows.
    """
    kernels: dict[str, list[Sample]] = defaultdict(list)
    for samples in by_device.values():
        for sample in main_samples(samples):
            kernels[sample.form.operation].append(sample)
    inside, outside = _link_errors(tables, fallback.curves), _network_errors()
    curves: list[FittedCurve] = []
    for curve in fallback.curves:
        if curve.form == _LINK_FORM:
            error = inside.get(curve.operation)
        elif curve.form == _HOP_FORM:
            error = outside.get((curve.operation, curve.fmt))
        else:
            found = kernels.get(curve.operation)
            error = residuals(found, curve.constants) if found else None
        if error is None or not error.size:
            curves.append(curve.model_copy(update={"num_rows": 0}))
        else:
            curves.append(_with_error(curve, error))
    return fallback.model_copy(update={"curves": tuple(curves)})


def _link_errors(tables: Iterable[KernelTable], curves: Sequence[FittedCurve]) -> dict[str, FloatArray]:
    constants = {curve.operation: curve.constants for curve in curves if curve.form == _LINK_FORM}
    errors: dict[str, list[FloatArray]] = defaultdict(list)
    for group in (g for table in tables if table.kind == "collective" for g in table.groups):
        if group.category["impl"] not in ("", "nccl", "rccl"):
            continue
        try:
            work = work_of(group, device_links(group.category["gpu"]))
        except CannotPriceError:
            continue
        if isinstance(work, Collective) and len(work.span.links) == 1 and work.op in constants:
            terms = fitted_terms(
                work.op,
                np.asarray(work.num_bytes),
                work.span.num_ranks,
                work.span.links[0],
                constants[work.op],
            )
            predicted = terms.latency_s + terms.wire_s + terms.launch_s
            errors[work.op].append(np.log(predicted / group.measured_s))
    return {op: np.concatenate(parts) for op, parts in errors.items()}


def _network_errors() -> dict[tuple[str, str], FloatArray]:
    errors: dict[tuple[str, str], list[FloatArray]] = defaultdict(list)
    for group in read_kernels(NETWORK_RUNS).groups:
        name, system = group.category["gpu"], group.category["system"]
        device, link = find_device(name), network_link(name, system)
        if device is None or link is None:
            continue
        links: dict[str, LinkSpec] = device_links(name) | {"network": link}
        work = work_of(group, links)
        if isinstance(work, Collective):
            cost = device_cost_model(device, pricing=Pricing(all_reduce="library")).price(work)
            error = np.log(cost.time_s / group.measured_s)
            for key in (link.name, NETWORK):
                errors[(work.op, key)].append(error)
    return {key: np.concatenate(parts) for key, parts in errors.items()}


def _with_error(curve: FittedCurve, error: FloatArray) -> FittedCurve:
    relative = np.expm1(error) * 100.0
    size = np.abs(relative)
    return curve.model_copy(
        update={
            "num_rows": error.size,
            "held_out_mape": round(float(size.mean()), 1),
            "held_out_p50": round(float(np.median(size)), 1),
            "held_out_p90": round(float(np.percentile(size, 90)), 1),
            "bias": round(float(relative.mean()), 1),
            "sigma_log": round(sigma_log(error), 4),
            "fitted": "round constants, judged on everything that was measured",
        }
    )
