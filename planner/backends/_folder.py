"""Writing an export: the whole folder or nothing."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from planner.backends._protocol import ExportedFile
from planner.errors import InputError

_MARK = ".newel-export"
"""A file that marks a folder as ours, so that nothing else is ever replaced."""


def write_folder(folder: Path, files: tuple[ExportedFile, ...], *, force: bool) -> None:
    """Write `files` into a new folder beside `folder`, then move it into place.

    Raises
    ------
    InputError
        If the folder exists and `force` is not set, is no export of ours, or cannot be written.
    """
    _check_target(folder, force=force)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for file in files:
                path = beside / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(file.text, encoding="utf-8")
                path.chmod(file.mode)
            (beside / _MARK).touch()
            beside.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot write the export: {error.strerror}", key="--out", value=str(folder)
        ) from error


def _check_target(folder: Path, *, force: bool) -> None:
    if not folder.exists():
        return
    if not force:
        raise InputError(
            "the folder exists already", key="--out", value=str(folder), hint="Use --force to replace it."
        )
    is_export = folder.is_dir() and ((folder / _MARK).is_file() or not any(folder.iterdir()))
    if not is_export or folder.is_symlink():
        raise InputError(
            "this is no folder that an export wrote, so it is not replaced", key="--out", value=str(folder)
        )
