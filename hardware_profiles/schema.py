"""Schema of the profile files: facts on devices, links, nodes, clusters, prices and software.

Every number carries its source; `Fact` is a number with the key of an entry of the file's
`sources` table, which gives title, address, date and what kind of source it is. In a file a fact is
written `{value: 3.35 TB/s, source: datasheet}`; the unit is checked against the field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hardware_profiles.errors import ProfileError
from hardware_profiles.provenance import Provenance
from hardware_profiles.units import Dimension, parse_quantity

Positive = Annotated[float, Field(gt=0)]

PEAK_FORMATS = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4", "int4")
LinkKind = Literal[
    "nvlink", "xgmi", "pcie", "infiniband", "ethernet", "ici", "neuronlink", "hccs", "on_package", "c2c"
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


SourceKind = Literal["vendor", "publication", "measurement", "derived", "assumption"]

_PROVENANCE: Mapping[str, Provenance] = {
    "vendor": Provenance.ANALYTICAL,
    "publication": Provenance.ANALYTICAL,
    "derived": Provenance.ANALYTICAL,
    "measurement": Provenance.MEASURED,
    "assumption": Provenance.ASSUMED,
}
_DATE = re.compile(r"given\Z|[12][0-9]{3}(-(0[1-9]|1[0-2])(-(0[1-9]|[12][0-9]|3[01]))?)?\Z")
_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}\Z")


class Source(_Strict):
    """Where a number was read, and when it was published or read.

    `date` is year[-month[-day]], or the word given for what the user stated with the request.
    `kind`: vendor (data sheet, documentation), publication (others wrote it), measurement, derived
    (computed from other facts, the title says how), assumption (a judgement; the title says whose basis).
    """

    title: str
    url: str
    date: str
    kind: SourceKind = "publication"

    @field_validator("date", mode="before")
    @classmethod
    def _check_date(cls, value: object) -> str:
        text = str(value)
        if not _DATE.match(text):
            raise ValueError("a date is written 2024, 2024-03 or 2024-03-18")
        return text


class Fact(_Strict):
    """A number in base units (bytes, seconds, FLOP/s, watts, USD) with its source key."""

    value: float
    source: str
    note: str = ""


def _fact_in(dimension: Dimension) -> Callable[[object], object]:
    def parse(given: object) -> object:
        if isinstance(given, Fact):
            return given
        if not isinstance(given, Mapping) or "value" not in given:
            raise ValueError("a fact is written {value: NUMBER UNIT, source: KEY}")
        fact = dict(cast("Mapping[str, object]", given))
        try:
            fact["value"] = parse_quantity(fact["value"], dimension)
        except ProfileError as error:
            raise ValueError(str(error)) from None
        return fact

    return parse


BytesFact = Annotated[Fact, BeforeValidator(_fact_in("bytes"))]
BandwidthFact = Annotated[Fact, BeforeValidator(_fact_in("bytes_per_s"))]
ComputeFact = Annotated[Fact, BeforeValidator(_fact_in("flops_per_s"))]
TimeFact = Annotated[Fact, BeforeValidator(_fact_in("time"))]
PowerFact = Annotated[Fact, BeforeValidator(_fact_in("power"))]
PriceFact = Annotated[Fact, BeforeValidator(_fact_in("usd_per_hour"))]
CountFact = Annotated[Fact, BeforeValidator(_fact_in("count"))]


class _Sourced(_Strict):
    """A file with facts: every source key must be an entry of `sources`."""

    name: str
    sources: dict[str, Source]

    def facts(self) -> tuple[tuple[str, Fact], ...]:
        """Return every fact of the file with its dotted key, in the order of the fields."""
        return tuple(_facts_in(self, ""))

    def provenance_of(self, fact: Fact) -> Provenance:
        """Return how far `fact`, which is one of this file's, can be trusted."""
        return _PROVENANCE[self.sources[fact.source].kind]

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not _NAME.match(value):
            raise ValueError("a name has lower-case letters, digits, dots, + and dashes, at most 64")
        return value

    @model_validator(mode="after")
    def _check_sources(self) -> _Sourced:
        for key, fact in self.facts():
            if fact.source not in self.sources:
                known = ", ".join(self.sources) or "none"
                raise ValueError(f"{key}: source {fact.source!r} is not in `sources` ({known})")
        return self

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.name))


