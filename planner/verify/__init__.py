"""An independent checker of plans: it shares no code with the search space or the search."""

from __future__ import annotations

from planner.verify.checker import RULES, doubted_pools, problem_of, verify_plan
from planner.verify.report import Finding, VerificationReport

__all__ = ["RULES", "Finding", "VerificationReport", "doubted_pools", "problem_of", "verify_plan"]
