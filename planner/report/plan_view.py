"""A plan as tables for people: what was decided, where it sits, what it will do, and the proof."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner.plan.schema import Alternative, DeviceMemory, Plan, Pool, StrategyModel, TrainingSettings
from planner.report.agent_calls import planned_calls, streams_of
from planner.report.figures import figure, interval, percent, printable
from planner.report.placement_map import placement_lines

_BAR_WIDTH = 20
_MAX_CALLS = 40
_MAX_STAGES = 6
_ORDER = ("ttft", "tpot", "e2e", "request", "capacity", "output", "step", "num", "usd", "power")
_STATUS_STYLE = {"optimal": "bold green", "feasible": "bold yellow", "infeasible": "bold red"}


def show_plan(plan: Plan, console: Console) -> None:
    """Print a plan."""
    console.print(_title(plan))
    console.print(_proof(plan))
    if plan.infeasibility is not None:
        _show_infeasibility(plan, console)
    if plan.pools:
        for table in (_pools(plan), _predictions(plan), _memory(plan.pools)):
            console.print()
            console.print(table)
        console.print()
        console.print(Text("placement", style="bold"))
        for line in placement_lines(plan):
            console.print(Text(printable(f"  {line}")))
    if planned_calls(plan):
        for table in (_calls(plan), _predictions(plan)):
            console.print()
            console.print(table)
    if plan.alternatives:
        console.print()
        console.print(_alternatives(plan))
    if plan.diagnostics:
        console.print()
    for entry in plan.diagnostics:
        console.print(
            Text(f"{entry.severity}: {entry.message}", style="yellow" if entry.severity == "warning" else "")
        )


def strategy_words(strategy: StrategyModel) -> str:
    """Return the degrees above 1, e.g. ``tp8 pp2``; ``tp1`` where there is none."""
    degrees = {name: value for name, value in strategy.model_dump().items() if value > 1}
    return " ".join(f"{name}{value}" for name, value in degrees.items()) or "tp1"


def pool_words(pool: Pool) -> str:
    """Return a pool in one line, e.g. ``2 x tp4 on h200 (fp8 weights, fp8 kv)``."""
    shape = f"{pool.replicas} x {strategy_words(pool.strategy)} on {pool.device}"
    if pool.training is not None:
        return f"{shape} ({pool.weight_dtype}, {training_words(pool.training, pool.strategy)})"
    return f"{shape} ({pool.weight_dtype} weights, {pool.kv_dtype} kv)"


def training_words(settings: TrainingSettings, strategy: StrategyModel) -> str:
    """Return what a training job decides beside its degrees in a few words.

    States are shared by `dp_shard` data-parallel ranks times the context ranks of each.
    """
    words = [f"{settings.share} of {settings.global_batch} sequences"] if settings.share else []
    if settings.rank_tokens:
        words.append(f"up to {settings.rank_tokens} tokens per rank, groups by length")
    else:
        words.append(f"micro-batch {settings.micro_batch}")
    spread = f" over {settings.dp_shard * strategy.cp} ranks" if settings.zero else ""
    words.append(f"ZeRO-{settings.zero}{spread}")
    if settings.schedule != "none":
        words.append(settings.schedule)
    words.append(_recompute_words(settings))
    if settings.offload != "none":
        words.append(f"offload {settings.offload.replace('_', ' ')}")
    if settings.gradients != "full":
        words.append(f"gradients {settings.gradients}")
    if settings.sequence_parallel:
        words.append("sequence parallel")
    if settings.cp_ulysses > 1:
        words.append(f"ulysses {settings.cp_ulysses}")
    return ", ".join(words)


def _recompute_words(settings: TrainingSettings) -> str:
    if not settings.recompute_stages:
        count = settings.recompute_layers
        return f"recompute {settings.recompute}" + (f" of {count} layers per chunk" if count else "")
    each = [f"{s.recompute} {s.layers}" if s.layers else s.recompute for s in settings.recompute_stages]
    return f"recompute by stage {', '.join(each)}"


def _title(plan: Plan) -> Text:
    status = (plan.status, _STATUS_STYLE.get(plan.status, ""))
    return Text.assemble((printable(plan.name), "bold"), f"  [{printable(plan.kind)}]  ", status)


def _proof(plan: Plan) -> Text:
    goal = plan.objective
    text = f"{goal.name}: {figure(goal.value, goal.unit)}"
    if goal.bound is not None:
        text += f"   bound {figure(goal.bound, goal.unit)}   gap {percent(goal.gap)}"
    if goal.low is not None and goal.high is not None:
        text += f"   90 % interval {_range(goal.low, goal.high, goal.unit)}"
    return Text(printable(text))


def _range(low: float, high: float, unit: str) -> str:
    """Return two figures, with one unit where both have the same."""
    first, last = figure(low, unit), figure(high, unit)
    number, _, own = first.partition(" ")
    return f"{number} to {last}" if last.endswith(f" {own}") else f"{first} to {last}"


def _show_infeasibility(plan: Plan, console: Console) -> None:
    assert plan.infeasibility is not None
    console.print(Text("no plan exists. What stands in the way:", style="bold"))
    for limit in plan.infeasibility.binding:
        console.print(Text(printable(f"  - {limit.name}: {limit.message}")))
    console.print(
        Text(printable(f"nearest feasible change: {plan.infeasibility.nearest_relaxation}"), style="bold")
    )


def _pools(plan: Plan) -> Table:
    if all(pool.training is not None for pool in plan.pools):
        return _jobs(plan)
    table = _table("pool", "role", "replicas", "device", "strategy", "weights", "kv", "engine", "limits")
    for pool in plan.pools:
        limits = " ".join(f"{name}={value:g}" for name, value in pool.limits.items())
        _add(
            table,
            pool.name,
            pool.role,
            str(pool.replicas),
            pool.device,
            strategy_words(pool.strategy),
            pool.weight_dtype,
            pool.kv_dtype,
            pool.engine,
            limits,
        )
    return table


def _jobs(plan: Plan) -> Table:
    table = _table("job", "device", "strategy", "precision", "software", "settings", "layers per chunk")
    for pool in plan.pools:
        if pool.training is not None:
            strategy, words = strategy_words(pool.strategy), training_words(pool.training, pool.strategy)
            layers = run_lengths(pool.training.layers_per_chunk)
            _add(table, pool.name, pool.device, strategy, pool.weight_dtype, pool.engine, words, layers)
    return table


def run_lengths(numbers: Iterable[int]) -> str:
    """Return numbers with equal neighbours as one word: 12 12 11 is ``2 x 12, 11``."""
    words: list[str] = []
    for number, run in groupby(numbers):
        count = len(list(run))
        words.append(str(number) if count == 1 else f"{count} x {number}")
    return ", ".join(words)


def _calls(plan: Plan) -> Table:
    """Return the calls of an agent plan; of many only those that begin first."""
    flows: dict[str, set[str]] = {}
    for (_, target), kind, _ in streams_of(plan):
        flows.setdefault(target, set()).add(kind)
    calls = sorted(planned_calls(plan), key=lambda c: (c.start_s, c.end_s, c.name))
    table = _table("call", "model", "start", "first token", "end", "inputs")
    for call in calls[:_MAX_CALLS]:
        times = (figure(t, "s") for t in (call.start_s, call.first_token_s, call.end_s))
        _add(table, call.name, call.model or "-", *times, ", ".join(sorted(flows.get(call.name, ()))))
    if len(calls) > _MAX_CALLS:
        _add(table, f"and {len(calls) - _MAX_CALLS} more", "", "", "", "", "")
    return table


def _predictions(plan: Plan) -> Table:
    table = _table("predicted", "value", "90 % interval", "from")
    for name in sorted(plan.predicted, key=_reading_order):
        quantity = plan.predicted[name]
        _add(table, name, figure(quantity.value, quantity.unit), interval(quantity), quantity.provenance)
    return table


def _reading_order(name: str) -> tuple[int, int, str]:
    """Sort latencies first, then rates, then what is used; a mean before its percentiles."""
    first = next((i for i, part in enumerate(_ORDER) if name.startswith(part)), len(_ORDER))
    return first, len(name), name


def _telling_stages(memory: Sequence[DeviceMemory]) -> list[DeviceMemory]:
    """Return all stages of a short pipeline; of a long one the first, the fullest and the last."""
    if len(memory) <= _MAX_STAGES:
        return list(memory)
    fullest = max(range(len(memory)), key=lambda number: memory[number].used_bytes)
    return [memory[number] for number in sorted({0, fullest, len(memory) - 1})]


def _memory(pools: Iterable[Pool]) -> Table:
    table = _table("memory of the fullest device", "used", "of", "", "parts")
    for pool in pools:
        shown = _telling_stages(pool.memory)
        for stage in shown:
            share = stage.used_bytes / stage.capacity_bytes if stage.capacity_bytes else 0.0
            first = pool.training.first_stage if pool.training is not None else 0
            name = pool.name if len(pool.memory) == 1 else f"{pool.name} stage {first + stage.stage}"
            used, capacity = figure(stage.used_bytes, "B"), figure(stage.capacity_bytes, "B")
            _add(table, name, used, capacity, _bar(share), _parts(stage))
        left_out = len(pool.memory) - len(shown)
        if left_out:
            fullest = max(stage.used_bytes for stage in shown)
            _add(table, f"{pool.name}: {left_out} more", f"at most {figure(fullest, 'B')}", "", "", "")
    return table


def _parts(stage: DeviceMemory) -> str:
    parts = sorted((part for part in stage.parts if part.num_bytes > 0), key=lambda part: -part.num_bytes)
    return ", ".join(f"{part.name} {figure(part.num_bytes, 'B')}" for part in parts)


def _bar(share: float) -> str:
    filled = round(min(max(share, 0.0), 1.0) * _BAR_WIDTH)
    return f"{'#' * filled}{'.' * (_BAR_WIDTH - filled)} {share * 100:3.0f} %"


def _alternatives(plan: Plan) -> Table:
    table = _table("alternative", plan.objective.name, "against the plan", "why not")
    for choice in plan.alternatives:
        value = figure(choice.objective_value, plan.objective.unit)
        _add(table, choice.summary, value, _against(choice), choice.reason)
    return table


def _against(choice: Alternative) -> str:
    if choice.tie:
        return "tie"
    if choice.relative is None:
        return "-"
    words = f"{percent(abs(choice.relative))} {'worse' if choice.relative >= 0 else 'better'}"
    return f"{words}, cannot be told apart" if choice.within_error else words


def _add(table: Table, *cells: str) -> None:
    table.add_row(*(Text(printable(cell)) for cell in cells))


def _table(*headers: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title_justify="left")
    for header in headers:
        table.add_column(header, overflow="fold")
    return table
