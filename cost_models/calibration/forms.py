"""The forms that can be fitted: constants with their starting values, and the prediction they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cost_models.calibration.solver import Constant
from cost_models.communication.exchange import exchange_time_s
from cost_models.communication.fitted import fitted_terms
from cost_models.compute import attention
from cost_models.compute.experts import expert_time_s
from cost_models.compute.gemm import GemmSetting, gemm_time_s
from cost_models.cost import FloatArray
from cost_models.facts import DeviceFacts
from cost_models.formats import number_format
from cost_models.work import Attention, Collective, ExpertGemm, Gemm, TokenExchange

Fittable = Gemm | Attention | ExpertGemm | Collective | TokenExchange
Predictor = Callable[[Mapping[str, float]], FloatArray]

_GEMM = {
    "eff_64x64": Constant(start=0.5, low=1e-5, high=1.2, spread=0.5),
    "eff_64x128": Constant(start=0.7, low=1e-5, high=1.2, spread=0.5),
    "eff_128x128": Constant(start=0.75, low=1e-5, high=1.2, spread=0.5),
    "eff_128x256": Constant(start=0.8, low=1e-5, high=1.2, spread=0.5),
    "memory_eff": Constant(start=0.8, low=1e-4, high=1.3, spread=0.5),
    "launch_s": Constant(start=3.5e-6, low=5e-8, high=0.1, spread=1.0),
    "extra_k": Constant(start=80.0, low=1.0, high=3000.0, spread=1.0),
    "sharpness": Constant(start=3.0, low=1.0, high=12.0, spread=0.7),
    "wave_share": Constant(start=0.2, low=0.005, high=1.0, spread=1.0),
    "hot_gain": Constant(start=1.0, low=0.01, high=6.0, spread=1.0),
    "hot_share": Constant(start=1.0, low=0.1, high=3.0, spread=0.5),
}
_QUANTISED = {
    "quant_eff": Constant(start=0.4, low=0.01, high=3.0, spread=1.0),
    "quant_launch_s": Constant(start=2.5e-6, low=5e-8, high=0.01, spread=1.0),
}
_PREFILL = {
    "eff": Constant(start=0.6, low=1e-5, high=1.2),
    "extra_tokens": Constant(start=200.0, low=1.0, high=8000.0),
    "tail": Constant(start=0.3, low=0.005, high=3.0),
    "softmax_width": Constant(start=40.0, low=0.5, high=600.0),
    "block_s": Constant(start=5e-7, low=1e-9, high=0.01),
    "memory_eff": Constant(start=0.5, low=1e-4, high=1.5),
    "launch_s": Constant(start=1e-5, low=5e-7, high=0.1),
    "sharpness": Constant(start=1.3, low=1.0, high=8.0, spread=0.5),
    "width_power": Constant(start=1.0, low=0.5, high=2.5, spread=0.3),
    "window_pad": Constant(start=64.0, low=1.0, high=4096.0, spread=1.5, own=True),
}
_DECODE = {
    "memory_eff": Constant(start=0.85, low=1e-4, high=1.2),
    "eff": Constant(start=0.3, low=1e-5, high=1.5),
    "unit_s": Constant(start=3e-6, low=1e-8, high=0.01),
    "launch_s": Constant(start=1e-5, low=5e-7, high=0.1),
    "ramp_bytes": Constant(start=2e7, low=1e4, high=3e8),
    "hot_gain": Constant(start=0.5, low=0.01, high=5.0),
    "hot_share": Constant(start=0.7, low=0.1, high=1.5, spread=0.5),
    "wave_share": Constant(start=0.1, low=0.002, high=1.0),
    "key_s": Constant(start=3e-9, low=1e-11, high=1e-6, own=True),
    "combine_s": Constant(start=2e-6, low=5e-8, high=1e-4),
    "combine_keys": Constant(start=256.0, low=16.0, high=8192.0, spread=0.7),
}
_DECODE_HEADS = {
    "group_limit": Constant(start=40.0, low=24.0, high=400.0, own=True),
    "single_share": Constant(start=0.9, low=0.5, high=1.0, spread=0.5, own=True),
    "row_units": Constant(start=0.3, low=0.01, high=20.0),
}
_DECODE_LATENT = {
    "eff": Constant(start=0.3, low=1e-5, high=1.0),
    "pad_heads": Constant(start=16.0, low=0.5, high=64.0),
}
_MOE = {
    "eff": Constant(start=0.5, low=1e-5, high=1.2),
    "memory_eff": Constant(start=0.7, low=1e-4, high=1.3),
    "launch_s": Constant(start=2.5e-5, low=1e-6, high=0.1),
    "tile_rows": Constant(start=32.0, low=1.0, high=256.0),
    "sharpness": Constant(start=2.0, low=1.0, high=10.0),
    "activation_eff": Constant(start=0.3, low=0.01, high=5.0),
    "absent_eff": Constant(start=0.5, low=0.003, high=30.0),
    "extra_inter": Constant(start=64.0, low=1.0, high=2000.0),
    "wave_share": Constant(start=0.2, low=0.005, high=1.0),
    "hot_gain": Constant(start=0.3, low=0.01, high=5.0),
    "hot_share": Constant(start=0.7, low=0.1, high=3.0, spread=0.5),
}

_EXCHANGE = {
    "launch_s": Constant(start=2e-5, low=1e-6, high=1e-2),
    "eff": Constant(start=0.6, low=0.001, high=3.0),
    "network_eff": Constant(start=0.8, low=0.01, high=1.5),
    "network_s": Constant(start=1e-5, low=1e-7, high=1e-2),
    "token_s": Constant(start=1e-9, low=1e-12, high=1e-5),
    "peer_s": Constant(start=1e-7, low=1e-9, high=1e-4),
    "mid_s": Constant(start=3e-6, low=1e-8, high=1e-2),
    "mid_bytes": Constant(start=2e6, low=1e3, high=1e9),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What the solver needs to fit one piece of work."""

    operation: str
    fmt: str
    name: str
    spec: Mapping[str, Constant]
    predict: Predictor


