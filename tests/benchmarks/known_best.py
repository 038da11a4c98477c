"""Known best values beside instance files: tables of comma-separated values."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

_VALUES = ("upper_bound", "optimal_makespan", "makespan", "best_known", "ub", "best", "value", "optimum")
_LOWER = ("lower_bound", "lb", "optimal_makespan")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBest:
    """Best known value and lower bound of an instance; equal when it is closed."""

    upper: float
    lower: float | None


def read_known_best(folder: Path) -> dict[tuple[str, int | None], KnownBest]:
    """Return known values by (instance, processors) from tables in the folder and its two parents."""
    known: dict[tuple[str, int | None], KnownBest] = {}
    for place in (folder.parent.parent, folder.parent, folder):
        for table in sorted(place.glob("*.csv")):
            known.update(_table(table))
    return known


def best_of(
    known: dict[tuple[str, int | None], KnownBest], path: Path, processors: int | None
) -> KnownBest | None:
    """Return what is known of an instance file, by folder and name or by name alone."""
    return known.get((f"{path.parent.name}/{path.stem}", processors)) or known.get((path.stem, processors))


def _table(path: Path) -> dict[tuple[str, int | None], KnownBest]:
    found: dict[tuple[str, int | None], KnownBest] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            upper = _first(row, _VALUES)
            name = row.get("instance") or row.get("name") or row.get("file")
            if name and upper is not None:
                processors = row.get("processors") or None
                count = int(processors) if processors else None
                found[_key(name), count] = KnownBest(upper=upper, lower=_first(row, _LOWER))
    return found


def _key(name: str) -> str:
    """Name without suffix; a leading folder stays, so that sets with equal file names keep apart."""
    path = Path(name)
    return path.stem if path.parent == Path() else f"{path.parent.name}/{path.stem}"


def _first(row: dict[str, str], names: tuple[str, ...]) -> float | None:
    for name in names:
        try:
            return float(row[name])
        except (KeyError, TypeError, ValueError):
            continue
    return None
