"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from planner.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`: beside it first, then renamed over it. Devices and pipes are written directly.

    Raises
    ------
    InputError
        If the file cannot be written; nothing of it is left then.
    """
    data = text.encode("utf-8")
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.is_dir():
            raise InputError("is a directory; name a file", file=str(path))
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        beside.write_bytes(data)
        beside.replace(path)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            beside.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        hint = "Create the folder first." if isinstance(error, FileNotFoundError) else None
        raise InputError(f"cannot be written: {reason}", file=str(path), hint=hint) from None
