"""Independent tasks over several processes, each a copy of this one; the answers do not depend on how many.

Whoever is free takes the next task, so that long and short ones spread evenly. Answers travel as pickles.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

Answer = TypeVar("Answer")
_MOST_PROCESSES = 8


def num_processes(num_tasks: int) -> int:
    """Return how many processes are worth using: no more than cores and tasks.

    One where the system cannot copy processes, or where other threads run, which a copy would lose.
    """
    if not hasattr(os, "fork") or threading.active_count() > 1:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, num_tasks, _MOST_PROCESSES))


def each(
    num_tasks: int,
    task: Callable[[int], Answer],
    processes: int | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> list[Answer]:
    """Return `task(0)`, `task(1)`, ... in this order, worked out by several processes.

    `task` must not change anything that others see; what it returns must be picklable. A task that
    raises, or whose process is lost, is done again by the process that asks, which then raises as usual.
    `meanwhile` is done first by the process that asks, while others work already.
    """
    count = num_processes(num_tasks) if processes is None else processes
    if count <= 1:
        if meanwhile is not None:
            meanwhile()
        return [task(number) for number in range(num_tasks)]
    done: dict[int, Answer] = {}
    queue = _Queue.of(num_tasks)
    copies: list[tuple[int, int]] = []
    try:
        copies.extend(_copy(queue, task) for _ in range(count - 1))
        if meanwhile is not None:
            meanwhile()
        done.update(_work(queue, task))
        for _, source in copies:
            done.update(_received(source))
    except BaseException:
        for process, _ in copies:
            os.kill(process, signal.SIGTERM)
        raise
    finally:
        queue.close()
        for process, source in copies:
            os.close(source)
            os.waitpid(process, 0)
    return [done[number] if number in done else task(number) for number in range(num_tasks)]


class _Queue:
    """Numbers of tasks in a pipe, four bytes each: readers take whole ones."""

    def __init__(self, source: int, sink: int) -> None:
        self._source, self._sink = source, sink

    @staticmethod
    def of(num_tasks: int) -> _Queue:
        """Return a queue of all tasks; a pipe holds 16,000 of them."""
        source, sink = os.pipe()
        os.set_blocking(source, False)
        os.set_blocking(sink, False)
        os.write(sink, b"".join(number.to_bytes(4, "little") for number in range(num_tasks)))
        return _Queue(source, sink)

    def take(self) -> int | None:
        """Return the next task, None if all are taken."""
        try:
            found = os.read(self._source, 4)
        except BlockingIOError:
            return None
        return int.from_bytes(found, "little")

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self._source)
        os.close(self._sink)


def _work(queue: _Queue, task: Callable[[int], Answer]) -> dict[int, Answer]:
    """Return the answers to the tasks taken, without those that raised."""
    done: dict[int, Answer] = {}
    while (number := queue.take()) is not None:
        with suppress(Exception):
            done[number] = task(number)
    return done


def _copy(queue: _Queue, task: Callable[[int], Answer]) -> tuple[int, int]:
    """Start a copy of this process that works; return it and the pipe that its answers come through."""
    source, sink = os.pipe()
    process = os.fork()
    if process == 0:
        _run(queue, task, sink)
    os.close(sink)
    return process, source


def _run(queue: _Queue, task: Callable[[int], Answer], sink: int) -> NoReturn:
    """Work, send the answers and end without running anything that the original will run."""
    code = 1
    try:
        with os.fdopen(sink, "wb") as pipe:
            pickle.dump(_work(queue, task), pipe, protocol=pickle.HIGHEST_PROTOCOL)
        code = 0
    finally:
        os._exit(code)


def _received(source: int) -> dict[int, Any]:
    """Return the answers of a copy, nothing if it was lost."""
    with os.fdopen(os.dup(source), "rb") as pipe:
        data = pipe.read()
    try:
        return pickle.loads(data)
    except (EOFError, pickle.UnpicklingError):
        return {}
