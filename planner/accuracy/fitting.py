"""From measured rows to curves: which rows are fitted, what is held out, and what the error is.

An engine's curve is fitted on one version of that engine and judged on shapes left out; the pooled
curve is fitted on all engines and judged on each engine in turn while fitted on the others, so its error
and its interval are those of a source that was not fitted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cost_models.calibration.forms import Fittable, Form, form_of
from cost_models.calibration.solver import Constant, Constants, fit
from cost_models.curves import POOLED
from cost_models.facts import DeviceFacts
from cost_models.formats import UnsupportedFormatError
from cost_models.library import SCALE_UP
from cost_models.work import Collective, LinkSpec
from hardware_profiles.schema import FittedCurve
from planner.accuracy.kernel_work import CannotPriceError, is_bare_kernel, work_of
from planner.accuracy.kernels import EAGER, KernelGroup
from planner.accuracy.table import FloatArray

_HELD_OUT_SHARE = 0.3
_MIN_ROWS = 8
_NORMAL_90 = 1.6449
_MIN_SIGMA = 0.03
_LINK_FORMS = ("alpha_beta_mid", "exchange")
"""Forms whose constants belong to a node's links rather than to a device family."""


_ONE_LIBRARY = (("gemm", "bf16"),)
"""What all engines run with one library's kernels: their tables differ by chance, whose best is too quick."""


