"""A table of serving runs, read, priced and scored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from planner.accuracy.kernel_work import CannotPriceError
from planner.accuracy.serving.places import with_places
from planner.accuracy.serving.predict import Costs, RunPredictor
from planner.accuracy.serving.rows import read_rows
from planner.accuracy.serving.score import ScoredRun
from planner.accuracy.serving.setup import Setup, SetupReader
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import ModelGraph
from planner.ir.trace import RequestTrace
from planner.space.engine import EngineCosts, installed_costs
from planner.space.evaluate import Evaluator


class SecondOpinion(Protocol):
    """Simulates runs, and reads the logs of requests that some rows name."""

    def read_log(self, path: Path) -> RequestTrace:
        """Return the requests in a log; raise InputError if they cannot be read."""
        ...

    def simulate(self, evaluator: Evaluator, setup: Setup) -> Mapping[str, float]:
        """Return what a simulation says of a run, by metric; nothing for what is not simulated."""
        ...


def _no_progress(_: str) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How much is scored: at most `sample` runs of each cell of scores; `progress` is told what is next."""

    sample: int | None = None
    progress: Callable[[str], None] = _no_progress


def score_serving(
    path: Path,
    find_model: Callable[[str], ModelGraph],
    find_group: Callable[[str, int], NodeGroup],
    costs: Costs | None = None,
    second: SecondOpinion | None = None,
    asked: Asked | None = None,
) -> list[ScoredRun]:
    """Return every row of a table of serving runs with its prediction or the reason why it has none.

    `find_model` and `find_group` (device, number of devices) look names up; `costs` prices an engine, by
    default as the shipped profiles do. A second opinion is asked about every run that is predicted. Of a
    sample the runs that are not in it are left out, refused ones are not.
    """
    asked = asked or Asked()
    read_log = second.read_log if second is not None else None
    reader = SetupReader(find_model=find_model, find_group=find_group, read_log=read_log)
    predictor = RunPredictor(costs=costs or _installed)
    rows = read_rows(path)
    setups: dict[int, Setup] = {}
    refusals: dict[int, str] = {}
    for index, row in enumerate(rows):
        try:
            setups[index] = reader.read(row)
        except CannotPriceError as error:
            refusals[index] = str(error)
    setups = dict(zip(setups, with_places(list(setups.values())), strict=True))
    left_out = _left_out(setups, asked.sample)
    runs: list[ScoredRun] = []
    for index, row in enumerate(rows):
        if index in left_out:
            continue
        asked.progress(f"run {index + 1} of {len(rows)}")
        setup = setups.get(index)
        run = ScoredRun(row=row, setup=setup, prediction=None, refusal=refusals.get(index, ""))
        if setup is not None:
            run = _scored(run, setup, predictor, second)
        runs.append(run)
    return runs


def _left_out(setups: Mapping[int, Setup], sample: int | None) -> set[int]:
    """Return the runs that are not in a sample: as many of every source, device, engine and mode, evenly."""
    if sample is None:
        return set()
    cells: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, setup in setups.items():
        row = setup.row
        cells[row.source, row.text("gpu"), row.text("framework"), row.mode].append(index)
    kept: set[int] = set()
    for members in cells.values():
        step = max(1.0, len(members) / sample)
        kept.update(members[int((k + 0.5) * step)] for k in range(min(sample, len(members))))
    return set(setups) - kept


def _scored(run: ScoredRun, setup: Setup, predictor: RunPredictor, second: SecondOpinion | None) -> ScoredRun:
    """Return the run with its prediction, or with the reason why it has none."""
    try:
        run = replace(run, prediction=predictor.predict(setup))
        if second is None:
            return run
        return replace(run, simulated=second.simulate(predictor.evaluator(setup), setup))
    except CannotPriceError as error:
        return replace(run, prediction=None, refusal=str(error))


def _installed(setup: Setup, group: NodeGroup) -> EngineCosts:
    return installed_costs(group, setup.engine)
