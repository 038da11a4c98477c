"""Exceptions and exit codes: what can go wrong, and what the user is told.

Exit codes of the command line: 0 fine, 1 a bug of ours, 2 bad input, 3 infeasible,
4 nothing found within the time limit, 5 verification failed, 6 a plan that was run failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

EXIT_OK = 0
EXIT_BUG = 1
EXIT_BAD_INPUT = 2
EXIT_INFEASIBLE = 3
EXIT_NOTHING_FOUND = 4
EXIT_VERIFICATION_FAILED = 5
EXIT_RUN_FAILED = 6

_MAX_SHOWN_CHARS = 120


def shown(value: object) -> str:
    """Return a value as one short printable line, safe to put into a message."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name that is spelt most like `name`, or None."""
    names = list(allowed)
    by_lower = {n.lower(): n for n in names}
    matches = get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    return by_lower[matches[0]] if matches else None


class NewelError(Exception):
    """Base of every error that is reported to the user as one message."""

    exit_code = EXIT_BUG


class InputError(NewelError):
    """Something the user wrote is wrong.

    Parameters
    ----------
    message
        What is wrong, as one sentence.
    file, line
        Where it stands; None where the input is not a file.
    key
        Dotted path of the offending key, e.g. ``workload.isl``.
    value
        The offending value.
    allowed
        What would have been accepted.
    hint
        What to do about it.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(  # noqa: PLR0913 - each part of a message is optional and named
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        key: str | None = None,
        value: object = ...,
        allowed: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.file = file
        self.line = line
        self.key = key
        self.value = value
        self.allowed = allowed
        self.hint = hint
        super().__init__(self.render())

    def located(
        self, *, file: str | None = None, line: int | None = None, key: str | None = None
    ) -> InputError:
        """Return the same error with a place filled in where it was missing."""
        return InputError(
            self.message,
            file=self.file or file,
            line=self.line or line,
            key=self.key or key,
            value=self.value,
            allowed=self.allowed,
            hint=self.hint,
        )

    def render(self) -> str:
        """Return the message with place, value, what is allowed and what to do."""
        place = ":".join(str(p) for p in (self.file, self.line) if p is not None)
        head = ": ".join(p for p in (place, self.key or "", self.message) if p)
        parts = [head]
        if self.value is not ...:
            parts.append(f"got {shown(self.value)}")
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        text = "; ".join(parts)
        return f"{text}. {self.hint}" if self.hint else text


class UnknownNameError(InputError):
    """A name that no registry, profile or family knows."""

    def __init__(self, what: str, name: str, allowed: Sequence[str], *, hint: str | None = None) -> None:
        close = nearest(name, allowed)
        shown_names = ", ".join(sorted(allowed)[:40]) + (", ..." if len(allowed) > 40 else "")
        super().__init__(
            f"unknown {what}",
            value=name,
            allowed=shown_names,
            hint=hint or (f"Did you mean {close!r}?" if close else None),
        )


class UnsupportedError(InputError):
    """A decision of a plan that a backend or method cannot express; it is refused by name."""


class NothingFoundError(NewelError):
    """The time limit passed before any plan was found."""

    exit_code = EXIT_NOTHING_FOUND


class VerificationError(NewelError):
    """A plan does not pass the independent checker."""

    exit_code = EXIT_VERIFICATION_FAILED