def _facts_in(value: object, key: str) -> list[tuple[str, Fact]]:
    if isinstance(value, Fact):
        return [(key, value)]
    found: list[tuple[str, Fact]] = []
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            found += _facts_in(getattr(value, name), f"{key}.{name}" if key else name)
    elif isinstance(value, dict):
        for name, item in cast("dict[str, object]", value).items():
            found += _facts_in(item, f"{key}.{name}")
    elif isinstance(value, tuple):
        for index, item in enumerate(cast("tuple[object, ...]", value)):
            found += _facts_in(item, f"{key}[{index}]")
    return found


class FittedCurve(_Strict):
    """Constants of one functional form fitted to measurements, with their held-out error in percent.

    `form` names the form in the cost models; `operation` is gemm, attention_prefill, attention_decode,
    mla_prefill, mla_decode, moe, or a collective; `fmt` the number format (and KV format after a slash), or
    for a collective the link. `sigma_log` is the standard deviation of the log of measured over predicted on
    rows that were not fitted, such that 90 % intervals cover 90 % of them; `fitted` says what was held out.
    `transfer_*` is the error on kernels of other engines, 0 where there were none: what to expect where
    the engine is not known. `quickest_*` is that of the quickest of all engines' curves, shape by shape, on
    each engine in turn while it is left out (stated by the pooled curve; 0 where it was not judged).
    """

    operation: str
    fmt: str
    form: str
    software: str
    constants: dict[str, float]
    num_rows: int
    held_out_mape: float
    held_out_p50: float
    held_out_p90: float
    bias: float
    source: str
    sigma_log: Positive = 0.3
    fitted: str = ""
    transfer_mape: float = 0.0
    transfer_sigma_log: float = 0.0
    quickest_mape: float = 0.0
    quickest_sigma_log: float = 0.0


class DeviceProfile(_Sourced):
    """One accelerator (or CPU server): what the data sheet says, and what was fitted on it.

    `memory_bytes` is the data sheet's capacity read as decimal bytes; `driver_memory_bytes` is what the
    driver reports where that is known (often a few percent more). Peaks are dense, by format. `l2_bytes` is
    the last cache that all compute units share. `scale_up_domain` devices can be joined by `scale_up_link`
    (1: none, the devices of a node meet over `host_link`). `reached_flops_per_s` is what large
    products were measured to reach, by format, where nobody fitted curves on the device: the curves that
    stand in then give that rate. `sustained_slowdown` is how much longer matrix products take
    under the lasting load of training, when power caps clocks, than in short benchmarks.
    """

    vendor: str
    family: str
    aliases: tuple[str, ...] = ()
    kind: Literal["gpu", "tpu", "npu", "apu", "cpu"] = "gpu"
    memory_bytes: BytesFact
    driver_memory_bytes: BytesFact | None = None
    memory_bandwidth_bytes_per_s: BandwidthFact
    peak_flops_per_s: dict[str, ComputeFact]
    num_sms: CountFact
    l2_bytes: BytesFact
    tdp_w: PowerFact
    idle_w: PowerFact
    scale_up_link: str
    scale_up_domain: Annotated[int, Field(ge=1, le=100_000)]
    host_link: str
    default_node: str
    reached_flops_per_s: dict[str, ComputeFact] = {}
    sustained_slowdown: CountFact | None = None
    curves: tuple[FittedCurve, ...] = ()
    notes: str = ""

    @field_validator("peak_flops_per_s")
    @classmethod
    def _check_peaks(cls, value: dict[str, Fact]) -> dict[str, Fact]:
        unknown = sorted(set(value) - set(PEAK_FORMATS))
        if unknown or not value:
            raise ValueError(f"unknown format {unknown or 'none'}; allowed: {', '.join(PEAK_FORMATS)}")
        return value

    @field_validator("reached_flops_per_s")
    @classmethod
    def _check_reached(cls, value: dict[str, Fact], info: ValidationInfo) -> dict[str, Fact]:
        peaks: Mapping[str, Fact] = info.data.get("peak_flops_per_s", {})
        for fmt, fact in value.items():
            if fmt not in peaks:
                raise ValueError(f"no peak is stated for {fmt}; allowed: {', '.join(peaks) or 'none'}")
            if not 0.0 < fact.value <= peaks[fmt].value:
                raise ValueError(f"{fmt}: {fact.value:g} FLOP/s are not between 0 and the peak")
        return value

    __hash__ = _Sourced.__hash__


