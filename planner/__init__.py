"""Newel: a compiler-style scheduling planner for LLM systems."""

from __future__ import annotations

__version__ = "0.1.0"
