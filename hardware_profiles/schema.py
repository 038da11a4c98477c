"""Schema of the profile files: facts on devices, links, nodes, clusters, prices and software.

Every number carries its source; `Fact` is a number with the key of an entry of the file's
`sources` table, which gives title, address and date.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """Where a number was read."""

    title: str
    url: str
    date: str


class Fact(_Strict):
    """A number in base units (bytes, seconds, FLOP/s, watts, USD) with its source key."""

    value: float
    source: str
    note: str = ""


class FittedCurve(_Strict):
    """Constants of one functional form fitted to measurements, with their held-out error in percent.

    `form` names the form in the cost models; `operation` is gemm, attention_prefill, attention_decode,
    mla_prefill, mla_decode, moe, or a collective; `fmt` the number format (and KV format after a slash), or
    for a collective the link. `sigma_log` is the standard deviation of the log of measured over predicted on
    rows that were not fitted, such that 90 % intervals cover 90 % of them; `fitted` says what was held out.
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


class DeviceProfile(_Strict):
    """One accelerator (or CPU server): what the data sheet says, and what was fitted on it."""

    name: str
    vendor: str
    family: str
    aliases: tuple[str, ...] = ()
    kind: Literal["gpu", "tpu", "npu", "apu", "cpu"] = "gpu"
    memory_bytes: Fact
    memory_bandwidth_bytes_per_s: Fact
    peak_flops_per_s: dict[str, Fact]
    num_sms: Fact
    l2_bytes: Fact
    tdp_w: Fact
    idle_w: Fact
    scale_up_link: str
    scale_up_domain: int
    host_link: str
    default_node: str
    sources: dict[str, Source]
    curves: tuple[FittedCurve, ...] = ()
    notes: str = ""


class LinkProfile(_Strict):
    """One kind of link: bandwidth per device and direction, latency."""

    name: str
    kind: Literal[
        "nvlink", "xgmi", "pcie", "infiniband", "ethernet", "ici", "neuronlink", "hccs", "on_package", "c2c"
    ]
    aliases: tuple[str, ...] = ()
    bandwidth_bytes_per_s: Fact
    latency_s: Fact
    in_network_reduction: bool = False
    sources: dict[str, Source]
    notes: str = ""


class NodeProfile(_Strict):
    """A server: devices of one kind, their links, host memory, network."""

    name: str
    device: str
    devices_per_node: int
    scale_up_domain: int
    network_link: str
    host_memory_bytes: Fact
    power_overhead_w: Fact
    aliases: tuple[str, ...] = ()
    sources: dict[str, Source]
    notes: str = ""


class PriceEntry(_Strict):
    """On-demand price of one device for one hour."""

    device: str
    usd_per_device_hour: Fact


class PriceList(_Strict):
    """A dated list of prices."""

    name: str
    entries: tuple[PriceEntry, ...]
    sources: dict[str, Source]


class SoftwareProfile(_Strict):
    """An engine at a version: overheads and abilities.

    `per_step_s` is paid once per iteration, `per_layer_s` per layer, `per_sequence_s` per running
    sequence; `overlap` is the share of communication hidden behind compute; `kernel_software` lists, in
    order of preference, whose fitted curves price this engine's kernels.
    """

    name: str
    engine: str
    version: str
    per_step_s: Fact
    per_layer_s: Fact
    per_sequence_s: Fact
    per_request_s: Fact
    overlap: Fact
    memory_fraction: Fact
    graph_memory_bytes: Fact
    context_memory_bytes: Fact
    static_quantisation: bool = True
    kernel_software: tuple[str, ...] = ()
    sources: dict[str, Source]
    notes: str = ""
