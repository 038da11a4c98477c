"""``newel pack``: batches of sequences of different lengths on groups of different degrees."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.terminal import emit, emit_json, new_diagnostics, say, show_diagnostics
from planner.errors import EXIT_OK, InputError

if TYPE_CHECKING:
    from cost_models.sequences.times import SequenceCosts
    from planner.ir.packing import Packing, PackingProblem

Lengths = Annotated[
    Path, typer.Option("--lengths", help="Lengths: list, histogram (length,count), JSON lines, .idx.")
]
Model = Annotated[str, typer.Option("--model", help="A config.json, its directory or a bundled name.")]
Ranks = Annotated[int, typer.Option("--ranks", min=1, max=4096, help="Ranks: data x context parallel.")]
RankTokens = Annotated[
    int, typer.Option("--tokens-per-rank", min=1, max=1 << 30, help="Tokens whose activations fit a rank.")
]
Flops = Annotated[str, typer.Option("--flops", help="Achieved speed of a rank: 400TFLOP/s.")]
Near = Annotated[str, typer.Option("--near", help="Bandwidth of a rank inside a node: 300GB/s.")]
Far = Annotated[str, typer.Option("--far", help="Bandwidth of a rank between nodes: 40GB/s.")]
PerNode = Annotated[int, typer.Option("--ranks-per-node", min=1, max=4096, help="Ranks of one node.")]
Overhead = Annotated[str, typer.Option("--overhead", help="Fixed time of a micro-batch: 5ms.")]
MaxDegree = Annotated[
    int | None, typer.Option("--max-degree", min=1, help="Largest context-parallel degree.")
]
Chunks = Annotated[bool, typer.Option("--chunks", help="Let long sequences run in chunks.")]
Recompute = Annotated[bool, typer.Option("--recompute", help="Activations are recomputed in full.")]
Batch = Annotated[int, typer.Option("--global-batch", min=1, max=16384, help="Sequences per global batch.")]
Batches = Annotated[int, typer.Option("--batches", min=1, max=1000, help="Global batches to pack.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of draws and search.")]
TimeLimit = Annotated[float, typer.Option("--time-limit", min=0.0, help="Seconds of search per batch.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print all groups as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("pack")(pack_lengths)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """A packed batch, how long that took, and what simpler ways give: (degree, time) each, if they work."""

    problem: PackingProblem
    packing: Packing
    solved_s: float
    uniform: tuple[int, float] | None
    padded: tuple[int, float] | None


def pack_lengths(  # noqa: PLR0913, PLR0917 - one parameter per option of the command
    lengths: Lengths,
    model: Model,
    ranks: Ranks,
    tokens_per_rank: RankTokens,
    flops: Flops,
    near: Near = "300GB/s",
    far: Far = "40GB/s",
    ranks_per_node: PerNode = 8,
    overhead: Overhead = "5ms",
    max_degree: MaxDegree = None,
    chunks: Chunks = False,
    recompute: Recompute = False,
    global_batch: Batch = 512,
    batches: Batches = 1,
    seed: Seed = 0,
    time_limit: TimeLimit = 0.5,
    as_json: AsJson = False,
) -> int:
    """Pack global batches of sequences of different lengths, with a bound, and compare with simpler ways.

    Example: newel pack --lengths lengths.csv --model llama-3.1-8b --ranks 64 --tokens-per-rank 8192
    --flops 400TFLOP/s --global-batch 512
    """
    from planner.frontend.length_files import read_lengths
    from planner.ir.packing import PackingProblem
    from planner.search.packing import PackingOptions

    if not 0 < time_limit < math.inf:
        raise InputError("a time limit is finite and positive", key="--time-limit", value=time_limit)
    source = read_lengths(lengths)
    speed = (_quantity(flops, "--flops"), _quantity(near, "--near"), _quantity(far, "--far"))
    costs = _costs(
        model, speed, (ranks_per_node, tokens_per_rank), _quantity(overhead, "--overhead"), recompute
    )
    largest = 1 << (min(ranks, max_degree or ranks).bit_length() - 1)
    options = PackingOptions(time_limit_s=time_limit, seed=seed)
    done = [
        _solved(
            PackingProblem(
                lengths=batch, num_ranks=ranks, largest_degree=largest, chunked=chunks, costs=costs
            ),
            options,
        )
        for batch in source.batches(global_batch, batches, seed)
    ]
    if as_json:
        emit_json({"batches": [_as_json(batch) for batch in done]})
    else:
        emit("\n".join(line for number, batch in enumerate(done) for line in _lines(number, batch)))
    say(f"packed in {max(batch.solved_s for batch in done):.2f} s per batch at most")
    return EXIT_OK


def _quantity(text: str, option: str) -> float:
    from hardware_profiles.errors import ProfileError
    from hardware_profiles.units import parse_quantity

    dimension = {"--flops": "flops_per_s", "--overhead": "time"}.get(option, "bytes_per_s")
    try:
        value = parse_quantity(text, dimension, allow_bare=False)  # type: ignore[arg-type]
    except ProfileError as error:
        raise InputError(
            error.message, key=option, value=text[:60], allowed=error.allowed or None, hint=error.hint or None
        ) from None
    least = 0.0 if option == "--overhead" else 1.0
    if not least <= value <= 1e30:
        raise InputError("a positive amount is needed", key=option, value=text[:60])
    return value


def _costs(
    model: str, speed: tuple[float, float, float], counts: tuple[int, int], overhead_s: float, recompute: bool
) -> SequenceCosts:
    from planner.frontend.models import load_model
    from planner.space.sequence_lowering import RankSpeed, sequence_costs

    diagnostics = new_diagnostics()
    graph = load_model(model, assume_family=None, diagnostics=diagnostics)
    show_diagnostics(diagnostics)
    rank = RankSpeed(
        flops_per_s=speed[0],
        near_bytes_per_s=speed[1],
        far_bytes_per_s=speed[2],
        ranks_per_node=counts[0],
        rank_tokens=counts[1],
        microbatch_s=overhead_s,
    )
    return sequence_costs(graph, rank, recompute=recompute)


def _solved(problem: PackingProblem, options: object) -> _Batch:
    from planner.search.packing import PackingOptions, pack
    from planner.simulate.packing_replay import replay_packing
    from planner.space.packing_lists import best_uniform, padded

    assert isinstance(options, PackingOptions)
    begin = perf_counter()
    packing = pack(problem, options)
    solved_s = perf_counter() - begin
    replay_packing(problem, packing)
    uniform = best_uniform(problem)
    return _Batch(
        problem=problem,
        packing=packing,
        solved_s=solved_s,
        uniform=None if uniform is None else (uniform[0], uniform[1].time_s),
        padded=padded(problem),
    )


def _as_json(batch: _Batch) -> dict[str, object]:
    packing = batch.packing
    simpler = {"uniform": batch.uniform, "padded": batch.padded}
    return {
        "time_s": packing.time_s,
        "bound_s": packing.bound_s,
        "gap": packing.gap,
        "method": packing.method,
        **{
            name: None if found is None else {"degree": found[0], "time_s": found[1]}
            for name, found in simpler.items()
        },
        "lengths": list(batch.problem.lengths),
        "groups": [
            {
                "first_rank": group.first_rank,
                "degree": group.degree,
                "microbatches": [
                    {"sequences": list(m.sequences), "num_chunks": m.num_chunks} for m in group.microbatches
                ],
            }
            for group in packing.groups
        ],
    }


def _lines(number: int, batch: _Batch) -> list[str]:
    packing, lengths = batch.packing, sorted(batch.problem.lengths)
    lines = [
        f"batch {number}: {len(lengths)} sequences, {sum(lengths)} tokens, "
        f"median {lengths[len(lengths) // 2]}, longest {lengths[-1]}",
        f"  step      {packing.time_s:.4g} s, bound {packing.bound_s:.4g} s, gap {packing.gap:.2%}, "
        f"{packing.method}",
    ]
    groups = Counter(group.degree for group in packing.groups)
    for degree in sorted(groups, reverse=True):
        own = [m for g in packing.groups if g.degree == degree for m in g.microbatches]
        sequences = [i for m in own for i in m.sequences]
        tokens = [batch.problem.lengths[i] for i in sequences]
        lines.append(
            f"  degree {degree:<4} {groups[degree]} groups, {len(own)} micro-batches, "
            f"{len(tokens)} sequences of {min(tokens)} to {max(tokens)} tokens"
        )
    for name, found in (("uniform", batch.uniform), ("padded", batch.padded)):
        if found is None:
            lines.append(f"  {name:<9} impossible: the longest sequence does not fit")
        else:
            lines.append(
                f"  {name:<9} {found[1]:.4g} s at degree {found[0]}: {found[1] / packing.time_s:.2f}x"
            )
    return lines
