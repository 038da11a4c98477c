"""Text of scheduling instances: lines of numbers, read with the line number at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from planner.errors import InputError
from planner.ir.scheduling_problem import SchedulingProblem

MAX_TASKS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSettings:
    """What an instance file does not say: machines of a task graph, links of a workflow."""

    num_processors: int = 4
    machine_speeds: tuple[float, ...] = (1.0, 1.0, 2.0, 4.0)
    link_bytes_per_s: float = 125e6


class InstanceImporter(Protocol):
    """Reads one format; `suffixes` are its usual endings, `accepts` looks at the text."""

    suffixes: tuple[str, ...]

    def accepts(self, text: str) -> bool:
        """Whether the text looks like this format."""
        ...

    def read(self, text: str, *, file: str, settings: InstanceSettings) -> SchedulingProblem:
        """Return the problem.

        Raises
        ------
        InputError
            If the text is not a valid instance; the line is named.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The words of a line and where it stands."""

    number: int
    words: tuple[str, ...]


def lines_of(text: str, *, comment: str = "#") -> list[Line]:
    """Return the lines that hold something, comments cut off."""
    found: list[Line] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        words = raw.split(comment, 1)[0].split()
        if words:
            found.append(Line(number=number, words=tuple(words)))
    return found


def whole(word: str, *, file: str, line: int, what: str, least: int = 0) -> int:
    """Return a whole number of at least `least`.

    Raises
    ------
    InputError
        If it is not one.
    """
    try:
        value = int(word) if len(word) < 16 else None
    except ValueError:
        value = None
    if value is None or value < least:
        raise InputError(
            f"{what} is not a whole number", file=file, line=line, value=word, allowed=f"{least} or more"
        )
    return value


class Numbers:
    """A stream of whole numbers over lines, for formats where line breaks mean nothing."""

    def __init__(self, lines: list[Line], *, file: str) -> None:
        self._words = [(line.number, word) for line in lines for word in line.words]
        self._next = 0
        self.file = file

    def take(self, what: str, *, least: int = 0) -> int:
        """Return the next number.

        Raises
        ------
        InputError
            If the text ends or the word is no whole number.
        """
        if self._next >= len(self._words):
            last = self._words[-1][0] if self._words else 1
            raise InputError(f"the file ends where {what} should stand", file=self.file, line=last)
        line, word = self._words[self._next]
        self._next += 1
        return whole(word, file=self.file, line=line, what=what, least=least)

    @property
    def line(self) -> int:
        """Line of the number taken last."""
        return self._words[max(self._next - 1, 0)][0] if self._words else 1

    @property
    def left(self) -> int:
        """Numbers not taken yet."""
        return len(self._words) - self._next


def checked_count(count: int, *, file: str, line: int, what: str) -> int:
    """Return `count` if it is no larger than an instance may be.

    Raises
    ------
    InputError
        If it is larger.
    """
    if count > MAX_TASKS:
        raise InputError(f"too many {what}", file=file, line=line, value=count, allowed=f"up to {MAX_TASKS}")
    return count


def parses(read: Callable[[], object]) -> bool:
    """Whether `read` runs without an input error: a format is recognised by reading it."""
    try:
        read()
    except InputError:
        return False
    return True
