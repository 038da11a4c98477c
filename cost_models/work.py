"""The vocabulary that cost models price: pieces of work, with no notion of models or layers.

Every numeric field takes a float or an array; fields of one piece broadcast against each
other, so a million kernel queries are one piece of work with long arrays. Counts are per
device. Formats are names such as ``bf16``, ``fp16``, ``fp8``, ``fp8_block``, ``int8``,
``w4a16``, ``mxfp4``, ``nvfp4``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cost_models.cost import FloatArray

Number = float | FloatArray

CollectiveOp = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p", "broadcast"]
AttentionKind = Literal["gqa", "mla_absorbed", "mla_expanded"]
Phase = Literal["prefill", "decode"]
NETWORK_KINDS = ("infiniband", "ethernet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """y[m, n] = x[m, k] W[k, n] with weights in `fmt` (a whole quantised linear layer if quantised)."""

    m: Number
    n: Number
    k: Number
    fmt: str = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One layer's attention core over `batch` equal sequences on one device.

    `q_len` new tokens attend to `kv_len` tokens in all (the new ones included), causally.
    `window` is the sliding window in tokens, 0 for full attention. `num_heads` and
    `num_kv_heads` count this device's share. For ``mla_absorbed`` the cache row is
    `head_dim` (latent + rope) wide and shared by all heads and `v_head_dim` is the latent width.
    """

    phase: Phase
    batch: Number
    q_len: Number
    kv_len: Number
    num_heads: Number
    num_kv_heads: Number
    head_dim: Number
    v_head_dim: Number
    window: Number = 0.0
    kv_fmt: str = "bf16"
    q_fmt: str = "bf16"
    kind: AttentionKind = "gqa"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertGemm:
    """Routed experts of one layer on one device: gate, up and down projections.

    `num_tokens` enter the layer over the whole expert-parallel group; each picks `top_k` of
    `num_experts`. This device holds num_experts / ep experts, each `inter` / tp wide.
    `skew` is the ratio of the busiest device's load to the mean (1 is balanced). `routing` says which
    experts get work when tokens are few: independent choices (real traffic) or an even deal (benchmarks).
    `all_tokens_present` says that tokens were gathered to every rank, not dispatched to those that need them.
    """

    num_tokens: Number
    hidden: Number
    inter: Number
    top_k: Number
    num_experts: Number
    tp: Number = 1.0
    ep: Number = 1.0
    skew: Number = 1.0
    gated: bool = True
    routing: Literal["random", "balanced"] = "random"
    all_tokens_present: bool = False
    fmt: str = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Memory-bound work that moves `num_bytes` through device memory in `num_kernels` launches."""

    num_bytes: Number
    num_kernels: Number = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StateScan:
    """Recurrent mixer (Mamba, gated delta net): state update over `num_tokens` of `batch` sequences.

    `state_elems` is the recurrent state per sequence on this device (elements, fp32).
    """

    phase: Phase
    num_tokens: Number
    batch: Number
    state_elems: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec:
    """One level of the network as a collective sees it.

    `bandwidth_bytes_per_s` is per device and direction after oversubscription;
    `kind` is that of the link's profile (``nvlink``, ``infiniband``, ``ethernet``...), empty where unknown;
    `calibration` names a fitted table of the device ("" when there is none).
    """

    name: str
    latency_s: float
    bandwidth_bytes_per_s: float
    in_network_reduction: bool = False
    calibration: str = ""
    kind: str = ""

    @property
    def is_network(self) -> bool:
        """Whether messages cross a network adapter, with its own start-up and its own algorithms."""
        return self.kind in NETWORK_KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A group of devices over levels of the network, innermost first.

    The group has prod(ranks_per_level) devices; `ranks_per_level[i]` groups of the level
    below meet over `links[i]`.
    """

    ranks_per_level: tuple[int, ...]
    links: tuple[LinkSpec, ...]

    @property
    def num_ranks(self) -> int:
        """Devices in the group."""
        total = 1
        for ranks in self.ranks_per_level:
            total *= ranks
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """A collective over `span`; `num_bytes` is the full per-rank buffer in the nccl-tests sense.

    (all_gather: the gathered output; reduce_scatter and all_to_all: the whole input; p2p: the message.)
    """

    op: CollectiveOp
    num_bytes: Number
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenExchange:
    """Half of the exchange of tokens around routed experts, among the devices of `span`.

    Each device holds `num_tokens` tokens of which every one goes to (dispatch) or returns from (combine)
    `top_k` experts that are spread over all devices; `row_bytes` is one token on the wire. `kernel` is the
    implementation: ``normal`` sends one copy per device and node, ``low_latency`` one per expert, the
    ``nvlink_`` ones write within one scale-up domain; ``best`` takes the fastest that was measured.
    """

    half: Literal["dispatch", "combine"]
    num_tokens: Number
    top_k: Number
    row_bytes: Number
    span: Span
    kernel: Literal["best", "normal", "low_latency", "nvlink_one_sided", "nvlink_two_sided"] = "best"


@dataclass(frozen=True, slots=True, kw_only=True)
class KvTransfer:
    """KV cache of one request moved between pools, split over `num_lanes` parallel links."""

    num_bytes: Number
    link: LinkSpec
    num_lanes: Number = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTransfer:
    """Bytes moved between device and host memory over `link`, or where there is none over the model's own."""

    num_bytes: Number
    to_device: bool = True
    link: LinkSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool with a log-normal latency."""

    mean_s: float
    sigma_log: float = 0.0


Work = (
    Gemm
    | Attention
    | ExpertGemm
    | Stream
    | StateScan
    | Collective
    | TokenExchange
    | KvTransfer
    | HostTransfer
    | ToolCall
)
