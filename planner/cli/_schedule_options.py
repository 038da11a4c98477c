"""Options of ``newel schedule``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Stages = Annotated[int, typer.Option("--stages", min=1, max=1024, help="Pipeline devices.")]
Microbatches = Annotated[
    int, typer.Option("--microbatches", min=1, max=65536, help="Micro-batches per step.")
]
Forward = Annotated[
    str | None,
    typer.Option("--forward", help="Forward pass per device, or a list with one time per stage: 18,20,18."),
]
BackwardInput = Annotated[
    str | None, typer.Option("--backward-input", help="Backward pass for the input gradient; the same.")
]
BackwardWeight = Annotated[
    str | None, typer.Option("--backward-weight", help="Backward pass for the weight gradient; the same.")
]
Send = Annotated[float, typer.Option("--send", help="Time to hand over to another device.")]
Memory = Annotated[
    str | None,
    typer.Option("--memory", help="Activation memory per device, in peaks of 1F1B; or one per device."),
]
WeightMemory = Annotated[
    float, typer.Option("--weight-memory", help="Part of an activation held until the weight gradient.")
]
Name = Annotated[str | None, typer.Option("--name", help="Time this named schedule instead: 1f1b, zb-v, ...")]
Chunks = Annotated[int, typer.Option("--chunks", min=1, max=64, help="Stages per device.")]
Placement = Annotated[
    str | None, typer.Option("--placement", help="How stages lie on devices: chain, loop or v.")
]
StageTimes = Annotated[
    Path | None, typer.Option("--stage-times", help="CSV with a row of times per stage, if they differ.")
]
Paths = Annotated[
    str | None,
    typer.Option("--paths", help="Stages that micro-batches visit, taken in turn: '0,1,2,3;0,2,3'."),
]
PathLength = Annotated[
    int | None,
    typer.Option("--path-length", min=1, help="Stages per micro-batch; which are skipped is chosen."),
]
TimeUnit = Annotated[str, typer.Option("--time-unit", help="Unit of all times: s, ms or us.")]
Objective = Annotated[
    str, typer.Option("--objective", help="makespan (a barrier ends the step) or longest-stage (none).")
]
TimeLimit = Annotated[float, typer.Option("--time-limit", min=0.1, help="Seconds to search at most.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of the search.")]
To = Annotated[str, typer.Option("--to", help="What to write: torch-csv, ascii, json or text.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="File to write; stdout if absent.")]
AsJson = Annotated[bool, typer.Option("--json", help="The same as --to json.")]
