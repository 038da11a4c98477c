"""Strategy: the degrees of one replica, and nothing about where it lands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingStrategy:
    """Degrees of one serving replica.

    A replica has tp * pp * attention_dp * prefill_cp devices. Attention runs tp-way inside each of the
    `attention_dp` data-parallel ranks; experts are spread `ep` ways and split `moe_tp` ways with
    ep * moe_tp = tp * attention_dp * prefill_cp. `decode_cp` reuses tensor ranks: it splits the KV
    cache of a tensor group along the sequence and divides tp. Every layer holds `redundant_experts` second
    copies of hot experts, so that the ranks of `ep` are loaded more evenly.
    """

    tp: int = 1
    pp: int = 1
    attention_dp: int = 1
    ep: int = 1
    moe_tp: int = 1
    prefill_cp: int = 1
    decode_cp: int = 1
    redundant_experts: int = 0

    @property
    def num_devices(self) -> int:
        """Devices of one replica."""
        return self.tp * self.pp * self.attention_dp * self.prefill_cp

    @property
    def stage_devices(self) -> int:
        """Devices of one pipeline stage."""
        return self.tp * self.attention_dp * self.prefill_cp
