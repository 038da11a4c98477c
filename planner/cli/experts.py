"""``newel experts``: measured loads of experts to a placement, the hot ones more than once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.cli.terminal import emit, emit_json, say
from planner.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("experts")(experts)


def experts(
    loads: Annotated[
        Path, typer.Argument(help="Tokens per layer and expert, a JSON file (as SGLang records them).")
    ],
    ranks: Annotated[int, typer.Option("--ranks", min=1, max=4096, help="Ranks of expert parallelism.")],
    redundant: Annotated[
        int, typer.Option("--redundant", min=0, max=4096, help="Copies of hot experts per layer.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where to write the map of slots to experts.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the placement as JSON.")] = False,
) -> None:
    """Place experts on ranks so that the fullest is lightest; the map is what SGLang's servers start from.

    Example: newel experts loads.json --ranks 16 --redundant 32 -o map.json, then start SGLang with
    --init-expert-location map.json --ep-num-redundant-experts 32.
    """
    import json

    from planner.frontend.expert_loads import read_expert_loads
    from planner.plan.files import write_text
    from planner.search.expert_placement import place_experts
    from planner.space.expert_copies import in_order

    layers = read_expert_loads(loads)
    slots = len(layers[0]) + redundant
    if slots % ranks:
        raise InputError(
            f"{len(layers[0])} experts and {redundant} copies do not fill {ranks} ranks evenly",
            key="--redundant",
            value=redundant,
            hint=f"Use {redundant + ranks - slots % ranks} copies.",
        )
    placed = [place_experts(layer, ranks, redundant) for layer in layers]
    mean = sum(one.mean for one in placed) or 1.0
    plain = sum(in_order(layer, ranks) for layer in layers) / mean
    found = {"physical_to_logical_map": [list(one.slots) for one in placed]}
    facts = {
        "skew_in_order": plain,
        "skew": sum(one.fullest for one in placed) / mean if sum(one.mean for one in placed) else 1.0,
        "skew_bound": sum(one.bound for one in placed) / mean if sum(one.mean for one in placed) else 1.0,
        "optimal_layers": sum(one.fullest <= one.bound * (1 + 1e-9) for one in placed),
        "layers": len(placed),
    }
    if out is not None:
        write_text(out, json.dumps(found) + "\n")
        say(f"wrote {out}")
    if as_json:
        emit_json({**found, **facts})
        return
    emit(
        f"{len(placed)} layers of {len(layers[0])} experts on {ranks} ranks, {redundant} copies\n"
        f"fullest rank over the mean: {facts['skew']:.4g} (in the order of their numbers {plain:.4g}, "
        f"no placement below {facts['skew_bound']:.4g})\n"
        f"proved for {facts['optimal_layers']} of {len(placed)} layers; "
        f"a spec takes it as routing_skew: {facts['skew']:.4g}"
    )
