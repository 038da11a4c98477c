"""What the plan's problem says about the checkpoint: the format its weights have."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

from planner.ir.parser import parse_ir
from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem
from planner.plan.schema import Plan

CHECKPOINT_FORMATS = ("int8", "w4a16", "mxfp4", "nvfp4")
"""Formats that are in the checkpoint or nowhere: engines read them from its quantization_config."""

FULL_PRECISION = ("bf16", "fp16", "fp32")


def checkpoint_format(plan: Plan) -> str:
    """Return the weight format that the plan's problem says the checkpoint has, "" if it carries none."""
    return _checkpoint_format(plan.problem) if plan.problem else ""


@lru_cache(maxsize=4)
def _checkpoint_format(problem_text: str) -> str:
    problem = parse_ir(problem_text)
    payload: object = cast("Problem[object]", problem).payload if isinstance(problem, Problem) else None
    return payload.model.checkpoint_weight_fmt if isinstance(payload, ServingProblem) else ""
