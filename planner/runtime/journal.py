"""The journal of a run: an append-only file from which the run goes on after it was killed.

One JSON object per line with a checksum before it. A line is written whole, before anything that rests on it
starts, so a process that is killed loses at most calls that had not ended. What a crash of the machine may
lose is bounded by the policy of syncing: ``each`` record before it is used, ``batch`` (at most 100 ms later,
in the background), or ``none`` (left to the operating system).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import threading
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from planner.errors import InputError

Sync = Literal["each", "batch", "none"]
SYNCS: tuple[Sync, ...] = ("batch", "each", "none")
BATCH_S = 0.1
_VERSION = 1
Entry = dict[str, object]


@dataclass(slots=True, kw_only=True)
class Journal:
    """An open journal. `finished` holds the records of finished calls by name, `started` those begun."""

    path: Path
    sync: Sync
    handle: int
    finished: dict[str, Entry] = field(default_factory=dict[str, Entry])
    started: set[str] = field(default_factory=set[str])
    torn: bool = False
    _timer: threading.Timer | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, call: str) -> None:
        """Note that a call is about to be made."""
        self._write({"event": "started", "call": call})

    async def finish(self, call: str, entry: Entry) -> None:
        """Note what a call wrote; returns when that is as safe as the policy asks."""
        self._write({"event": "finished", "call": call, **entry})
        if self.sync == "each":
            await asyncio.get_running_loop().run_in_executor(None, os.fsync, self.handle)

    def close(self) -> None:
        """Sync and close."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self.handle >= 0:
                if self.sync != "none":
                    os.fsync(self.handle)
                os.close(self.handle)
                self.handle = -1

    def _write(self, entry: Entry) -> None:
        _append(self.handle, entry)
        if self.sync == "batch" and self._timer is None:
            self._timer = threading.Timer(BATCH_S, self._flush)
            self._timer.daemon = True
            self._timer.start()

    def _flush(self) -> None:
        with self._lock:
            self._timer = None
            if self.handle >= 0:
                os.fsync(self.handle)


def open_journal(path: Path, *, plan: str, question: str, sync: Sync = "batch") -> Journal:
    """Return the journal at `path`, new or with what an earlier process wrote.

    Raises
    ------
    InputError
        If it cannot be written, another process writes it, it is no journal, or it belongs to another plan or
        input.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise InputError(f"the journal cannot be opened: {error.strerror}", file=str(path)) from None
    journal = Journal(path=path, sync=sync, handle=handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        head: Entry = {"event": "run", "version": _VERSION, "plan": plan, "input": _digest(question)}
        _load(journal, head)
    except BlockingIOError:
        os.close(handle)
        raise InputError("another process writes this journal", file=str(path)) from None
    except BaseException:
        os.close(handle)
        raise
    return journal


def _digest(question: str) -> str:
    import hashlib

    return hashlib.sha256(question.encode()).hexdigest()


def _load(journal: Journal, head: Entry) -> None:
    file = str(journal.path)
    data = b""
    while chunk := os.pread(journal.handle, 1 << 20, len(data)):
        data += chunk
    whole = data.rfind(b"\n") + 1
    lines = data[:whole].splitlines()
    if whole < len(data):
        # the last line was cut while it was written: that record never counted
        journal.torn = True
        os.ftruncate(journal.handle, whole)
    if not lines:
        _append(journal.handle, head)
        return
    for number, line in enumerate(lines, start=1):
        entry = _parsed(line)
        if entry is None:
            raise InputError("this line of the journal is damaged", file=file, line=number)
        if number == 1:
            _check_head(entry, head, file)
        elif entry.get("event") == "finished":
            journal.finished[str(entry["call"])] = entry
        elif entry.get("event") == "started":
            journal.started.add(str(entry["call"]))


def _check_head(entry: Entry, head: Entry, file: str) -> None:
    for key, what in (("event", "journal"), ("version", "version"), ("plan", "plan"), ("input", "input")):
        if entry.get(key) != head[key]:
            raise InputError(
                f"the journal belongs to another {what}",
                file=file,
                line=1,
                hint="Name another file, or run with the plan and the input that it was begun with.",
            )


def _append(handle: int, entry: Entry) -> None:
    body = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode()
    line = b"%08x %s\n" % (zlib.crc32(body), body)
    written = os.write(handle, line)
    while written < len(line):
        written += os.write(handle, line[written:])


def _parsed(line: bytes) -> Entry | None:
    try:
        mark, body = line[:8], line[9:]
        if int(mark, 16) != zlib.crc32(body):
            return None
        entry: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return cast("Entry", entry) if isinstance(entry, dict) else None
