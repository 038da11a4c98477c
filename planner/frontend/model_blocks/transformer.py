"""The common decoder: grouped-query attention and a feed-forward block in every layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from planner.frontend.model_blocks.attention import GqaAttention
from planner.frontend.model_blocks.decoder import norm, stack
from planner.frontend.model_blocks.ffn import Ffn, Moe
from planner.ir.model_graph import Layer, Op

PRE_NORMS = ("input_layernorm", "post_attention_layernorm")
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
SANDWICH_NORMS = (*PRE_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")


def block_layer(
    kind: str,
    mixer: tuple[Op, ...],
    ffn: tuple[Op, ...],
    *,
    hidden: int,
    norms: tuple[str, ...] = PRE_NORMS,
    norm_bias: bool = False,
) -> Layer:
    """Return a layer of a mixer, a feed-forward block and the named norms over `hidden`."""
    return Layer(kind=kind, ops=(*(norm(n, hidden, bias=norm_bias) for n in norms), *mixer, *ffn))


@dataclass(frozen=True, slots=True, kw_only=True)
class GqaStack:
    """Decoder layers of one attention shape: `windows` per layer (0: full), `norms` over the width."""

    attention: GqaAttention
    windows: tuple[int, ...]
    norms: tuple[str, ...] = PRE_NORMS
    norm_bias: bool = False

    def dense(self, ffn: Ffn) -> tuple[Layer, ...]:
        """Return the layers with the same feed-forward block in each."""
        ops = ffn.ops()
        return self.layers(lambda _: ("ffn", ops))

    def moe(self, moe: Moe) -> tuple[Layer, ...]:
        """Return the layers with the same experts in each."""
        ops = moe.ops()
        return self.layers(lambda _: ("moe", ops))

    def mixed(self, sparse: tuple[bool, ...], moe: Moe, ffn: Callable[[], Ffn]) -> tuple[Layer, ...]:
        """Return the layers with experts where `sparse` and a dense block elsewhere."""
        experts = moe.ops() if any(sparse) else ()
        dense = () if all(sparse) else ffn().ops()
        return self.layers(lambda i: ("moe", experts) if sparse[i] else ("ffn", dense))

    def layers(self, ffn: Callable[[int], tuple[str, tuple[Op, ...]]]) -> tuple[Layer, ...]:
        """Return the layers; `ffn` gives (label, operators) of layer i."""

        def layer(index: int) -> Layer:
            label, ops = ffn(index)
            return block_layer(
                f"attention+{label}",
                replace(self.attention, window=self.windows[index]).ops(),
                ops,
                hidden=self.attention.hidden,
                norms=self.norms,
                norm_bias=self.norm_bias,
            )

        return stack(len(self.windows), layer)
