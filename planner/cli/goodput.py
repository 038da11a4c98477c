"""``newel goodput``: what failures, checkpoints, spares and stragglers leave of a run; time and money."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.terminal import emit, emit_json
from planner.errors import EXIT_OK, InputError, UnknownNameError

if TYPE_CHECKING:
    from cost_models.operations.checkpoints import CheckpointPlan, CheckpointTier
    from cost_models.operations.runs import RunTime
    from cost_models.operations.spares import SpareChoice

_POLICIES = ("wait", "shrink")
_TIER_KEYS = ("write", "read", "snapshot", "survives")
_LONGEST_S = 1e13

Gpus = Annotated[int, typer.Option("--gpus", min=1, max=10_000_000, help="GPUs that the run computes on.")]
Mtbf = Annotated[
    str,
    typer.Option("--gpu-mtbf", help="Mean time between interruptions per GPU (50000h), or a known run's."),
]
Checkpoint = Annotated[str, typer.Option("--checkpoint", help="Size of one checkpoint: 5.7TB.")]
Tiers = Annotated[
    list[str],
    typer.Option(
        "--tier",
        help="Where checkpoints may go: NAME,write=2TB/s[,read=..][,snapshot=..][,survives=90%]; repeatable. "
        "Bandwidths are those of the whole run; with snapshot, training goes on while the copy is written.",
    ),
]
Restart = Annotated[
    str, typer.Option("--restart", help="Detection and restart after a failure, without loading.")
]
StepTime = Annotated[str | None, typer.Option("--step-time", help="Time of one step.")]
StepTokens = Annotated[str | None, typer.Option("--tokens-per-step", help="Tokens of one step: 16M.")]
Tokens = Annotated[str | None, typer.Option("--tokens", help="Token budget: 15T.")]
Work = Annotated[str | None, typer.Option("--work", help="Useful time instead of tokens: 54d.")]
Price = Annotated[str | None, typer.Option("--price", help="Money per GPU-hour: 2.5.")]
PerNode = Annotated[int, typer.Option("--gpus-per-node", min=1, max=4096, help="GPUs of one node.")]
PerReplica = Annotated[
    int | None, typer.Option("--gpus-per-replica", min=1, help="GPUs that leave together when a run shrinks.")
]
Repair = Annotated[str | None, typer.Option("--repair", help="Mean time until a broken node is back: 12h.")]
Broken = Annotated[str, typer.Option("--broken", help="Share of interruptions that break a node.")]
Spares = Annotated[
    int | None, typer.Option("--spares", min=0, max=100_000, help="Spare nodes; the best if absent.")
]
Policy = Annotated[str, typer.Option("--policy", help="Without a spare: wait or shrink.")]
Spread = Annotated[str, typer.Option("--step-spread", help="Variation of a GPU's step time: 2%.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("goodput")(goodput)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """The options, read."""

    work_s: float
    num_steps: float | None
    num_devices: int
    mtbf_s: float
    tiers: list[CheckpointTier]
    restart_s: float
    spread: float
    spares: SpareChoice | None
    gpus_per_node: int
    usd_per_hour: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Forecast:
    """All that is printed."""

    mtbf_s: float
    plan: CheckpointPlan
    spares: SpareChoice | None
    time: RunTime
    num_steps: float | None
    num_devices: int
    cost_usd: float | None


def goodput(  # noqa: PLR0913, PLR0917 - one parameter per option of the command
    gpus: Gpus,
    gpu_mtbf: Mtbf,
    checkpoint: Checkpoint,
    tier: Tiers,
    restart: Restart,
    step_time: StepTime = None,
    tokens_per_step: StepTokens = None,
    tokens: Tokens = None,
    work: Work = None,
    price: Price = None,
    gpus_per_node: PerNode = 8,
    gpus_per_replica: PerReplica = None,
    repair: Repair = None,
    broken: Broken = "100%",
    spares: Spares = None,
    policy: Policy = "wait",
    step_spread: Spread = "0%",
    as_json: AsJson = False,
) -> int:
    """Find the checkpoint interval, tier and spares of a long run, and what it takes in time and money.

    Example: newel goodput --gpus 16384 --gpu-mtbf llama-3-405b --checkpoint 5.7TB --tier storage,write=2TB/s
    --restart 10min --step-time 16s --tokens-per-step 16M --tokens 15.6T --price 2.5
    """
    from cost_models.operations.failures import job_mtbf_s
    from planner.frontend.quantities import share, usd_per_hour

    work_s, num_steps = _work(step_time, tokens_per_step, tokens, work)
    device_mtbf_s = _device_mtbf_s(gpu_mtbf)
    size = _positive(checkpoint, "--checkpoint", "bytes")
    node_mtbf_s = device_mtbf_s / gpus_per_node / max(share(broken), 1e-12)
    pool = (gpus, gpus_per_node, gpus_per_replica or gpus_per_node)
    forecast = _forecast(
        _Question(
            work_s=work_s,
            num_steps=num_steps,
            num_devices=gpus,
            mtbf_s=job_mtbf_s(device_mtbf_s, gpus),
            tiers=[_tier(text, size) for text in tier],
            restart_s=_time(restart, "--restart"),
            spread=share(step_spread),
            spares=_spares(pool, node_mtbf_s, repair, spares, policy),
            gpus_per_node=gpus_per_node,
            usd_per_hour=None if price is None else usd_per_hour(price),
        )
    )
    if as_json:
        emit_json(_as_json(forecast))
    else:
        emit("\n".join(_lines(forecast)))
    return EXIT_OK


def _forecast(asked: _Question) -> _Forecast:
    from cost_models.operations.checkpoints import best_plan
    from cost_models.operations.runs import run_cost_usd, run_time
    from cost_models.operations.stragglers import slowest_factor

    plan = best_plan(asked.tiers, asked.mtbf_s, asked.restart_s)
    if plan is None:
        raise InputError("no tier survives every failure", key="--tier", hint="Add a tier without survives=.")
    if plan.efficiency <= 0:
        raise InputError(
            "with so many failures no checkpoint is ever reached",
            key="--gpu-mtbf",
            value=f"a failure every {asked.mtbf_s:.3g} s",
        )
    spares = asked.spares
    time = run_time(
        asked.work_s,
        plan,
        mtbf_s=asked.mtbf_s,
        restart_s=asked.restart_s,
        slowest_factor=slowest_factor(asked.num_devices, asked.spread) if asked.spread > 0 else 1.0,
        speed=spares.speed if spares else 1.0,
    )
    num_devices = asked.num_devices + (spares.num_spares * asked.gpus_per_node if spares else 0)
    price = asked.usd_per_hour
    return _Forecast(
        mtbf_s=asked.mtbf_s,
        plan=plan,
        spares=spares,
        time=time,
        num_steps=asked.num_steps,
        num_devices=num_devices,
        cost_usd=None if price is None else run_cost_usd(time.wall_s, num_devices, price),
    )


def _work(
    step_time: str | None, tokens_per_step: str | None, tokens: str | None, work: str | None
) -> tuple[float, float | None]:
    """Return the useful time, seconds, and the number of steps if it is known."""
    parts = (step_time, tokens_per_step, tokens)
    if work is not None and parts == (None, None, None):
        return _time(work, "--work"), None
    if work is not None or step_time is None or tokens_per_step is None or tokens is None:
        raise InputError(
            "the length of the run is missing or said twice",
            hint="Give --step-time, --tokens-per-step and --tokens, or --work alone.",
        )
    budget = _positive(tokens, "--tokens", "count")
    num_steps = budget / _positive(tokens_per_step, "--tokens-per-step", "count")
    work_s = num_steps * _time(step_time, "--step-time")
    if not work_s <= _LONGEST_S:
        raise InputError("this run is too long", value=f"{work_s:.3g} s", allowed=f"{_LONGEST_S:g} s")
    return work_s, num_steps


def _device_mtbf_s(text: str) -> float:
    from cost_models.operations.failures import PUBLISHED

    if text in PUBLISHED:
        return PUBLISHED[text].device_mtbf_s
    if text[:1].isalpha():
        raise UnknownNameError("published failure rate", text, tuple(PUBLISHED))
    return _time(text, "--gpu-mtbf")


def _time(text: str, option: str) -> float:
    return _positive(text, option, "time")


def _positive(text: str, option: str, dimension: str) -> float:
    from hardware_profiles.errors import ProfileError
    from hardware_profiles.units import parse_quantity

    try:
        value = parse_quantity(text, dimension, allow_bare=dimension == "count")  # type: ignore[arg-type]
    except ProfileError as error:
        raise InputError(
            error.message, key=option, value=text[:60], allowed=error.allowed or None, hint=error.hint or None
        ) from None
    if not 0 < value <= 1e30:
        raise InputError("a positive amount is needed", key=option, value=text[:60])
    if dimension == "time" and value > _LONGEST_S:
        raise InputError("this time is too long", key=option, value=text[:60], allowed=f"{_LONGEST_S:g} s")
    return value


def _tier(text: str, size_bytes: float) -> CheckpointTier:
    from cost_models.operations.checkpoints import CheckpointTier
    from planner.frontend.quantities import share

    name, *pairs = text.split(",")
    given: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key.strip() not in _TIER_KEYS or key.strip() in given:
            raise InputError(
                "a tier is a name and settings",
                key="--tier",
                value=pair[:60],
                allowed="NAME,write=2TB/s[,read=2TB/s][,snapshot=10TB/s][,survives=90%]",
            )
        given[key.strip()] = value.strip()
    if not name.strip() or "write" not in given:
        raise InputError("a tier has a name and a write bandwidth", key="--tier", value=text[:60])
    seconds = {
        key: size_bytes / _positive(value, "--tier", "bytes_per_s")
        for key, value in given.items()
        if key != "survives"
    }
    return CheckpointTier(
        name=name.strip()[:40],
        blocking_s=seconds.get("snapshot", seconds["write"]),
        durable_after_s=seconds["write"] if "snapshot" in seconds else 0.0,
        load_s=seconds.get("read", seconds["write"]),
        survives=share(given["survives"]) if "survives" in given else 1.0,
    )


def _spares(
    pool: tuple[int, int, int], node_mtbf_s: float, repair: str | None, spares: int | None, policy: str
) -> SpareChoice | None:
    """Return the spares, the best number of them unless one is given; None if nodes are never in repair."""
    from cost_models.operations.spares import NodePool, best_spares, spare_speed

    gpus, per_node, per_replica = pool
    if policy not in _POLICIES:
        raise UnknownNameError("spare policy", policy, _POLICIES)
    if repair is None:
        if spares is not None:
            raise InputError("spares need a time of repair", key="--repair")
        return None
    if gpus % per_node or per_replica > gpus or (per_replica > per_node and per_replica % per_node):
        raise InputError(
            "nodes and replicas are whole",
            key="--gpus-per-replica",
            value=f"{gpus}, {per_node}, {per_replica}",
        )
    nodes = NodePool(
        num_nodes=gpus // per_node,
        nodes_per_replica=max(1, per_replica // per_node),
        node_mtbf_s=node_mtbf_s,
        repair_s=_time(repair, "--repair"),
    )
    if nodes.mean_broken > nodes.num_nodes:
        raise InputError("more nodes would be in repair than there are", key="--repair", value=repair)
    best = best_spares(nodes, policy)  # type: ignore[arg-type]
    if spares is None:
        return best
    speed = spare_speed(nodes, spares, policy)  # type: ignore[arg-type]
    if speed <= 0:
        raise InputError("with so few spares the run would stand still", key="--spares", value=spares)
    return replace(best, num_spares=spares, speed=speed)


def _as_json(found: _Forecast) -> dict[str, object]:
    from cost_models.operations.checkpoints import daly_interval_s, young_interval_s

    plan, time = found.plan, found.time
    blocking = (plan.quick or plan.safe).blocking_s
    return {
        "mtbf_s": found.mtbf_s,
        "checkpoint": {
            "interval_s": plan.interval_s,
            "young_interval_s": young_interval_s(blocking, found.mtbf_s),
            "daly_interval_s": daly_interval_s(blocking, found.mtbf_s),
            "tier": asdict(plan.safe),
            "quick_tier": asdict(plan.quick) if plan.quick else None,
            "segments_per_safe_checkpoint": plan.num_segments,
            "efficiency": plan.efficiency,
        },
        "spares": asdict(found.spares) if found.spares else None,
        "goodput": time.goodput,
        "wall_s": time.wall_s,
        "parts_s": asdict(time),
        "num_steps": found.num_steps,
        "num_gpus_with_spares": found.num_devices,
        "cost_usd": found.cost_usd,
    }


def _lines(found: _Forecast) -> list[str]:
    plan, time = found.plan, found.time
    every = f"{_shown(plan.interval_s)} of work to {(plan.quick or plan.safe).name}"
    if plan.quick is not None:
        every += f", every {plan.num_segments} of them to {plan.safe.name}"
    lines = [
        f"failures      one in {_shown(found.mtbf_s)}, {time.num_failures:.4g} in all",
        f"checkpoints   every {every}; efficiency {plan.efficiency:.2%}",
    ]
    if found.spares is not None:
        lines.append(
            f"spares        {found.spares.num_spares} nodes, then {found.spares.policy}; "
            f"speed {found.spares.speed:.2%}"
        )
    lines.append(f"wall time     {_shown(time.wall_s)}, goodput {time.goodput:.2%}")
    parts = {
        "useful": time.useful_s,
        "stragglers": time.straggler_s,
        "checkpoints": time.checkpoint_s,
        "recovery": time.recovery_s,
        "lost work": time.lost_s,
        "missing nodes": time.waiting_s,
    }
    lines += [
        f"  {name:<14}{seconds / time.wall_s:8.2%}  {_shown(seconds)}" for name, seconds in parts.items()
    ]
    if found.cost_usd is not None:
        lines.append(f"cost          {found.cost_usd:,.0f} USD for {found.num_devices} GPUs")
    return lines


def _shown(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds:.4g} s"
