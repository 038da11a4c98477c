"""A table of serving runs, read, priced and scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from planner.accuracy.kernel_work import CannotPriceError
from planner.accuracy.serving.predict import Costs, RunPredictor
from planner.accuracy.serving.rows import read_rows
from planner.accuracy.serving.score import ScoredRun
from planner.accuracy.serving.setup import Setup, SetupReader
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import ModelGraph
from planner.space.engine import EngineCosts, installed_costs


def score_serving(
    path: Path,
    find_model: Callable[[str], ModelGraph],
    find_group: Callable[[str, int], NodeGroup],
    costs: Costs | None = None,
) -> list[ScoredRun]:
    """Return every row of a table of serving runs with its prediction or the reason why it has none.

    `find_model` and `find_group` (device, number of devices) look names up; `costs` prices an engine, by
    default as the shipped profiles do.
    """
    reader = SetupReader(find_model=find_model, find_group=find_group)
    predictor = RunPredictor(costs=costs or _installed)
    runs: list[ScoredRun] = []
    for row in read_rows(path):
        setup: Setup | None = None
        try:
            setup = reader.read(row)
            runs.append(ScoredRun(row=row, setup=setup, prediction=predictor.predict(setup)))
        except CannotPriceError as error:
            runs.append(ScoredRun(row=row, setup=setup, prediction=None, refusal=str(error)))
    return runs


def _installed(setup: Setup, group: NodeGroup) -> EngineCosts:
    return installed_costs(group, setup.engine)
