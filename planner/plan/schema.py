"""The contract with the outside: the versioned schema of a plan, whatever its kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = "1.0"

Status = Literal["optimal", "feasible", "infeasible"]
ProvenanceName = Literal["measured", "calibrated", "analytical", "assumed"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Quantity(_Strict):
    """A predicted number: value, unit, 90 % interval and where it comes from."""

    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    provenance: ProvenanceName = "analytical"


class ObjectiveResult(_Strict):
    """What was optimised, what was reached, and the proof: `bound` is the best any plan could reach.

    `low` and `high` end the 90 % interval of the value, from the error of the cost model; for devices, money
    or power they are what the load may need if its speed is predicted that wrongly.
    """

    name: str
    unit: str
    sense: Literal["min", "max"]
    value: float | None
    bound: float | None
    gap: float | None
    low: float | None = None
    high: float | None = None


class StrategyModel(_Strict):
    """Degrees of one replica; a degree that a kind does not use stays at 1.

    Of a training job: `dp` data-parallel ranks, `etp` tensor ranks of an expert, `num_chunks` model chunks
    per device (virtual pipeline).
    """

    tp: Annotated[int, Field(ge=1)] = 1
    pp: Annotated[int, Field(ge=1)] = 1
    ep: Annotated[int, Field(ge=1)] = 1
    attention_dp: Annotated[int, Field(ge=1)] = 1
    cp: Annotated[int, Field(ge=1)] = 1
    moe_tp: Annotated[int, Field(ge=1)] = 1
    decode_cp: Annotated[int, Field(ge=1)] = 1
    dp: Annotated[int, Field(ge=1)] = 1
    etp: Annotated[int, Field(ge=1)] = 1
    num_chunks: Annotated[int, Field(ge=1)] = 1


class StageRecompute(_Strict):
    """What one stage recomputes; `layers` are its first layers, recomputed in full where it is full."""

    recompute: Literal["none", "selective", "full"] = "none"
    layers: Annotated[int, Field(ge=0)] = 0


class OuterLoopSettings(_Strict):
    """A low-communication outer loop between the pools of a job.

    Pools train alone for `steps` steps, then average what they have learnt, in `bits` per value and in
    `fragments` parts, each of which may be on its way for `overlap_steps` steps.
    """

    steps: Annotated[int, Field(ge=1)]
    bits: Annotated[int, Field(ge=1, le=32)] = 32
    fragments: Annotated[int, Field(ge=1)] = 1
    overlap_steps: Annotated[int, Field(ge=0)] = 0


class TrainingSettings(_Strict):
    """What a training job decides beside its degrees.

    `global_batch` sequences of `seq_len` tokens are one step; a data-parallel rank runs them in
    micro-batches of `micro_batch`. ZeRO level `zero` shards optimizer states (1), gradients (2) and
    parameters (3) over `dp_shard` data-parallel ranks times the context ranks. `cp_ulysses` of the context
    ranks exchange heads, the others pass keys and values in a ring. `layers_per_chunk` are the layers of
    every model chunk in model order; chunk c sits on stage c mod pp. The first `recompute_layers` of
    every chunk are recomputed where `recompute` is full (0: all of them).

    `gradients` is the format in which they are reduced: the software's own (full), 16 bit, ZeRO++'s 4 bit, or
    the signs of 1-bit Adam.

    A pipeline over several node groups has a pool on each: this one holds the stages from `first_stage`
    on, of `num_stages` (0: all stages are here), and the layers from `first_layer` on; `recompute_stages`
    says of each of its stages what it recomputes (empty: all alike).

    A job that is replicated over node groups has a pool on each, too: this one runs `share` sequences of the
    global batch (0: all of them), and `outer_loop` says when pools exchange what they have learnt, if they do
    not reduce gradients in every step.

    Where sequences differ in length, micro-batches hold up to `rank_tokens` tokens on a rank (0: all of them
    are `seq_len` long), and groups of dp ranks, of another size for every group, share longer sequences.
    """

    global_batch: Annotated[int, Field(ge=1)]
    seq_len: Annotated[int, Field(ge=1)]
    micro_batch: Annotated[int, Field(ge=1)]
    zero: Annotated[int, Field(ge=0, le=3)] = 0
    dp_shard: Annotated[int, Field(ge=1)] = 1
    cp_ulysses: Annotated[int, Field(ge=1)] = 1
    sequence_parallel: bool = False
    recompute: Literal["none", "selective", "full"] = "none"
    recompute_layers: Annotated[int, Field(ge=0)] = 0
    offload: Literal[
        "none",
        "optimizer",
        "optimizer_and_parameters",
        "activations",
        "optimizer_and_activations",
        "everything",
    ] = "none"
    schedule: str = "1f1b"
    gradients: Literal["full", "bf16", "int4", "1bit"] = "full"
    layers_per_chunk: list[int] = []
    first_stage: Annotated[int, Field(ge=0)] = 0
    num_stages: Annotated[int, Field(ge=0)] = 0
    first_layer: Annotated[int, Field(ge=0)] = 0
    recompute_stages: list[StageRecompute] = []
    share: Annotated[int, Field(ge=0)] = 0
    rank_tokens: Annotated[int, Field(ge=0)] = 0
    outer_loop: OuterLoopSettings | None = None

    @property
    def sequences(self) -> int:
        """Sequences of one step that this pool runs."""
        return self.share or self.global_batch


class MemoryPart(_Strict):
    """One term of a device's memory."""

    name: str
    num_bytes: Annotated[float, Field(ge=0)]


