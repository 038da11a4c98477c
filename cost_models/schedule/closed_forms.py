"""Closed forms of named pipeline schedules: idle time of a step and peak activation memory.

All are for equal stages: pass times are those of one micro-batch on one device (T_F forward, T_I input
gradient, T_W weight gradient, seconds), memory counts activations of one micro-batch on one device, of
which the part `weight_part` is held until W. Idle time is the time of the step beyond m (T_F + T_I + T_W).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineShape:
    """Devices p, micro-batches m, chunks per device v, pass and send times (s), part of memory held for W."""

    num_devices: int
    num_microbatches: int
    forward_s: float
    backward_input_s: float
    backward_weight_s: float
    send_s: float = 0.0
    num_chunks: int = 1
    weight_part: float = 0.5

    @property
    def work_s(self) -> float:
        """Time of all passes of one micro-batch on one device."""
        return self.forward_s + self.backward_input_s + self.backward_weight_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedForm:
    """Formulas of one schedule.

    `bubble_s` counts to the end of the step (a barrier follows), `stage_bubble_s` per device from its own
    first pass to its last (no barrier); `peak` gives activations per device, first device first.
    `exact_when` says in words where the formulas hold to the last digit; elsewhere they are estimates.
    """

    bubble_s: Callable[[PipelineShape], float]
    stage_bubble_s: Callable[[PipelineShape], float]
    peak: Callable[[PipelineShape], tuple[float, ...]]
    exact_when: str
    source: str


def _devices(shape: PipelineShape) -> range:
    return range(shape.num_devices)


def _one_f_one_b_bubble(s: PipelineShape) -> float:
    p, m = s.num_devices, s.num_microbatches
    sends = 2 * m * (p - 1) / p + 2 * (p - 2) if p > 1 else 0.0
    return (p - 1) * s.work_s + s.send_s * sends


def _fill(s: PipelineShape) -> float:
    return (s.num_devices - 1) * (s.work_s + 2 * s.send_s)


def _interleaved_peak(s: PipelineShape) -> tuple[float, ...]:
    p, v = s.num_devices, s.num_chunks
    ahead = (2 * (p - 1 - d) + (v - 1) * p + 1 for d in _devices(s))
    return tuple(min(n, s.num_microbatches * v) / v for n in ahead)


def _h1_bubble(s: PipelineShape) -> float:
    return (s.num_devices - 1) * (s.forward_s + s.backward_input_s - s.backward_weight_s + 4 * s.send_s)


def _h2_stage_bubble(s: PipelineShape) -> float:
    return (s.num_devices - 1) * (s.forward_s + s.backward_input_s - 2 * s.backward_weight_s + 2 * s.send_s)


def _h2_bubble(s: PipelineShape) -> float:
    late = (s.num_devices - 1) * (s.forward_s + s.send_s)
    return max(late, _h2_stage_bubble(s))


def _h1_peak(s: PipelineShape) -> tuple[float, ...]:
    return tuple(s.num_devices - d + d * s.weight_part for d in _devices(s))


def _h2_peak(s: PipelineShape) -> tuple[float, ...]:
    last = s.num_devices - 1
    return tuple(2 * (last - d) + 1 + 2 * d * s.weight_part for d in _devices(s))


def _even(amount: Callable[[int], float]) -> Callable[[PipelineShape], tuple[float, ...]]:
    return lambda s: (amount(s.num_devices),) * s.num_devices


_EQUAL = "T_F = T_I = T_W and no send time"
_ZB = "Qi et al., Zero Bubble Pipeline Parallelism, ICLR 2024 (arXiv 2401.10241)"
_V = "Qi et al., Pipeline Parallelism with Controllable Memory, NeurIPS 2024 (arXiv 2405.15362)"

CLOSED_FORMS: dict[str, ClosedForm] = {
    "gpipe": ClosedForm(
        bubble_s=_fill,
        stage_bubble_s=_fill,
        peak=lambda s: (float(s.num_microbatches),) * s.num_devices,
        exact_when="always",
        source="Huang et al., GPipe, NeurIPS 2019, section 2.3; the send term is one fill and one drain",
    ),
    "1f1b": ClosedForm(
        bubble_s=_one_f_one_b_bubble,
        stage_bubble_s=_one_f_one_b_bubble,
        peak=lambda s: tuple(float(min(s.num_devices - d, s.num_microbatches)) for d in _devices(s)),
        exact_when="m is a multiple of p >= 2 and sends are short beside passes",
        source="Narayanan et al., SC 2021 (arXiv 2104.04473), section 2.2.1; the send term was derived here: "
        "every p micro-batches pay two sends per hop, for the alternation leaves no slack to hide them",
    ),
    "interleaved-1f1b": ClosedForm(
        bubble_s=lambda s: (s.num_devices - 1) * s.work_s / s.num_chunks,
        stage_bubble_s=lambda s: (s.num_devices - 1) * s.work_s / s.num_chunks,
        peak=_interleaved_peak,
        exact_when="no send time",
        source="Narayanan et al., SC 2021 (arXiv 2104.04473), section 2.2.2",
    ),
    "zb-h1": ClosedForm(
        bubble_s=_h1_bubble,
        stage_bubble_s=_h1_bubble,
        peak=_h1_peak,
        exact_when="m >= 2p, T_W <= T_F and T_W <= T_I",
        source=f"{_ZB}, section 2.1 and table 2; the send term was derived here",
    ),
    "zb-h2": ClosedForm(
        bubble_s=_h2_bubble,
        stage_bubble_s=_h2_stage_bubble,
        peak=_h2_peak,
        exact_when="m >= 2p, T_W <= T_F, T_W <= T_I and 2 T_W <= T_F + T_I",
        source=f"{_ZB}, section 2.2 and table 2",
    ),
    "zb-v": ClosedForm(
        bubble_s=lambda s: (s.num_devices - 1) * s.work_s / 6,
        stage_bubble_s=lambda s: 0.0 * s.work_s,
        peak=_even(float),
        exact_when=f"{_EQUAL}, m >= 2p",
        source=f"{_V}, section 4; with a barrier the last device still begins p - 1 half passes late",
    ),
    "v-half": ClosedForm(
        bubble_s=lambda s: (3 * s.num_devices - 7) * s.work_s / 6,
        stage_bubble_s=lambda s: (3 * s.num_devices - 7) * s.work_s / 6,
        peak=_even(lambda p: p / 2 + 1),
        exact_when=f"{_EQUAL}, m >= 2p, p >= 4 even",
        source=f"{_V}, section 4 (half of 1F1B); the constant was derived here from the block",
    ),
    "v-min": ClosedForm(
        bubble_s=lambda s: (4 * s.num_devices - 5) * s.work_s / 6,
        stage_bubble_s=lambda s: (4 * s.num_devices - 5) * s.work_s / 6,
        peak=_even(lambda p: float(-(-(p + 2) // 3))),
        exact_when=f"{_EQUAL}, m >= 2p, p >= 4 even",
        source=f"{_V}, section 4 (two thirds of 1F1B); the constant was derived here from the block",
    ),
    "dualpipe": ClosedForm(
        bubble_s=lambda s: (s.num_devices / 2 - 1) * (s.forward_s + s.backward_input_s - s.backward_weight_s),
        stage_bubble_s=lambda s: (
            (s.num_devices / 2 - 1) * (s.forward_s + s.backward_input_s - s.backward_weight_s)
        ),
        peak=_even(lambda p: p + 1.0),
        exact_when="no send time, T_W <= T_F, T_W <= T_I, pairs run one after the other",
        source="derived here for pairs that are not overlapped; memory: DeepSeek-V3 report "
        "(arXiv 2412.19437), table 2; the model's parameters are held twice",
    ),
}


def dualpipe_overlapped_bubble_s(shape: PipelineShape, pair_s: float) -> float:
    """Return DualPipe's idle time where a forward and a backward pass overlap and take `pair_s` together.

    (p / 2 - 1)(T_pair + T_B - 3 T_W) with T_B = T_I + T_W.

    Source: DeepSeek-V3 technical report (arXiv 2412.19437), table 2.
    """
    backward = shape.backward_input_s + shape.backward_weight_s
    return (shape.num_devices / 2 - 1) * (pair_s + backward - 3 * shape.backward_weight_s)


def makespan_lower_bound_s(shape: PipelineShape) -> float:
    """Return (p - 1)(T_F / v + T_send) + m (T_F + T_I + T_W), which no schedule of equal stages can beat.

    The device that the first micro-batch reaches last cannot start earlier and has all its own work to do.
    Source: derived here; with v chunks, p - 1 chunks of one lap come before it.
    """
    head = shape.forward_s / shape.num_chunks + shape.send_s
    return (shape.num_devices - 1) * head + shape.num_microbatches * shape.work_s
