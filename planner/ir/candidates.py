"""What a search hands back, whatever the kind: the chosen candidate, the proof, the runners-up.

The plan's file is made from this one to one, so everything a user is told about a plan stands here.
Ordered (name, value) pairs stand where a file has a mapping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hardware_profiles.provenance import Provenance

Number = float | int
SearchStatus = Literal["optimal", "feasible", "infeasible", "nothing_found"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A predicted figure: `low` and `high` bound its 90 % interval; None where no spread is known."""

    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    provenance: Provenance = Provenance.ANALYTICAL


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Memory of the fullest device of a stage: `parts` are (name, bytes) and sum to what is used."""

    stage: int
    parts: tuple[tuple[str, float], ...]
    capacity_bytes: float

    @property
    def used_bytes(self) -> float:
        """Bytes in use."""
        return sum(num_bytes for _, num_bytes in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCandidate:
    """Equal replicas of one shape on one node group.

    `strategy` lists degrees by the names of the plan's file (tp, pp, ep, attention_dp, cp, moe_tp,
    decode_cp); degrees left out are 1. `limits` are engine settings (max_num_seqs, token_budget, ...).
    """

    name: str
    role: str
    model: str
    num_replicas: int
    device: str
    node_group: str
    strategy: tuple[tuple[str, int], ...]
    weight_fmt: str
    kv_fmt: str
    engine: str
    limits: tuple[tuple[str, Number], ...]
    layers_per_stage: tuple[int, ...]
    predicted: tuple[tuple[str, Estimate], ...]
    memory: tuple[StageMemory, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPlacement:
    """Where one replica sits: `devices[r]` is ``<node>/<index>`` of rank r (pp-major, tp fastest)."""

    pool: str
    replica: int
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A whole answer, priced in floats. `summary` names its shape in one short line.

    `reason` says, for a runner-up, why it loses; `details` are facts of the kind's own.
    """

    summary: str
    objective_value: float
    pools: tuple[PoolCandidate, ...]
    placement: tuple[ReplicaPlacement, ...] = ()
    predicted: tuple[tuple[str, Estimate], ...] = ()
    reason: str = ""
    details: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A limit without which an answer would exist, and the best that can be reached under the others."""

    name: str
    message: str
    limit: float | None = None
    best_reachable: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """The nearest problem that has an answer: in words, and as (spec key, value) to set."""

    message: str
    changes: tuple[tuple[str, float | int | str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The answer of a search, with its proof.

    `bound` is the best objective that any candidate of the space could reach; `gap` is
    |value - bound| / |value|. `work` counts what was done (candidates priced, nodes, ...).
    `best` is None exactly if `status` is infeasible or nothing_found; `binding` and `relaxation`
    explain an infeasible answer.
    """

    status: SearchStatus
    objective_name: str
    objective_unit: str
    sense: Literal["min", "max"]
    method: str
    solver_status: str
    best: Candidate | None = None
    bound: float | None = None
    gap: float | None = None
    alternatives: tuple[Candidate, ...] = ()
    binding: tuple[Binding, ...] = ()
    relaxation: Relaxation | None = None
    work: tuple[tuple[str, Number], ...] = ()