class DeviceMemory(_Strict):
    """Memory of the fullest device of a pool (or of a stage): parts sum to `used_bytes`."""

    stage: int = 0
    parts: list[MemoryPart]
    used_bytes: float
    capacity_bytes: float


class Pool(_Strict):
    """Equal replicas of one shape on one device kind."""

    name: str
    role: str
    model: str
    replicas: Annotated[int, Field(ge=1)]
    device: str
    node_group: str
    strategy: StrategyModel
    weight_dtype: str
    kv_dtype: str
    engine: str
    limits: dict[str, float | int]
    layers_per_stage: list[int]
    predicted: dict[str, Quantity]
    memory: list[DeviceMemory]
    training: TrainingSettings | None = None


class Replica(_Strict):
    """Where one replica sits: `devices[r]` is ``<node>/<index>`` of global rank r (pp-major, tp fastest)."""

    pool: str
    replica: int
    devices: list[str]


class Alternative(_Strict):
    """A runner-up; `relative` is the share by which it is worse, None where it has no value.

    `tie`: the difference is below the tie tolerance (0.1 %). `within_error`: the value lies inside the 90 %
    interval of the objective, so the cost model cannot tell the two plans apart.
    """

    label: str = ""
    summary: str
    objective_value: float | None
    relative: float | None
    tie: bool = False
    within_error: bool = False
    pools: list[Pool] = []
    reason: str = ""


class SolverInfo(_Strict):
    """How the answer was found; `space` says over which space and under which model a proof holds."""

    method: str
    status: str
    seed: int
    wall_time_s: float | None = None
    work: dict[str, float | int] = {}
    space: str = ""


class InputModel(_Strict):
    """An input of the plan with its digest."""

    role: str
    name: str
    sha256: str


class BindingConstraint(_Strict):
    """A constraint without which (or with the relaxed value of which) a plan would exist."""

    name: str
    limit: float | None = None
    best_reachable: float | None = None
    unit: str = ""
    message: str


class Infeasibility(_Strict):
    """Why there is no plan, and the nearest problem that has one."""

    binding: list[BindingConstraint]
    nearest_relaxation: str
    relaxed: dict[str, float | int | str] = {}


class DiagnosticModel(_Strict):
    """A remark of a phase."""

    severity: Literal["note", "warning"]
    code: str
    message: str


class Plan(_Strict):
    """A plan and its proof.

    `predicted` maps a name that ends in its unit (ttft_s, ttft_p99_s, output_tokens_per_s) to its figure.
    `problem` is the whole problem in the IR's text form, so that a plan can be verified,
    explained, replayed and exported with nothing else at hand.
    """

    schema_version: str = SCHEMA_VERSION
    kind: str
    name: str
    status: Status
    objective: ObjectiveResult
    pools: list[Pool] = []
    placement: list[Replica] = []
    predicted: dict[str, Quantity] = {}
    alternatives: list[Alternative] = []
    infeasibility: Infeasibility | None = None
    solver: SolverInfo
    inputs: list[InputModel] = []
    diagnostics: list[DiagnosticModel] = []
    details: dict[str, object] = {}
    problem: str = ""