def form_of(work: Fittable, facts: DeviceFacts, *, dynamic_quant: bool = True) -> Form:
    """Return the form that prices `work` (measured in a replay benchmark) on the device.

    Raises
    ------
    UnsupportedFormatError
        If the device has no arithmetic for the format.
    """
    if isinstance(work, Gemm):
        return _gemm(work, facts, dynamic_quant)
    if isinstance(work, Attention):
        return _attention(work, facts)
    if isinstance(work, ExpertGemm):
        fmt = number_format(work.fmt)
        facts.peak(fmt)
        return Form(
            operation="moe",
            fmt=_curve_name(fmt.name),
            name="tile",
            spec=_MOE,
            predict=lambda constants: expert_time_s(work, constants, facts, fmt, replay=True),
        )
    if isinstance(work, TokenExchange):
        return Form(
            operation=work.half,
            fmt=work.kernel,
            name="exchange",
            spec=_EXCHANGE,
            predict=lambda constants: exchange_time_s(work, constants),
        )
    return _collective(work)


def attention_key(work: Attention) -> str:
    """Return the format key of an attention curve: the KV format, after the query's if that is not half."""
    q_fmt, kv_fmt = number_format(work.q_fmt).name, number_format(work.kv_fmt).name
    return _curve_name(kv_fmt) if q_fmt in ("bf16", "fp16") else f"{q_fmt}/{_curve_name(kv_fmt)}"


def _curve_name(fmt: str) -> str:
    return "bf16" if fmt == "fp16" else fmt


def _gemm(work: Gemm, facts: DeviceFacts, dynamic_quant: bool) -> Form:
    fmt = number_format(work.fmt)
    facts.peak(fmt)
    setting = GemmSetting(quant="dynamic" if dynamic_quant else "none", replay=True)
    return Form(
        operation="gemm",
        fmt=_curve_name(fmt.name),
        name="tile",
        spec=_GEMM | _QUANTISED if fmt.quantises and dynamic_quant else _GEMM,
        predict=lambda constants: gemm_time_s(work, constants, facts, fmt, setting),
    )


def _attention(work: Attention, facts: DeviceFacts) -> Form:
    facts.peak(number_format(work.q_fmt))
    decode = work.phase == "decode"
    spec = _PREFILL
    if decode:
        spec = _DECODE | (_DECODE_LATENT if work.kind == "mla_absorbed" else _DECODE_HEADS)
    return Form(
        operation=attention.operation_of(work),
        fmt=attention_key(work),
        name="root" if decode else "sum",
        spec=spec,
        predict=(
            (lambda constants: attention.decode_time_s(work, constants, facts, replay=True))
            if decode
            else (lambda constants: attention.prefill_time_s(work, constants, facts))
        ),
    )


def _collective(work: Collective) -> Form:
    ranks, link = work.span.num_ranks, work.span.links[0]
    num_bytes = np.asarray(work.num_bytes, dtype=np.float64)

    def predict(constants: Mapping[str, float]) -> FloatArray:
        terms = fitted_terms(work.op, num_bytes, ranks, link, constants)
        return terms.latency_s + terms.wire_s

    spec = {
        f"alpha_s_n{ranks}": Constant(start=1e-5, low=2e-7, high=1e-2),
        f"eff_n{ranks}": Constant(start=0.8, low=0.001, high=3.0),
        f"mid_s_n{ranks}": Constant(start=5e-6, low=1e-8, high=1e-2),
        f"mid_bytes_n{ranks}": Constant(start=2e6, low=1e3, high=1e9),
    }
    return Form(operation=work.op, fmt="scale_up", name="alpha_beta_mid", spec=spec, predict=predict)
