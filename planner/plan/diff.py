"""What differs between two plans, in terms of the decisions that a user makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from planner.plan.schema import Plan, Pool
from planner.plan.seats import seats_of

_POOL_FIELDS = ("role", "model", "replicas", "device", "node_group", "weight_dtype", "kv_dtype", "engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference; None stands for what is only in the other plan."""

    what: str
    before: object
    after: object

    @property
    def relative(self) -> float | None:
        """Relative change of a number: 0.1 is 10 % more."""
        if isinstance(self.before, float) and isinstance(self.after, float) and self.before:
            return self.after / self.before - 1
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDiff:
    """Differences of two plans: decisions, placements (replicas that moved) and predictions."""

    decisions: tuple[Change, ...]
    moves: tuple[Change, ...]
    predictions: tuple[Change, ...]
    inputs: tuple[Change, ...]

    @property
    def is_empty(self) -> bool:
        """Whether the plans agree in everything compared."""
        return not (self.decisions or self.moves or self.predictions or self.inputs)


def diff_plans(before: Plan, after: Plan) -> PlanDiff:
    """Return what differs from `before` to `after`."""
    return PlanDiff(
        decisions=tuple(_decisions(before, after)),
        moves=tuple(_moves(before, after)),
        predictions=tuple(_predictions(before, after)),
        inputs=tuple(_inputs(before, after)),
    )


def _changes(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[Change]:
    for name in [*before, *(name for name in after if name not in before)]:
        if before.get(name) != after.get(name):
            yield Change(what=name, before=before.get(name), after=after.get(name))


def _decisions(before: Plan, after: Plan) -> Iterator[Change]:
    yield from _changes(
        *({"kind": p.kind, "status": p.status, "goal": p.objective.name} for p in (before, after))
    )
    pools_before = {pool.name: pool for pool in before.pools}
    pools_after = {pool.name: pool for pool in after.pools}
    for name in [*pools_before, *(name for name in pools_after if name not in pools_before)]:
        yield from _changes(
            _pool_facts(name, pools_before.get(name)), _pool_facts(name, pools_after.get(name))
        )


def _pool_facts(name: str, pool: Pool | None) -> dict[str, object]:
    if pool is None:
        return {}
    facts: dict[str, object] = {f"{name}.{field}": getattr(pool, field) for field in _POOL_FIELDS}
    facts |= {f"{name}.{degree}": value for degree, value in pool.strategy.model_dump().items()}
    facts |= {f"{name}.{limit}": value for limit, value in sorted(pool.limits.items())}
    facts[f"{name}.layers_per_stage"] = list(pool.layers_per_stage)
    return facts


def _moves(before: Plan, after: Plan) -> Iterator[Change]:
    """Yield the seats that differ; a replica that only changed its pool's name or its number did not move."""
    old, new = seats_of(before), seats_of(after)
    yield from _changes(
        {f"{s.pool}[{s.replica}]": s.devices for key, s in old.items() if key not in new},
        {f"{s.pool}[{s.replica}]": s.devices for key, s in new.items() if key not in old},
    )


def _predictions(before: Plan, after: Plan) -> Iterator[Change]:
    yield from _changes(
        {"objective": before.objective.value, **{n: q.value for n, q in before.predicted.items()}},
        {"objective": after.objective.value, **{n: q.value for n, q in after.predicted.items()}},
    )


def _inputs(before: Plan, after: Plan) -> Iterator[Change]:
    yield from _changes(*({f"{i.role}:{i.name}": i.sha256 for i in p.inputs} for p in (before, after)))
