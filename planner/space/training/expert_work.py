"""The routed experts of a layer in training: grouped products, permutation and token exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cost_models.work import ExpertGemm, Stream
from planner.ir.model_graph import Experts
from planner.space.training.layer_work import ACT_BYTES, LayerSum

if TYPE_CHECKING:
    from planner.space.training.layer_pricer import LayerPricer


class ExpertWork:
    """Adds the routed experts to the sums of a layer."""

    def __init__(self, pricer: LayerPricer) -> None:
        self._pricer = pricer

    def add(self, op: Experts, acc: LayerSum) -> None:
        """Add time, token exchange and kept bytes of `op`.

        Each token goes to top_k experts; the products over a rank's share are those of ep ranks' tokens
        spread over num_experts / ep experts. Weight gradients take as long as the forward pass. What biases
        and the gates that go with them move beside the products is forward for a third. Without tokens
        dropped or padded, the host launches every expert's products for itself.
        """
        pricer, shape = self._pricer, self._pricer.shape
        # Tensor ranks outside the experts' own share the tokens of a sequence between them.
        tokens = pricer.tokens * shape.etp / shape.tp
        work = ExpertGemm(
            num_tokens=tokens * shape.ep,
            hidden=op.hidden,
            inter=op.inter,
            top_k=op.top_k,
            num_experts=op.num_experts,
            tp=shape.etp,
            ep=shape.ep,
            skew=shape.routing_skew,
            gated=op.gated,
            routing="balanced",
            fmt=shape.fmt,
        )
        time_s = pricer.time(work, acc) * pricer.software.expert_scale
        acc.forward += time_s
        acc.backward += time_s
        acc.weight_grad += time_s
        acc.expert_params += op.num_params_per_rank(shape.ep, shape.etp)
        routed = tokens * op.top_k
        maps = 2.0 if op.gated else 1.0
        width = op.inter / shape.etp
        pricer.add_activation(routed * maps * width, acc, gated=op.gated)
        acc.kept += routed * op.hidden * pricer.input_bytes
        if pricer.software.flash_attention:  # selective recompute repeats the activation function
            acc.core_kept += routed * width * pricer.input_bytes
        else:
            acc.kept += routed * width * pricer.input_bytes
        if op.bias and pricer.software.expert_bias_bytes > 0.0:
            bias = pricer.time(Stream(num_bytes=routed * op.hidden * pricer.software.expert_bias_bytes))
            acc.forward += bias / 3.0
            acc.backward += bias * 2.0 / 3.0
        acc.host += pricer.software.per_expert_s * op.num_experts / shape.ep
        # Permutation before and after: each reads and writes every routed token.
        permute = pricer.stream(routed * op.hidden * 4.0 * ACT_BYTES, 4.0)
        acc.forward += permute
        acc.backward += permute
        acc.working = acc.working + routed * op.hidden * 2.0 * ACT_BYTES
        if pricer.groups.expert.num_ranks > 1:
            sent = routed * _share_sent(op.top_k, shape.ep, once=pricer.software.sends_once)
            exchange = pricer.collective("all_to_all", sent * op.hidden * ACT_BYTES, pricer.groups.expert)
            acc.expert_comm += 2.0 * exchange


def _share_sent(top_k: int, ranks: int, *, once: bool) -> float:
    """Return the share of a token's copies that are sent: all, or one per rank that holds any of its experts.

    With experts chosen evenly a rank holds none of k with (1 - 1/ranks)^k. Source: dispatch of DeepEP and
    HybridEP, which copies a token at its target (deepseek-ai/DeepEP, README).
    """
    return ranks * (1.0 - (1.0 - 1.0 / ranks) ** top_k) / top_k if once else 1.0
