"""Program-aware: the session (agent run, conversation) that has been served least goes first.

A long program's later calls yield to short programs. Source of the idea: program-level least attained
service, Luo et al., "Autellix: an efficient serving engine for LLM agents as general programs" (2025).
Requests that the trace gives no session are programs of their own.
"""

from __future__ import annotations

from planner.simulate.policies._shares import ShareQueue
from planner.simulate.serving_request import Request


def _group(request: Request) -> int:
    return request.session


def POLICY() -> ShareQueue:  # noqa: N802 - the name that the registry looks for
    """Return an empty queue by attained service of programs."""
    return ShareQueue(group=_group, forget=False)