class LinkProfile(_Sourced):
    """One kind of link: bandwidth per device and direction, latency of one message."""

    kind: LinkKind
    aliases: tuple[str, ...] = ()
    bandwidth_bytes_per_s: BandwidthFact
    latency_s: TimeFact
    in_network_reduction: bool = False
    notes: str = ""

    __hash__ = _Sourced.__hash__


class NodeProfile(_Sourced):
    """A server: devices of one kind, their links, host memory, network.

    `scale_up_domain` may exceed `devices_per_node` (rack-scale NVLink). Devices of a node outside one
    domain meet over `intra_node_link`. `num_network_links` network adapters serve the whole node; a
    device that sends alone uses one of them (or its share, where there are more adapters than devices).
    `host_memory_bytes_per_s` is the peak of all channels of all sockets.
    """

    device: str
    devices_per_node: Annotated[int, Field(ge=1, le=1024)]
    scale_up_domain: Annotated[int, Field(ge=1, le=100_000)]
    scale_up_link: str
    intra_node_link: str
    network_link: str
    num_network_links: Annotated[int, Field(ge=1, le=1024)]
    host_memory_bytes: BytesFact
    host_memory_bytes_per_s: BandwidthFact | None = None
    power_overhead_w: PowerFact
    aliases: tuple[str, ...] = ()
    notes: str = ""

    __hash__ = _Sourced.__hash__


class PriceEntry(_Strict):
    """On-demand price of one device for one hour."""

    device: str
    usd_per_device_hour: PriceFact


class PriceList(_Sourced):
    """A dated list of prices."""

    entries: tuple[PriceEntry, ...]
    aliases: tuple[str, ...] = ()
    notes: str = ""

    __hash__ = _Sourced.__hash__


class SoftwareProfile(_Sourced):
    """An engine at a version: overheads and abilities.

    `per_step_s` is paid once per iteration, `per_layer_s` per layer, `per_sequence_s` per running
    sequence; `overlap` is the share of communication hidden behind compute; `kernel_software` lists, in
    order of preference, whose fitted curves price this engine's kernels. `prompt_layer_s` is what the host
    takes to launch a dense layer of a step that holds prompt tokens, which no graph covers (other layers in
    proportion to their kernels), and `launch_sharpness` says how it meets the device's time: the step takes
    (device^p + launches^p)^(1/p), one after the other where absent (p = 1), side by side the larger p.
    `admission_s` is what the front end takes to take a request in, one after another and beside the
    steps; `reserved_output_share` is the share of a request's output for which cache must
    be free before it starts. `compute_scale` multiplies GEMM, attention and expert kernels (1 where absent).
    `memory_fraction` is a share of `memory_scope`: of the ``device`` for everything, of the device for
    weights and caches alone (``static``; activations and graphs live in the rest), or of what weights and
    buffers leave ``free`` for the caches. Products in `tuned_formats` run the quickest of the libraries'
    kernels, which the engine tries out when it starts. With `random_prefill_ranks` the attention rank that
    computes a prompt for a decode worker is drawn, else ranks take turns. `vendors` lists whose devices the
    engine runs on (empty: not known, any).
    """

    engine: str
    version: str
    per_step_s: TimeFact
    per_layer_s: TimeFact
    per_sequence_s: TimeFact
    per_request_s: TimeFact
    overlap: CountFact
    memory_fraction: CountFact
    memory_scope: Literal["device", "static", "free"] = "device"
    graph_memory_bytes: BytesFact
    context_memory_bytes: BytesFact
    static_quantisation: bool = True
    reserved_output_share: CountFact | None = None
    prompt_layer_s: TimeFact | None = None
    launch_sharpness: CountFact | None = None
    admission_s: TimeFact | None = None
    compute_scale: CountFact | None = None
    kernel_software: tuple[str, ...] = ()
    tuned_formats: tuple[str, ...] = ()
    random_prefill_ranks: bool = False
    vendors: tuple[str, ...] = ()
    notes: str = ""

    __hash__ = _Sourced.__hash__

    def runs_on(self, device: DeviceProfile) -> bool:
        """Return whether the engine has kernels for a device; without `vendors` it is taken to."""
        return not self.vendors or device.vendor in self.vendors

    @property
    def kernel_scale(self) -> float:
        """Factor on the time of GEMM, attention and expert kernels."""
        return 1.0 if self.compute_scale is None else self.compute_scale.value

    @property
    def launches_meet(self) -> float:
        """The exponent with which launches meet the device's time; 1 (one after the other) where absent."""
        return 1.0 if self.launch_sharpness is None else self.launch_sharpness.value