Kernel = tuple[str, str, str, str]
"""Operation, format, engine and the engine's name of a kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rows of one (operation, format, software) on one device, ready to be predicted."""

    form: Form
    measured_s: FloatArray
    software: str
    engine: str
    kernel: str
    held_out: FloatArray

    @property
    def key(self) -> tuple[str, str]:
        """Operation and format."""
        return (self.form.operation, self.form.fmt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is fitted: the device and its links."""

    facts: DeviceFacts
    links: Mapping[str, LinkSpec]


def samples_of(groups: Iterable[KernelGroup], target: Target) -> list[Sample]:
    """Return the samples of all groups that can be fitted; groups that mean nothing to us are left out."""
    found: list[Sample] = []
    for group in groups:
        if not _wanted(group):
            continue
        try:
            work = work_of(group, dict(target.links))
            form = _form(work, group, target.facts)
        except (CannotPriceError, UnsupportedFormatError):
            continue
        software = group.software or "measured"
        found.append(
            Sample(
                form=form,
                measured_s=group.measured_s,
                software=software,
                engine=software.split("-")[0],
                kernel=group.kernel,
                held_out=_held_out(group),
            )
        )
    return found


def fit_curves(samples: Sequence[Sample], source: str, outdone: Collection[Kernel] = ()) -> list[FittedCurve]:
    """Return curves for every operation and format: one per software, and one pooled over engines.

    Collectives are pooled over group sizes instead: the constants of each size sit side by side. `outdone`
    kernels (see `outdone_kernels`) get curves under their own names, not under their engines'.
    """
    curves: list[FittedCurve] = []
    by_key: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        by_key[sample.key].append(sample)
    for _, members in sorted(by_key.items()):
        if members[0].form.name == "alpha_beta_mid":
            curves.extend(_collective_curves(members, source))
        else:
            curves.extend(_kernel_curves(members, source, outdone))
    return curves


def fit_family(
    by_device: Mapping[str, Sequence[Sample]], source: str, *, engines: bool = False
) -> list[FittedCurve]:
    """Return curves shared by devices, judged on each device in turn while fitted on the others.

    One is pooled over engines; with `engines` each engine has its own beside it, of its newest version and
    of the kernel that most devices run there: what one device of a family runs, the others can run too.
    """
    by_key: dict[tuple[str, str], dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    by_engine: dict[tuple[str, str, str], dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for device, samples in by_device.items():
        for sample in main_samples(samples):
            by_key[sample.key][device].append(sample)
            by_engine[(*sample.key, sample.engine)][device].append(sample)
    curves: list[FittedCurve] = []
    for _, found in sorted(by_key.items()):
        curves.extend(_shared_curve(found, POOLED, source))
    for _, found in sorted(by_engine.items() if engines else ()):
        same = _same_kernel(found)
        if len(same) > 1 and next(iter(same.values()))[0].form.name not in _LINK_FORMS:
            software = next(iter(same.values()))[0].software
            curves.extend(_shared_curve(same, software, source))
    return curves


def _shared_curve(found: Mapping[str, Sequence[Sample]], software: str, source: str) -> list[FittedCurve]:
    everything = [sample for samples in found.values() for sample in samples]
    if _num_rows(everything) < _MIN_ROWS:
        return []
    shared = software == POOLED
    constants = fit_samples(everything, shared=shared)
    parts: list[FloatArray] = []
    for device, samples in found.items():
        others = [s for other, group in found.items() if other != device for s in group]
        if others and _num_rows(others) >= _MIN_ROWS:
            parts.append(residuals(samples, fit_samples(others, constants, shared=shared)))
    told = (source, "each device in turn, fitted on the others" if parts else "nothing")
    error = np.concatenate(parts) if parts else residuals(everything, constants)
    return [_curve(everything, software, constants, error, told)]


def _same_kernel(found: Mapping[str, Sequence[Sample]]) -> dict[str, list[Sample]]:
    """Return the samples of one engine at its newest version, of the kernel that most devices run.

    Of kernels that equally many devices run it is the quicker one: where it is missing it was not timed.
    """
    newest = max((s.software for samples in found.values() for s in samples), key=version_of)
    kernels: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for device, samples in found.items():
        for sample in samples:
            if sample.software == newest:
                kernels[sample.kernel][device].append(sample)

    def rank(devices: Mapping[str, Sequence[Sample]]) -> tuple[int, float]:
        times = [s.measured_s for samples in devices.values() for s in samples]
        return -len(devices), float(np.median(np.concatenate(times)))

    return dict(min(kernels.values(), key=rank))


def version_of(software: str) -> tuple[int, ...]:
    """Return the numbers in the version of an engine's name, to compare versions by."""
    digits = "".join(c if c.isdigit() else " " for c in software.partition("-")[2])
    return tuple(int(part) for part in digits.split())


def main_samples(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples of each engine's main kernel; of collectives, those of the newest version."""
    by_key: dict[tuple[str, str], dict[tuple[str, str], list[Sample]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for sample in samples:
        by_key[sample.key][(sample.engine, sample.kernel)].append(sample)
    kept: list[Sample] = []
    for kernels in by_key.values():
        for engine in dict.fromkeys(engine for engine, _ in kernels):
            main = _main_kernel(engine, kernels)
            if main == EAGER:
                continue
            found = kernels[(engine, main)]
            newest = max(sample.software for sample in found)
            kept.extend(s for s in found if s.software == newest or s.form.name != "alpha_beta_mid")
    return kept


def residuals(samples: Sequence[Sample], constants: Mapping[str, float]) -> FloatArray:
    """Return the log of predicted over measured time of all rows."""
    parts = [np.log(s.form.predict(constants) / s.measured_s) for s in samples]
    return np.concatenate(parts) if parts else np.empty(0)


def fit_samples(
    samples: Sequence[Sample],
    start: Mapping[str, float] | None = None,
    *,
    train_only: bool = False,
    shared: bool = False,
) -> Constants:
    """Return the constants that fit all samples at once, starting from `start`.

    A `shared` fit leaves out what describes one engine's kernel alone.
    """
    keep = [~s.held_out.astype(bool) if train_only else np.ones(s.measured_s.size, bool) for s in samples]
    measured = np.concatenate([s.measured_s[k] for s, k in zip(samples, keep, strict=True)])
    spec: dict[str, Constant] = {}
    for sample in samples:
        spec |= {name: c for name, c in sample.form.spec.items() if not (shared and c.own)}
    for name, value in (start or {}).items():
        if name in spec:
            spec[name] = replace(spec[name], start=min(max(value, spec[name].low), spec[name].high))

    def predict(constants: Mapping[str, float]) -> FloatArray:
        return np.concatenate([s.form.predict(constants)[k] for s, k in zip(samples, keep, strict=True)])

    return fit(spec, predict, measured)


def outdone_kernels(by_device: Mapping[str, Sequence[Sample]]) -> dict[str, frozenset[Kernel]]:
    """Return, per device, the main kernels that a sibling device runs slower than another one of its own.

    An engine picks its quickest kernel. Where a table of one device lacks the kernel that its siblings
    prefer to the one in the table, it was not timed there; the sibling's is what will run.
    """
    main: dict[str, dict[tuple[str, str, str], str]] = {}
    beaten: dict[str, set[Kernel]] = defaultdict(set)
    for device, samples in by_device.items():
        main[device] = {(*s.key, s.engine): s.kernel for s in main_samples(samples)}
        for sample in samples:
            best = main[device].get((*sample.key, sample.engine))
            usual = "nongated" not in sample.kernel and sample.kernel != EAGER
            if best is not None and best != sample.kernel and usual:
                beaten[device].add((*sample.key, sample.engine, sample.kernel))
    return {
        device: frozenset(
            (*key, kernel)
            for key, kernel in found.items()
            if any((*key, kernel) in beaten[other] for other in by_device if other != device)
            and (*key, kernel) not in beaten[device]
        )
        for device, found in main.items()
    }


def _kernel_curves(
    members: Sequence[Sample], source: str, outdone: Collection[Kernel] = ()
) -> list[FittedCurve]:
    """Return a curve per engine on its main kernel, one per further kernel, and one pooled over engines."""
    kernels: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in members:
        kernels[(sample.engine, sample.kernel)].append(sample)
    kernels = {key: found for key, found in sorted(kernels.items()) if _num_rows(found) >= _MIN_ROWS}
    if not kernels:
        return []
    main = {engine: _main_kernel(engine, kernels) for engine in dict.fromkeys(e for e, _ in kernels)}
    of_main = {engine: kernels[(engine, kernel)] for engine, kernel in main.items() if kernel != EAGER}
    everything = [sample for found in (of_main or kernels).values() for sample in found]
    pooled = fit_samples(everything, shared=len(of_main) > 1)
    curves: list[FittedCurve] = []
    for (engine, kernel), found in kernels.items():
        learnt = fit_samples(found, pooled, train_only=True)
        error = np.concatenate([residuals([s], learnt)[s.held_out.astype(bool)] for s in found])
        others = [s for other, group in of_main.items() if other != engine for s in group]
        constants = fit_samples(found, pooled)
        transfer = residuals(others, constants)
        software = found[0].software
        own = kernel == main[engine] and kernel != EAGER and (*members[0].key, engine, kernel) not in outdone
        name = software if own else f"{software}:{kernel}"
        if error.size:
            told = (source, f"30 % of the shapes of {engine}")
        else:
            error, told = residuals(found, learnt), (source, "nothing")
        curves.append(_with_transfer(_curve(found, name, constants, error, told), transfer, len(of_main)))
    if len(of_main) > 1:
        parts: list[FloatArray] = []
        for engine, found in of_main.items():
            others = [s for other, group in of_main.items() if other != engine for s in group]
            parts.append(residuals(found, fit_samples(others, pooled, shared=True)))
        error = np.concatenate(parts)
        told = (source, "each engine in turn, fitted on the others")
        average = _with_transfer(_curve(everything, POOLED, pooled, error, told), error, len(of_main))
        if members[0].key not in _ONE_LIBRARY:
            average = average.model_copy(update=_quickest_error(of_main, pooled))
        curves.append(average)
    return curves


def _quickest_error(of_main: Mapping[str, Sequence[Sample]], pooled: Constants) -> dict[str, float]:
    """Return the error of the quickest of the other engines' curves, shape by shape, over engines in turn."""
    constants = {engine: fit_samples(found, pooled) for engine, found in of_main.items()}
    parts: list[FloatArray] = []
    for engine, found in of_main.items():
        others = [residuals(found, known) for other, known in constants.items() if other != engine]
        parts.append(np.minimum.reduce(others))
    error = np.concatenate(parts)
    sigma = sigma_log(error) * float(np.sqrt(1.0 + 1.0 / len(of_main)))
    return {
        "quickest_mape": round(float(np.abs(np.expm1(error)).mean() * 100.0), 1),
        "quickest_sigma_log": round(sigma, 4),
    }


def _main_kernel(engine: str, kernels: Mapping[tuple[str, str], Sequence[Sample]]) -> str:
    """Return the engine's kernel with most rows, the quicker one of equals; ungated ones come last."""
    own = [(kernel, found) for (name, kernel), found in kernels.items() if name == engine]
    return min(
        own,
        key=lambda item: (
            item[0] == EAGER or "nongated" in item[0],
            -_num_rows(item[1]),
            float(np.median(np.concatenate([s.measured_s for s in item[1]]))),
        ),
    )[0]


def _num_rows(samples: Sequence[Sample]) -> int:
    return sum(s.measured_s.size for s in samples)


def _with_transfer(curve: FittedCurve, error: FloatArray, num_engines: int) -> FittedCurve:
    """Return the curve with its error on other engines.

    The spread seen among n engines is that of n draws; the next engine's is wider by sqrt(1 + 1 / n), the
    predictive spread of a normal sample.
    """
    if error.size == 0:
        return curve
    sigma = sigma_log(error) * float(np.sqrt(1.0 + 1.0 / num_engines))
    return curve.model_copy(
        update={
            "transfer_mape": round(float(np.abs(np.expm1(error)).mean() * 100.0), 1),
            "transfer_sigma_log": round(sigma, 4),
        }
    )


def sigma_log(error: FloatArray) -> float:
    """Return the sigma of the log error whose central 90 % covers 90 % of the rows."""
    return max(float(np.percentile(np.abs(error), 90)) / _NORMAL_90, _MIN_SIGMA)


def _collective_curves(members: Sequence[Sample], source: str) -> list[FittedCurve]:
    by_software: dict[str, list[Sample]] = defaultdict(list)
    for sample in members:
        by_software[f"{sample.software}:{sample.kernel}".rstrip(":")].append(sample)
    curves: list[FittedCurve] = []
    for software, found in sorted(by_software.items()):
        constants: Constants = {}
        for sample in found:
            if sample.measured_s.size >= _MIN_ROWS:
                constants |= fit_samples([sample])
        used = [s for s in found if s.measured_s.size >= _MIN_ROWS]
        if used:
            others = [
                s
                for s in members
                if s.software != found[0].software
                and s.kernel == found[0].kernel
                and s.form.spec.keys() <= constants.keys()
            ]
            note = "other versions of the library" if others else "nothing"
            error = residuals(others or used, constants)
            curves.append(_curve(used, software, constants, error, (source, note)))
    return curves


def curve_of(
    what: tuple[str, str, str], software: str, constants: Constants, error: FloatArray
) -> FittedCurve:
    """Return a curve from its (operation, format, form), constants and the log errors that judge it."""
    relative = np.abs(np.expm1(error)) * 100.0
    operation, fmt, form = what
    return FittedCurve(
        operation=operation,
        fmt=fmt,
        form=form,
        software=software,
        constants={name: float(f"{value:.4g}") for name, value in sorted(constants.items())},
        num_rows=error.size,
        held_out_mape=round(float(relative.mean()), 1),
        held_out_p50=round(float(np.median(relative)), 1),
        held_out_p90=round(float(np.percentile(relative, 90)), 1),
        bias=round(float(np.expm1(error).mean() * 100.0), 1),
        source="measured",
        sigma_log=round(sigma_log(error), 4),
    )


def _curve(
    samples: Sequence[Sample],
    software: str,
    constants: Constants,
    error: FloatArray,
    told: tuple[str, str],
) -> FittedCurve:
    form = samples[0].form
    source, held_out = told
    curve = curve_of((form.operation, form.fmt, form.name), software, constants, error)
    return curve.model_copy(
        update={"num_rows": _num_rows(samples), "source": source, "fitted": f"held out: {held_out}"}
    )


def _wanted(group: KernelGroup) -> bool:
    if group.kind == "moe":
        return group.category["routing"] in ("", "balanced", "uniform")
    return not (group.kind == "collective" and group.category["nodes"] not in ("", "1", "1.0"))


def _form(work: object, group: KernelGroup, facts: DeviceFacts) -> Form:
    fittable: Fittable = work  # pyright: ignore[reportAssignmentType] - kernel tables hold only these kinds
    form = form_of(fittable, facts, dynamic_quant=not is_bare_kernel(group))
    if not isinstance(work, Collective):
        return form
    impl = group.category["impl"]
    operation = form.operation
    if impl.endswith("_custom_graph"):
        operation = "custom_all_reduce"
    elif impl.endswith("_custom_eager"):
        operation = "custom_all_reduce_eager"
    return replace(form, operation=operation, fmt=SCALE_UP)


def _held_out(group: KernelGroup) -> FloatArray:
    """Return which rows are left out: by shape (the sizes that do not vary fastest), never by row."""
    names = {
        "gemm": ("n", "k"),
        "attention": ("heads", "kv_heads", "batch"),
        "moe": ("hidden", "inter"),
        "exchange": ("hidden", "topk"),
    }
    code = np.zeros(group.measured_s.size)
    for name in names.get(group.kind, ()):
        code = (code * 7919.0 + np.nan_to_num(group.sizes[name]) * 104729.0) % 1000003.0
    if group.kind == "collective":
        return np.zeros(group.measured_s.size)
    return (code % 1000.0 < 1000.0 * _HELD_OUT_SHARE).astype(np.float64)
