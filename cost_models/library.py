"""The cost model of one device under one engine: prices every kind of work.

``device_cost_model(device, software).price(work)`` is the one entry point. Constants come from the
curves of the device where it was measured, from its family otherwise; the provenance and the variance
of the answer say which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np

from cost_models.communication.collectives import LevelConstants, collective_time_s
from cost_models.communication.exchange import KERNELS, exchange_time_s
from cost_models.communication.transfers import host_transfer_time_s, kv_transfer_time_s
from cost_models.compute import attention as attention_forms
from cost_models.compute.elementwise import scan_time_s, stream_time_s
from cost_models.compute.experts import expert_time_s
from cost_models.compute.gemm import GemmSetting, gemm_time_s
from cost_models.cost import Cost, FloatArray
from cost_models.curves import Chosen, CurveSet, NoCurveError
from cost_models.facts import DeviceFacts, rate_scales
from cost_models.formats import number_format
from cost_models.work import (
    Attention,
    Collective,
    ExpertGemm,
    Gemm,
    HostTransfer,
    KvTransfer,
    LinkSpec,
    StateScan,
    Stream,
    TokenExchange,
    ToolCall,
    Work,
)
from hardware_profiles.provenance import Provenance
from hardware_profiles.schema import DeviceProfile, SoftwareProfile

SCALE_UP = "scale_up"
NETWORK = "network"
SKEW_SIGMA_LOG = 0.2
"""Spread that routing skew adds: with the same mean skew the measured rank's load differs by so much."""
BARE_LAUNCH_FACTOR = 1.5
"""Launch of a low-precision product over that of a 16-bit one: epilogues scale (judged, 2026-11)."""
HOST_LAUNCH_S = 15e-6
"""Median of eager less graph latency of engines' all-reduce kernels (public kernel tables, 2026-08)."""
ENGINE_ALL_REDUCE = {"custom": "custom_all_reduce", "custom_eager": "custom_all_reduce_eager"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """What is being predicted.

    `replay` predicts a microbenchmark that replays one kernel with L2-hot data; serving leaves it off.
    `quant` says how quantised layers quantise their activations: in a dynamic pass, with a static scale, or
    not at all (a bare kernel). `all_reduce` says which
    kernel reduces inside one level: the faster one, the library's, or the engine's own; eager ones pay the
    host's launch, which graphs do not. `unknown` says what stands in for the kernels of an engine that nobody
    measured: the quickest of those measured on the device, or those of the average engine.
    """

    replay: bool = False
    quant: Literal["dynamic", "static", "none"] = "dynamic"
    all_reduce: Literal["best", "library", "library_eager", "custom", "custom_eager"] = "best"
    unknown: Literal["quickest", "average"] = "average"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCostModel:
    """Prices work on one device; build it with `device_cost_model`.

    Products in `tuned_formats` are those of an engine that picks among the kernels of several libraries when
    it starts, and cost what the quickest measured one does. `borrowed` are the facts under curves that were
    fitted on other devices: they make those reach what large products were measured to reach on this one.
    """

    facts: DeviceFacts
    borrowed: DeviceFacts
    curves: CurveSet
    pricing: Pricing
    scale_up_link: str = ""
    host_link: LinkSpec | None = None
    tuned_formats: tuple[str, ...] = ()
    _handlers: dict[type, Callable[..., Cost]] = field(default_factory=dict[type, Callable[..., Cost]])

    def __post_init__(self) -> None:
        """Fill the table from kinds of work to what prices them."""
        self._handlers.update(
            {
                Gemm: self._gemm,
                Attention: self._attention,
                ExpertGemm: self._experts,
                Stream: self._stream,
                StateScan: self._scan,
                Collective: self._collective,
                TokenExchange: self._exchange,
                KvTransfer: self._kv_transfer,
                HostTransfer: self._host_transfer,
                ToolCall: self._tool_call,
            }
        )

    def price(self, work: Work) -> Cost:
        """Return the cost of `work`, elementwise over its broadcast fields.

        Raises
        ------
        UnsupportedFormatError
            If the device has no peak for the format; its `fallback` names what an engine would run.
        ValueError
            If a field is negative, no curve covers the operation, or a host link is missing.
        """
        _refuse_negative(work)
        return self._handlers[type(work)](work)

    def origin(self, operation: str, fmt: str) -> str:
        """Return in words which curve prices an operation."""
        return self.curves.choose(operation, fmt).origin

    def _gemm(self, work: Gemm) -> Cost:
        fmt = number_format(work.fmt)
        self.facts.peak(fmt)
        chosen = self.curves.choose("gemm", fmt.name)
        setting = GemmSetting(
            quant=self.pricing.quant,
            replay=self.pricing.replay,
            bare_launch_s=self._bare_launch_s() if fmt.quantises else None,
        )
        facts = self._facts("gemm", fmt.name)

        def seconds(constants: Mapping[str, float]) -> FloatArray:
            return gemm_time_s(work, constants, facts, fmt, setting)

        if fmt.name not in self.tuned_formats:
            return self._kernel("gemm", fmt.name, chosen, seconds)
        time_s = seconds(chosen.constants)
        for other in self.curves.of_engines("gemm", fmt.name):
            time_s = np.minimum(time_s, seconds(other.constants))
        return _cost(time_s, chosen)

    def _facts(self, operation: str, fmt: str) -> DeviceFacts:
        """Return the device as its own curves see it, or as those of other devices do."""
        if self.borrowed is self.facts or self.curves.has_own(operation, fmt):
            return self.facts
        return self.borrowed

    def _kernel(
        self,
        operation: str,
        fmt: str,
        chosen: Chosen,
        seconds: Callable[[Mapping[str, float]], FloatArray],
        *,
        extra_sigma_log: FloatArray | float = 0.0,
    ) -> Cost:
        """Price a kernel by the chosen curve, or by the quickest of all engines' where none is its own."""
        found = None
        if chosen.is_stranger and self.pricing.unknown == "quickest":
            found = self.curves.quickest_of(operation, fmt)
        if found is None:
            return _cost(seconds(chosen.constants), chosen, extra_sigma_log=extra_sigma_log)
        engines, sigma_log = found
        time_s = np.minimum.reduce([seconds(engine.constants) for engine in engines])
        origin = "quickest of " + "; ".join(engine.origin for engine in engines)
        quickest = replace(chosen, sigma_log=sigma_log, origin=origin)
        return _cost(time_s, quickest, extra_sigma_log=extra_sigma_log)

    def _bare_launch_s(self) -> float | None:
        """Return the launch of a product without quantisation, from the 16-bit curve; None without one."""
        try:
            constants = self.curves.choose("gemm", "bf16").constants
        except NoCurveError:
            return None
        launch = constants.get("launch_s")
        return None if launch is None else BARE_LAUNCH_FACTOR * launch

    def _attention(self, work: Attention) -> Cost:
        operation = attention_forms.operation_of(work)
        q_fmt, kv_fmt = number_format(work.q_fmt).name, number_format(work.kv_fmt).name
        key = kv_fmt if q_fmt in ("bf16", "fp16") else f"{q_fmt}/{kv_fmt}"
        try:
            chosen = self.curves.choose(operation, key)
        except NoCurveError:
            key = kv_fmt
            chosen = self.curves.choose(operation, key)
        facts = self._facts(operation, kv_fmt)

        def seconds(constants: Mapping[str, float]) -> FloatArray:
            if work.phase == "decode":
                return attention_forms.decode_time_s(work, constants, facts, replay=self.pricing.replay)
            return attention_forms.prefill_time_s(work, constants, facts)

        return self._kernel(operation, key, chosen, seconds)

    def _experts(self, work: ExpertGemm) -> Cost:
        fmt = number_format(work.fmt)
        self.facts.peak(fmt)
        chosen = self.curves.choose("moe", fmt.name)
        facts = self._facts("moe", fmt.name)

        def seconds(constants: Mapping[str, float]) -> FloatArray:
            return expert_time_s(work, constants, facts, fmt, replay=self.pricing.replay)

        skewed = np.asarray(work.skew, dtype=np.float64) > 1.0
        spread = np.where(skewed, SKEW_SIGMA_LOG, 0.0)
        return self._kernel("moe", fmt.name, chosen, seconds, extra_sigma_log=spread)

    def _stream(self, work: Stream) -> Cost:
        chosen = self.curves.choose("stream", "any")
        return _cost(stream_time_s(work, chosen.constants, self.facts), chosen)

    def _scan(self, work: StateScan) -> Cost:
        chosen = self.curves.choose("state_scan", "any")
        return _cost(scan_time_s(work, chosen.constants, self.facts), chosen)

    def _collective(self, work: Collective) -> Cost:
        used: list[Chosen] = []
        time_s = collective_time_s(work, partial(self._level, used))
        if not used:
            return Cost(time_s=time_s, variance_s2=np.zeros_like(time_s), provenance=Provenance.MEASURED)
        if self.pricing.all_reduce == "library_eager":
            time_s = time_s + self._host_launch_s()
        worst = max(used, key=lambda c: (c.provenance, c.sigma_log))
        return _cost(time_s, worst)

    def _host_launch_s(self) -> float:
        """Return what an eager collective costs more than one in a graph, from the engine's own kernel."""
        graph, eager = (ENGINE_ALL_REDUCE[name] for name in ("custom", "custom_eager"))
        if not (self.curves.has_own(graph, SCALE_UP) and self.curves.has_own(eager, SCALE_UP)):
            return HOST_LAUNCH_S
        slow, quick = (self.curves.choose(name, SCALE_UP).constants for name in (eager, graph))
        shared = [key for key in slow if key.startswith("alpha_s_n") and key in quick]
        return float(np.median([max(0.0, slow[key] - quick[key]) for key in shared] or [HOST_LAUNCH_S]))

    def _level(self, used: list[Chosen], operation: str, link: LinkSpec) -> LevelConstants:
        name = self._link_key(operation, link)
        if operation == "all_reduce" and self.pricing.all_reduce in ENGINE_ALL_REDUCE:
            operation = ENGINE_ALL_REDUCE[self.pricing.all_reduce]
            if not self.curves.has_own(operation, name):
                raise NoCurveError(f"{self.facts.name} has no measured {operation} over {link.name}")
        main = self.curves.choose(operation, name)
        used.append(main)
        custom = ENGINE_ALL_REDUCE["custom"]
        with_small = (operation, self.pricing.all_reduce) == ("all_reduce", "best")
        small = None
        if with_small and self.curves.has_own(custom, name):
            # plans and runs are taken to be on hosts that let devices reach each other
            small = self.curves.of_peer_host(custom, name) or self.curves.choose(custom, name)
        return LevelConstants(main=main.constants, small=small.constants if small else None)

    def _link_key(self, operation: str, link: LinkSpec) -> str:
        """Return the format key of a link's curves: measured ones belong to the device's scale-up link.

        A network has curves under its own name or, where nobody fitted it, those of all networks.
        """
        if link.calibration:
            return link.calibration
        if _plain(link.name) == _plain(self.scale_up_link):
            return SCALE_UP
        return NETWORK if link.is_network and not self.curves.has(operation, link.name) else link.name

    def _exchange(self, work: TokenExchange) -> Cost:
        if work.kernel != "best":
            chosen = self.curves.choose(work.half, work.kernel)
            return _cost(exchange_time_s(work, chosen.constants), chosen)
        fitted = [name for name in KERNELS if self.curves.has_own(work.half, name)] or list(KERNELS[:2])
        if len(work.span.ranks_per_level) > 1:
            fitted = [name for name in fitted if not name.startswith("nvlink")] or list(KERNELS[:2])
        costs = [self._exchange(replace(work, kernel=name)) for name in fitted]
        quickest = np.argmin(np.stack([cost.time_s for cost in costs]), axis=0)
        return Cost(
            time_s=np.choose(quickest, [cost.time_s for cost in costs]),
            variance_s2=np.choose(quickest, [cost.variance_s2 for cost in costs]),
            provenance=max(cost.provenance for cost in costs),
            origin="; ".join(cost.origin for cost in costs),
        )

    def _kv_transfer(self, work: KvTransfer) -> Cost:
        chosen = self.curves.choose("kv_transfer", "any")
        return _cost(kv_transfer_time_s(work, chosen.constants), chosen)

    def _host_transfer(self, work: HostTransfer) -> Cost:
        link = work.link or self.host_link
        if link is None:
            raise ValueError(f"{self.facts.name}: a host transfer needs the host link; none was given")
        chosen = self.curves.choose("host_transfer", "any")
        time_s = host_transfer_time_s(work, chosen.constants, link.bandwidth_bytes_per_s, link.latency_s)
        return _cost(time_s, chosen)

    def _tool_call(self, work: ToolCall) -> Cost:
        mean = np.asarray(work.mean_s, dtype=np.float64)
        variance = np.square(mean) * np.expm1(np.square(work.sigma_log))
        return Cost(time_s=mean, variance_s2=variance, provenance=Provenance.ASSUMED)


def device_cost_model(
    device: DeviceProfile,
    software: SoftwareProfile | None = None,
    *,
    pricing: Pricing | None = None,
    host_link: LinkSpec | None = None,
    kernel_software: Iterable[str] = (),
) -> DeviceCostModel:
    """Return the cost model of `device` under `software`.

    Parameters
    ----------
    device
        Facts on the device; its own `curves` win over those shipped for its name.
    software
        Engine; None prices the average engine (curves pooled over engines).
    pricing
        What is predicted; by default serving: cold caches, the engine's own quantisation.
    host_link
        Link to host memory, needed for host transfers only.
    kernel_software
        Kernel software to prefer when there is no software profile.
    """
    if pricing is None:
        static = software is None or software.static_quantisation
        pricing = Pricing(quant="static" if static else "dynamic", unknown="quickest")
    preferred = software.kernel_software if software is not None else tuple(kernel_software)
    facts, curves = DeviceFacts.of(device), CurveSet.of(device, preferred)
    return DeviceCostModel(
        facts=facts,
        borrowed=_borrowed(device, facts, curves),
        curves=curves,
        pricing=pricing,
        scale_up_link=device.scale_up_link,
        host_link=host_link,
        tuned_formats=software.tuned_formats if software is not None else (),
    )


def _borrowed(device: DeviceProfile, facts: DeviceFacts, curves: CurveSet) -> DeviceFacts:
    """Return the facts under curves of other devices; those of the device where no reached rate is stated."""
    if not device.reached_flops_per_s:
        return facts

    def best_eff(fmt: str) -> float:
        constants = curves.choose("gemm", fmt).constants
        return max(value for key, value in constants.items() if key.startswith("eff_"))

    return replace(facts, rate_scale=rate_scales(device, best_eff))


def _cost(time_s: FloatArray, chosen: Chosen, *, extra_sigma_log: FloatArray | float = 0.0) -> Cost:
    variance = np.square(time_s) * np.expm1(chosen.sigma_log**2 + np.square(extra_sigma_log))
    return Cost(time_s=time_s, variance_s2=variance, provenance=chosen.provenance, origin=chosen.origin)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _refuse_negative(work: Work) -> None:
    for name in work.__dataclass_fields__:
        value: object = getattr(work, name)
        if isinstance(value, (int, float, np.ndarray)) and not isinstance(value, bool):
            numbers = np.asarray(value, dtype=np.float64)
            low = numbers.min() if numbers.size else 0.0
            if not low >= 0:
                raise ValueError(f"{type(work).__name__}.{name} must not be negative or NaN, got {low}")