class TrainerProfile(_Sourced):
    """A training stack at a version: how its kernels, host and communication differ from bare kernels.

    Time: `compute_scale` multiplies GEMM, attention and expert kernels (clocks under sustained load,
    library version), `elementwise_scale` the bytes of element-wise kernels (what is not fused),
    `attention_backward` is the backward of a fused attention core over its forward, `flash_version` (2 or
    3) its generation, `score_bytes` what an unfused one moves per element of the score matrix forward.
    `expert_scale` multiplies the products of routed experts once more (how they are grouped and fused; on
    devices of `fused_expert_families` alone, where those are named), and
    `expert_bias_bytes` are moved, both passes, per element of what experts with biases put out.
    `per_layer_s` is the host's time to launch a layer's pass (a floor), to which every expert of a rank adds
    `per_expert_s` where experts are launched one by one; `per_micro_batch_s` is paid per
    micro-batch and stage, `per_step_s` once. Overlaps are shares (0 to 1) of communication that hides
    behind compute; `regather_overlap` is that of the inputs gathered again by sequence parallelism.
    `dp_efficiency` is the share of library collectives' speed inside a node that gradient and parameter
    traffic reaches beside compute.
    `straggler` is the slow-down per doubling of nodes.

    `loss_bytes` are moved per logit by the loss, both passes.

    Memory: bytes per parameter of weights, gradients and optimizer; `reduce_bytes` of a gradient on the
    wire; `logit_bytes` per element of the logits at the peak, `parallel_logit_bytes` where the vocabulary
    is split over tensor ranks and the loss takes another path; `max_live_params` is the most parameters that
    ZeRO-3 holds gathered at once; `context_memory_bytes` is held outside the
    allocator, `allocator_slack` the share that the allocator holds beside activations. `selective_products`
    is the share of matrix products that selective recompute repeats. `dropout` keeps masks, `eager_copies`
    what kernels that are not fused keep around gates and a fused attention; with `passed_buffers` every
    micro-batch of a step has its own buffers for what stages pass to each other;
    `sequence_parallel` is the default with tensor parallelism. Without `scatter_gather` every tensor rank
    sends whole activations to the next stage. `sends_once` says that a token goes once to a rank that holds
    several of its experts. `optimizer_sync` says that no stage updates its weights before
    all have finished (a global norm or overflow check). `sigma_log` is the spread of log(measured /
    predicted) on sources that were not fitted.
    """

    engine: str
    version: str
    aliases: tuple[str, ...] = ()
    compute_scale: CountFact
    elementwise_scale: CountFact
    attention_backward: CountFact
    flash_version: CountFact
    score_bytes: CountFact
    expert_scale: CountFact | None = None
    expert_bias_bytes: CountFact | None = None
    per_layer_s: TimeFact
    per_expert_s: TimeFact | None = None
    per_micro_batch_s: TimeFact
    per_step_s: TimeFact
    tp_overlap: CountFact
    regather_overlap: CountFact
    cp_overlap: CountFact
    ep_overlap: CountFact
    p2p_overlap: CountFact
    dp_overlap: CountFact
    dp_efficiency: CountFact
    straggler: CountFact
    weight_bytes: CountFact
    gradient_bytes: CountFact
    optimizer_bytes: CountFact
    reduce_bytes: CountFact
    logit_bytes: CountFact
    parallel_logit_bytes: CountFact | None = None
    loss_bytes: CountFact | None = None
    max_live_params: CountFact | None = None
    selective_products: CountFact
    context_memory_bytes: BytesFact
    allocator_slack: CountFact
    sigma_log: CountFact
    flash_attention: bool = True
    sequence_parallel: bool = True
    dropout: bool = False
    scatter_gather: bool = True
    sends_once: bool = False
    eager_copies: bool = False
    passed_buffers: bool = False
    optimizer_sync: bool = True
    fused_expert_families: tuple[str, ...] = ()
    kernel_software: tuple[str, ...] = ()
    notes: str = ""

    __hash__ = _Sourced.__hash__
