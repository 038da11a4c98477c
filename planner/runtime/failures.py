"""What can go wrong while a plan runs, and whether trying again can help."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.errors import EXIT_RUN_FAILED, NewelError

if TYPE_CHECKING:
    from planner.runtime.records import RunResult


class CallError(Exception):
    """A call did not work.

    Parameters
    ----------
    reason
        What happened, as one sentence.
    again
        Whether the same call may work when it is tried again.
    retry_after_s
        When the server said to come back, seconds; None if it said nothing.
    down
        Whether the server itself seems to be gone.
    """

    def __init__(
        self, reason: str, *, again: bool, retry_after_s: float | None = None, down: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again
        self.retry_after_s = retry_after_s
        self.down = down


class RunFailedError(NewelError):
    """A run ended without its answer; `result` holds what there is of it."""

    exit_code = EXIT_RUN_FAILED

    def __init__(self, message: str, result: RunResult) -> None:
        super().__init__(message)
        self.result = result
