"""Feed-forward blocks: dense ones and routed experts, as operators."""

from __future__ import annotations

from dataclasses import dataclass

from planner.frontend.config_reader import ConfigReader
from planner.ir.model_graph import Experts, Linear, Op, Slot, Small


@dataclass(frozen=True, slots=True, kw_only=True)
class Ffn:
    """Gate, up and down maps (without `gated`: up and down). `names` are those in checkpoints."""

    hidden: int
    inter: int
    gated: bool = True
    bias: bool = False
    slot: Slot = "dense_ffn"
    prefix: str = "mlp"
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")

    def ops(self) -> tuple[Op, ...]:
        """Return the operators of the block."""
        gate, up, down = self.names
        inputs = tuple(
            Linear(
                name=f"{self.prefix}.{name}",
                in_features=self.hidden,
                out_features=self.inter,
                shard="column",
                slot=self.slot,
                bias=self.bias,
                gemm=f"{self.prefix}.gate_up" if self.gated else "",
            )
            for name in ((gate, up) if self.gated else (up,))
        )
        output = Linear(
            name=f"{self.prefix}.{down}",
            in_features=self.inter,
            out_features=self.hidden,
            shard="row",
            slot=self.slot,
            bias=self.bias,
        )
        return (*inputs, output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moe:
    """A router, routed experts and optionally experts that every token passes.

    `shared_inter` is the summed width of the shared experts (0: none); `shared_gate` weighs their
    output per token. `router_buffer` is a bias that is stored but is no parameter. `latent` is
    the width that experts work in where it is not the model's.
    """

    hidden: int
    num_experts: int
    top_k: int
    inter: int
    gated: bool = True
    expert_bias: bool = False
    router_bias: bool = False
    router_buffer: bool = False
    shared_inter: int = 0
    shared_gate: bool = False
    shared_bias: bool = False
    latent: int = 0
    prefix: str = "mlp"
    router_name: str = "gate"
    shared_name: str = "shared_experts"

    def ops(self) -> tuple[Op, ...]:
        """Return the operators of the block."""
        return (*self._router(), *self._shared(), *self._routed())

    def _router(self) -> tuple[Op, ...]:
        router = Linear(
            name=f"{self.prefix}.{self.router_name}",
            in_features=self.hidden,
            out_features=self.num_experts,
            shard="replicated",
            slot="router",
            bias=self.router_bias,
            quantised=False,
        )
        if not self.router_buffer:
            return (router,)
        buffer = Small(
            name=f"{self.prefix}.{self.router_name}.e_score_correction_bias",
            num_params=self.num_experts,
            buffer=True,
        )
        return (router, buffer)

    def _shared(self) -> tuple[Op, ...]:
        if not self.shared_inter:
            return ()
        shared = Ffn(
            hidden=self.hidden,
            inter=self.shared_inter,
            gated=self.gated,
            bias=self.shared_bias,
            slot="shared_expert",
            prefix=f"{self.prefix}.{self.shared_name}",
        ).ops()
        if not self.shared_gate:
            return shared
        gate = Linear(
            name=f"{self.prefix}.{self.shared_name}_gate",
            in_features=self.hidden,
            out_features=1,
            shard="replicated",
            slot="shared_expert",
            quantised=False,
        )
        return (*shared, gate)

    def _routed(self) -> tuple[Op, ...]:
        experts = Experts(
            name=f"{self.prefix}.experts",
            num_experts=self.num_experts,
            top_k=self.top_k,
            hidden=self.latent or self.hidden,
            inter=self.inter,
            gated=self.gated,
            bias=self.expert_bias,
        )
        if not self.latent:
            return (experts,)
        return (
            self._latent_map("fc1_latent_proj", self.hidden, self.latent),
            experts,
            self._latent_map("fc2_latent_proj", self.latent, self.hidden),
        )

    def _latent_map(self, name: str, in_features: int, out_features: int) -> Linear:
        return Linear(
            name=f"{self.prefix}.{name}",
            in_features=in_features,
            out_features=out_features,
            shard="replicated",
            slot="other",
            bias=self.shared_bias,
        )


def read_ffn(config: ConfigReader, *, bias: bool = False) -> Ffn:
    """Read a gated feed-forward block of `intermediate_size`."""
    return Ffn(hidden=config.count("hidden_size"), inter=config.count("intermediate_size"), bias=bias)


def read_moe(config: ConfigReader, *, inter_key: str = "moe_intermediate_size") -> Moe:
    """Read routed experts of width `inter_key`, without shared ones.

    Raises
    ------
    InputError
        If a token is to use more experts than there are.
    """
    num_experts = config.count("num_experts", maximum=65536)
    top_k = config.count("num_experts_per_tok")
    if top_k > num_experts:
        raise config.refuse("num_experts_per_tok", f"exceeds the {num_experts} experts")
    return Moe(
        hidden=config.count("hidden_size"),
        num_experts=num_experts,
        top_k=top_k,
        inter=config.count(inter_key),
    )
