"""Tasks over several processes: the same answers in the same order, whatever happens to a copy."""

from __future__ import annotations

import os
import signal
from time import monotonic

import pytest

from planner.errors import InputError
from planner.forks import each, num_processes


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_answers_come_in_order_whoever_works_them_out(processes: int) -> None:
    assert each(40, lambda n: (n, n * n), processes) == [(n, n * n) for n in range(40)]


def test_several_processes_share_the_tasks() -> None:
    read, write = os.pipe()

    def waits_for_the_other(number: int) -> int:
        # Each of two tasks ends only once both have begun, so no process can have done both.
        os.write(write, b"x")
        end_s = monotonic() + 10.0
        while len(seen := os.read(read, 2)) < 2 and monotonic() < end_s:
            os.write(write, seen)
        os.write(write, b"xx")
        return os.getpid()

    first, second = each(2, waits_for_the_other, 2)
    assert first != second
    assert os.getpid() in (first, second)


def test_an_error_is_raised_as_if_nothing_had_been_copied() -> None:
    def refuse(number: int) -> int:
        if number == 3:
            raise InputError("no", key="models", value=number)
        return number

    with pytest.raises(InputError, match="no"):
        each(6, refuse, 3)


def test_what_a_lost_copy_had_taken_is_done_again() -> None:
    here = os.getpid()

    def lost(number: int) -> int:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    assert each(8, lost, 3) == list(range(8))


def test_an_answer_that_cannot_travel_is_worked_out_here() -> None:
    answers = each(6, lambda n: lambda: n, 2)
    assert [answer() for answer in answers] == list(range(6))


def test_no_more_processes_than_tasks() -> None:
    assert num_processes(1) == 1
    assert num_processes(0) == 1
