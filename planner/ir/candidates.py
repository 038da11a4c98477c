"""What a search hands back, whatever the kind: the chosen pools, their proof and the runners-up.

Named values are tuples of (name, value) pairs in a fixed order, so that a result is hashable and
prints the same way every time. Names of predictions end in their unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hardware_profiles.provenance import Provenance

SearchStatus = Literal["optimal", "feasible", "infeasible", "nothing_found"]
Sense = Literal["min", "max"]
Degrees = tuple[tuple[str, int], ...]
Limits = tuple[tuple[str, float | int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A predicted number with its unit, its 90 % interval and where it comes from."""

    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    provenance: Provenance = Provenance.ANALYTICAL


Predictions = tuple[tuple[str, Estimate], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Memory of the fullest device of one stage; `parts` (name, bytes) sum to `used_bytes`."""

    stage: int
    parts: tuple[tuple[str, float], ...]
    capacity_bytes: float

    @property
    def used_bytes(self) -> float:
        """Sum of all parts, bytes."""
        return sum(num_bytes for _, num_bytes in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolChoice:
    """Equal replicas of one shape on one node group.

    `degrees` names the degrees of one replica (tp, pp, attention_dp, ep, moe_tp, cp, decode_cp, ...);
    `limits` what the engine is told (token_budget, max_num_seqs, ...); `settings` what a training job
    decides beside its degrees.
    """

    name: str
    role: str
    model: str
    replicas: int
    node_group: str
    device: str
    degrees: Degrees
    devices_per_replica: int
    weight_fmt: str
    kv_fmt: str
    engine: str
    limits: Limits
    layers_per_stage: tuple[int, ...]
    predicted: Predictions
    memory: tuple[StageMemory, ...]
    settings: tuple[tuple[str, object], ...] = ()

    @property
    def num_devices(self) -> int:
        """Devices of the pool."""
        return self.replicas * self.devices_per_replica


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPlacement:
    """Where one replica sits: `devices[r]` is ``<node>/<index>`` of global rank r (pp-major, tp fastest)."""

    pool: str
    replica: int
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveValue:
    """What was optimised and the proof: no plan of the stated space is better than `bound`.

    `gap` is |value - bound| / |value|; None where there is no plan. `low` and `high` end the 90 % interval of
    the value, from the error of the cost model; None where no error is known or the value has none.
    """

    name: str
    unit: str
    sense: Sense
    value: float | None
    bound: float | None
    gap: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternativeChoice:
    """The best plan of another kind; `relative` is the share by which it is worse, None if there is none."""

    label: str
    summary: str
    objective_value: float | None
    relative: float | None
    tie: bool
    pools: tuple[PoolChoice, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingLimit:
    """A limit without which, or with the best reachable value of which, a plan would exist."""

    name: str
    limit: float | None
    best_reachable: float | None
    unit: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InfeasibilityReport:
    """Why there is no plan; `relaxed` is the nearest change, found feasible by solving again."""

    binding: tuple[BindingLimit, ...]
    nearest_relaxation: str
    relaxed: tuple[tuple[str, float | int | str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The answer of a search.

    `work` counts what was done (columns priced, candidates, nodes); `space` says in words over which
    space and under which model the proof holds; `details` is what plans of the kind state beyond pools.
    """

    status: SearchStatus
    objective: ObjectiveValue
    pools: tuple[PoolChoice, ...]
    placement: tuple[ReplicaPlacement, ...]
    predicted: Predictions
    alternatives: tuple[AlternativeChoice, ...]
    infeasibility: InfeasibilityReport | None
    method: str
    work: tuple[tuple[str, float | int], ...]
    space: str = ""
    details: tuple[tuple[str, object], ...] = ()
