"""Recurrent mixers: Mamba, Mamba 2 and the gated delta net, as operators with their state.

State sizes follow the caches that the transformers library allocates: a convolution keeps
`conv_kernel` columns.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.frontend.config_reader import ConfigReader
from planner.ir.model_graph import Linear, Op, Shard, Small, StateCore


def _map(
    name: str, in_features: int, out_features: int, *, shard: Shard, units: int = 0, bias: bool = False
) -> Linear:
    return Linear(
        name=name,
        in_features=in_features,
        out_features=out_features,
        shard=shard,
        num_units=units,
        slot="mixer",
        bias=bias,
        gemm=name if shard != "row" else "",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba1:
    """Selective state space mixer of Mamba 1. `inner_norms` adds Jamba's norms on step, B and C.

    Source: transformers MambaMixer and JambaMambaMixer.
    """

    hidden: int
    inner: int
    state: int
    conv_kernel: int
    dt_rank: int
    bias: bool
    conv_bias: bool
    inner_norms: bool = False
    prefix: str = "mixer"

    def ops(self) -> tuple[Op, ...]:
        """Return the operators of the block."""
        p, inner = self.prefix, self.inner
        conv = inner * (self.conv_kernel + (1 if self.conv_bias else 0))
        norms = (Small(name=f"{p}.norms", num_params=self.dt_rank + 2 * self.state),)
        return (
            _map(f"{p}.in_proj", self.hidden, 2 * inner, shard="column", bias=self.bias),
            Small(name=f"{p}.conv1d", num_params=conv, shard="column"),
            _map(f"{p}.x_proj", inner, self.dt_rank + 2 * self.state, shard="row"),
            *(norms if self.inner_norms else ()),
            _map(f"{p}.dt_proj", self.dt_rank, inner, shard="column", bias=True),
            Small(name=f"{p}.A_log", num_params=inner * self.state, shard="column"),
            Small(name=f"{p}.D", num_params=inner, shard="column"),
            StateCore(
                kind="mamba",
                num_heads=inner,
                recurrent_elems=inner * self.state,
                conv_elems=inner * self.conv_kernel,
            ),
            _map(f"{p}.out_proj", inner, self.hidden, shard="row", bias=self.bias),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2:
    """State space mixer of Mamba 2: heads that share B and C in groups.

    Source: transformers Mamba2Mixer, NemotronHMamba2Mixer and BambaMixer.
    """

    hidden: int
    num_heads: int
    head_dim: int
    num_groups: int
    state: int
    conv_kernel: int
    bias: bool
    conv_bias: bool
    prefix: str = "mixer"

    def ops(self) -> tuple[Op, ...]:
        """Return the operators of the block."""
        p, inner, groups = self.prefix, self.num_heads * self.head_dim, 2 * self.num_groups * self.state
        taps = self.conv_kernel + (1 if self.conv_bias else 0)
        name = f"{p}.in_proj"
        return (
            _map(name, self.hidden, 2 * inner, shard="column", units=self.num_heads, bias=self.bias),
            _map(name, self.hidden, groups, shard="kv_column", units=self.num_groups, bias=self.bias),
            _map(name, self.hidden, self.num_heads, shard="column", bias=self.bias),
            Small(name=f"{p}.conv1d", num_params=inner * taps, shard="column"),
            Small(name=f"{p}.conv1d", num_params=groups * taps, shard="kv_column", num_units=self.num_groups),
            Small(name=f"{p}.dt_bias_A_D", num_params=3 * self.num_heads, shard="column"),
            StateCore(
                kind="mamba2",
                num_heads=self.num_heads,
                recurrent_elems=inner * self.state,
                conv_elems=(inner + groups) * self.conv_kernel,
                num_groups=self.num_groups,
                group_conv_elems=groups * self.conv_kernel,
            ),
            Small(name=f"{p}.norm", num_params=inner, shard="column"),
            _map(f"{p}.out_proj", inner, self.hidden, shard="row", units=self.num_heads, bias=self.bias),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaNet:
    """Gated delta rule: a matrix state per value head, keys shared by groups of value heads.

    Source: transformers Qwen3NextGatedDeltaNet and Qwen3_5GatedDeltaNet.
    """

    hidden: int
    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int

    def ops(self) -> tuple[Op, ...]:
        """Return the operators of the block."""
        p = "linear_attn"
        keys, values = self.num_key_heads * self.key_dim, self.num_value_heads * self.value_dim
        value_units = self.num_value_heads
        conv = 2 * keys + values
        return (
            _map(f"{p}.in_proj_qkv", self.hidden, 2 * keys, shard="column", units=self.num_key_heads),
            _map(f"{p}.in_proj_qkv", self.hidden, values, shard="column", units=value_units),
            _map(f"{p}.in_proj_z", self.hidden, values, shard="column", units=value_units),
            _map(f"{p}.in_proj_ba", self.hidden, 2 * value_units, shard="column", units=value_units),
            Small(name=f"{p}.conv1d", num_params=conv * self.conv_kernel, shard="column"),
            Small(name=f"{p}.dt_bias_A", num_params=2 * value_units, shard="column"),
            StateCore(
                kind="gated_delta_net",
                num_heads=self.num_value_heads,
                recurrent_elems=self.num_value_heads * self.key_dim * self.value_dim,
                conv_elems=conv * self.conv_kernel,
            ),
            Small(name=f"{p}.norm", num_params=self.value_dim),
            _map(f"{p}.out_proj", values, self.hidden, shard="row", units=value_units),
        )


def read_gated_delta_net(config: ConfigReader) -> GatedDeltaNet:
    """Read the dimensions of the gated delta net.

    Raises
    ------
    InputError
        If key heads do not divide the value heads.
    """
    keys, values = config.count("linear_num_key_heads"), config.count("linear_num_value_heads")
    if values % keys:
        raise config.refuse("linear_num_value_heads", f"is not a multiple of the {keys} key heads")
    return GatedDeltaNet(
        hidden=config.count("hidden_size"),
        num_key_heads=keys,
        num_value_heads=values,
        key_dim=config.count("linear_key_head_dim"),
        value_dim=config.count("linear_value_head_dim"),
        conv_kernel=config.count("linear_conv_kernel_dim"),
    )
