"""Hardware profiles for the frontend: the loader's lookups, with its errors as input errors."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from hardware_profiles.errors import ProfileError
from planner.errors import InputError


def as_input_error(error: ProfileError, *, file: str | None = None, key: str = "") -> InputError:
    """Return the same complaint as an InputError; `file` and `key` are where the name was written."""
    return InputError(
        error.message,
        file=error.file or file,
        line=error.line,
        key=".".join(part for part in (key, error.key) if part) or None,
        value=error.value,
        allowed=error.allowed or None,
        hint=error.hint or None,
    )


@contextmanager
def profile_errors(*, file: str | None = None, key: str = "") -> Generator[None]:
    """Turn a ProfileError inside the block into an InputError at `file` and `key`."""
    try:
        yield
    except ProfileError as error:
        raise as_input_error(error, file=file, key=key) from None
