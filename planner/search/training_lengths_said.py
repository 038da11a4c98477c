"""What is said beside a plan for batches of different lengths: experts, the gap, and why nothing fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.diagnostics import Diagnostics
from planner.ir.candidates import BindingLimit, InfeasibilityReport
from planner.ir.model_graph import Experts, ModelGraph
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.search.training_lengths import LengthOutcome

_SAID_GAP = 1e-4


def say_lengths_experts(model: ModelGraph, diagnostics: Diagnostics) -> None:
    """Say that experts are not spread: groups of ranks run out of step, which exchanges of tokens cannot."""
    if any(isinstance(op, Experts) for layer in model.layers for op in layer.ops):
        diagnostics.note(
            "training-lengths-experts",
            "every device holds all experts (ep 1, etp 1): groups of ranks run micro-batches of different "
            "numbers and lengths, and exchanges of tokens between groups would wait for one another; plans "
            "for one length (seq_len without lengths) spread experts",
        )


def say_lengths_gap(gap: float, interrupted: bool, diagnostics: Diagnostics) -> None:
    """Say what a gap is made of: packings that might be better, not plans that were left out."""
    if gap <= _SAID_GAP or interrupted:
        return
    diagnostics.note(
        "training-lengths-gap",
        "the gap is that of the packings: every degree, recompute and sharding that could be faster was "
        "packed, but a better packing of the batches is not ruled out",
    )


def without_room(
    problem: Problem[TrainingProblem], outcomes: Sequence[LengthOutcome], report: InfeasibilityReport
) -> InfeasibilityReport:
    """Return why there is no plan, with the longest sequence that a group has room for, tokens."""
    longest = problem.payload.workload.seq_len
    most = max(outcome.most_tokens for outcome in outcomes)
    if most >= longest:
        return report
    held = (
        f"the largest group of ranks of any plan holds {most}"
        if most
        else "weights, gradients and optimizer states leave no room for any"
    )
    limit = BindingLimit(
        name="longest_sequence_tokens",
        limit=float(most),
        best_reachable=float(longest),
        unit="tokens",
        message=f"the longest sequence has {longest} tokens, {held}",
    )
    others = tuple(one for one in report.binding if one.name != "space")
    return replace(report, binding=(limit, *others))
