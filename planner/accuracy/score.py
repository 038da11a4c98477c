"""Errors of the kernel cost models on measured rows, beside two baselines.

Every row of the file is counted: priced, or refused with a reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from cost_models.curves import NoCurveError
from cost_models.facts import DeviceFacts
from cost_models.formats import UnsupportedFormatError, executed_format
from cost_models.library import DeviceCostModel, Pricing, device_cost_model
from cost_models.roofline import roofline_s
from cost_models.work import ExpertGemm, Gemm, LinkSpec
from hardware_profiles.calibration import CalibrationFile
from hardware_profiles.schema import DeviceProfile
from planner.accuracy.devices import device_links, find_device, network_link
from planner.accuracy.kernel_work import CannotPriceError, is_bare_kernel, work_of
from planner.accuracy.kernels import KernelGroup, KernelTable
from planner.accuracy.table import FloatArray

_NORMAL_90 = 1.6449


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Relative errors in percent of measured time: mean, median and 90th percentile of |e|, mean of e."""

    mape: float
    p50: float
    p90: float
    bias: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How one source's rows of one operation on one device were predicted.

    `coverage_90` is the share of rows inside the 90 % interval, percent. `constant` multiplies the
    roofline by the one factor that fits these very rows best. Errors are None where every row was refused.
    `curve` says what priced the rows, and which format where the device lacks the measured one's arithmetic.
    """

    source: str
    device: str
    operation: str
    fmt: str
    num_rows: int
    num_refused: int
    refusals: Mapping[str, int]
    model: Errors | None
    roofline: Errors | None
    constant: Errors | None
    coverage_90: float | None
    provenance: str
    curve: str


@dataclass(slots=True, kw_only=True)
class _Cell:
    predicted: list[FloatArray]
    spread: list[FloatArray]
    roof: list[FloatArray]
    measured: list[FloatArray]
    refusals: Counter[str]
    provenance: str = ""
    curve: str = ""
    fallback: str = ""


def score_kernels(table: KernelTable, calibration: CalibrationFile | None = None) -> list[Score]:
    """Return the scores of a kernel table, one per (source, device, operation, format).

    `calibration` prices its device before all shipped curves.
    """
    cells: dict[tuple[str, str, str, str], _Cell] = defaultdict(
        lambda: _Cell(predicted=[], spread=[], roof=[], measured=[], refusals=Counter())
    )
    models: dict[tuple[object, ...], DeviceCostModel] = {}
    for group in table.groups:
        operation, fmt = operation_label(group)
        cell = cells[(group.source, group.category["gpu"], operation, fmt)]
        try:
            _price(group, cell, models, calibration)
        except (CannotPriceError, UnsupportedFormatError, NoCurveError, ValueError) as error:
            cell.refusals[str(error)] += group.measured_s.size
    for (source, device), reasons in table.refused.items():
        cells[(source, device, table.kind, "")].refusals.update(reasons)
    return [_score(key, cell) for key, cell in sorted(cells.items())]


def operation_label(group: KernelGroup) -> tuple[str, str]:
    """Return the operation and the format under which a group is reported."""
    text = group.category
    if group.kind == "attention":
        latent = "mla_" if text["kind"].startswith("mla") else "attention_"
        return latent + text["phase"], text["kv_dtype"] or text["q_dtype"]
    if group.kind == "collective":
        return text["op"], text["impl"] or "library"
    if group.kind == "exchange":
        return text["half"], text["impl"]
    if group.kind == "moe":
        return "moe", f"{text['dtype']} {text['routing'] or 'balanced'}"
    return "gemm", text["dtype"]


def pricing_of(group: KernelGroup) -> Pricing:
    """Return what the rows of a group measured, in the words of the cost model."""
    impl = group.category.get("impl", "")
    kernel = "library"
    if impl.endswith("_custom_graph"):
        kernel = "custom"
    elif impl.endswith("_custom_eager"):
        kernel = "custom_eager"
    elif "torch" in impl or "eager" in impl:
        kernel = "library_eager"
    quant = "none" if is_bare_kernel(group) else "dynamic"
    return Pricing(replay=True, quant=quant, all_reduce=kernel, unknown="quickest")


def errors(predicted_s: FloatArray, measured_s: FloatArray) -> Errors:
    """Return the relative errors of predictions."""
    relative = (predicted_s / measured_s - 1.0) * 100.0
    size = np.abs(relative)
    return Errors(
        mape=_rounded(size.mean()),
        p50=_rounded(np.median(size)),
        p90=_rounded(np.percentile(size, 90)),
        bias=_rounded(relative.mean()),
    )


def _price(
    group: KernelGroup,
    cell: _Cell,
    models: dict[tuple[object, ...], DeviceCostModel],
    calibration: CalibrationFile | None,
) -> None:
    name = group.category["gpu"]
    device = find_device(name)
    if device is None:
        raise CannotPriceError(f"no device profile is called {name!r}")
    if calibration is not None and calibration.device == device.name:
        device = device.model_copy(update={"curves": (*calibration.curves, *device.curves)})
    work = work_of(group, _links(group))
    model = _model(device, group, models)
    if isinstance(work, Gemm | ExpertGemm):
        executed = executed_format(model.facts.peaks_flops_per_s, work.fmt)
        if executed is not None and executed != work.fmt:
            cell.fallback = f"{work.fmt} run as {executed}"
            work = replace(work, fmt=executed)
    cost = model.price(work)
    shape = group.measured_s.shape
    cell.predicted.append(np.broadcast_to(cost.time_s, shape))
    cell.spread.append(np.broadcast_to(cost.sigma_log, shape))
    cell.roof.append(np.broadcast_to(roofline_s(work, DeviceFacts.of(device)), shape))
    cell.measured.append(group.measured_s)
    cell.provenance = max(cell.provenance, cost.provenance.label)
    told = f"{cost.origin} ({cell.fallback})" if cell.fallback else cost.origin
    cell.curve = told or cell.curve


def _links(group: KernelGroup) -> dict[str, LinkSpec]:
    links = dict(device_links(group.category["gpu"]))
    network = network_link(group.category["gpu"], group.category.get("system", ""))
    return links | {"network": network} if network is not None else links


def _model(
    device: DeviceProfile, group: KernelGroup, models: dict[tuple[object, ...], DeviceCostModel]
) -> DeviceCostModel:
    software = group.software
    preferred = (f"{software}:{group.kernel}", software) if software else ()
    pricing = pricing_of(group)
    key = (device.name, preferred, pricing)
    if key not in models:
        models[key] = device_cost_model(device, pricing=pricing, kernel_software=preferred)
    return models[key]


def _score(key: tuple[str, str, str, str], cell: _Cell) -> Score:
    source, device, operation, fmt = key
    num_refused = sum(cell.refusals.values())
    rows = sum(part.size for part in cell.measured)
    blank = Score(
        source=source,
        device=device,
        operation=operation,
        fmt=fmt,
        num_rows=rows + num_refused,
        num_refused=num_refused,
        refusals=dict(sorted(cell.refusals.items())),
        provenance=cell.provenance,
        curve=cell.curve,
        model=None,
        roofline=None,
        constant=None,
        coverage_90=None,
    )
    if not rows:
        return blank
    predicted, spread, roof, measured = (
        np.concatenate(parts) for parts in (cell.predicted, cell.spread, cell.roof, cell.measured)
    )
    factor = np.exp(np.median(np.log(measured / roof)))
    inside = np.abs(np.log(measured / predicted)) <= _NORMAL_90 * spread
    return replace(
        blank,
        model=errors(predicted, measured),
        roofline=errors(roof, measured),
        constant=errors(roof * factor, measured),
        coverage_90=_rounded(inside.mean() * 100.0),
    )


def scores_as_data(scores: Iterable[Score]) -> dict[str, object]:
    """Return scores as plain data for JSON, with the totals of rows and refusals."""
    found = list(scores)
    return {
        "num_rows": sum(s.num_rows for s in found),
        "num_refused": sum(s.num_refused for s in found),
        "scores": [asdict(s) for s in found],
    }


def _rounded(value: float | np.floating) -> float:
    return round(float(value), 2)
