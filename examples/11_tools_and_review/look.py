"""The tools of this example: a look-up that takes its time, and the choice of the answer."""

from __future__ import annotations

import asyncio

from planner.runtime import ToolRequest


async def up(request: ToolRequest) -> str:
    """Return a note on what was asked."""
    await asyncio.sleep(0.3)
    return f"note on {request.arguments!r}"


def publish(request: ToolRequest) -> str:
    """Return the large model's answer if it was asked, else the last draft."""
    return request.inputs.get("think") or request.inputs["write"]
