"""Predictions for fixed configurations: one replica shape under one load, without any search."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from cost_models.cost import FloatArray
from cost_models.serving.capacity import (
    Entries,
    LatencyLimits,
    Pools,
    PoolState,
    capacity_position,
    e2e_percentiles,
    position_at_concurrency,
    position_at_rate,
    state_at,
    ttft_percentiles,
)
from cost_models.serving.closed_loop import (
    WAVES,
    Discipline,
    Loop,
    LoopTimes,
    closed_loop_pattern,
    loop_times,
    offline_pattern,
    run_s,
    wave_weights,
    weighted_percentiles,
)
from cost_models.serving.closed_pair import DecodePool, PrefillPool, pair_times
from cost_models.serving.queueing import Arrivals
from cost_models.serving.static_batch import BatchTimes, static_batch
from cost_models.serving.uncertainty import handover_sigma, streaming_sigma
from cost_models.work import KvTransfer, LinkSpec
from hardware_profiles.provenance import Provenance
from hardware_profiles.schema import SoftwareProfile
from planner.errors import InputError
from planner.ir.candidates import StageMemory
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import ModelGraph
from planner.ir.serving import Role, ServingChoices, ServingProblem
from planner.ir.strategy import ServingStrategy
from planner.ir.workload import ServingWorkload
from planner.space.compose import ReplicaShape
from planner.space.engine import EngineCosts
from planner.space.replica import Replica, ReplicaBuilder

_BISECTIONS = 60
_FEWEST_WAVES, _ENOUGH_REQUESTS = 3.0, 4000.0
PERCENTILES = np.array([50.0, 90.0, 99.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedReplica:
    """A configuration to evaluate. `layers_per_stage` is balanced where it is None.

    `prompt_wait_steps` is for how many steps prompts wait until every attention rank has one.
    """

    strategy: ServingStrategy
    role: Role = "aggregated"
    weight_fmt: str = "bf16"
    kv_fmt: str = "auto"
    token_budget: int = 8192
    max_num_seqs: int = 1024
    replicas: int = 1
    layers_per_stage: tuple[int, ...] | None = None
    prompt_wait_steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a configuration does under its load.

    `saturated`: the load exceeds what can run, latencies are those of the highest load that can.
    `sigma` is the standard deviation of the relative error of times, `first_token_sigma` that of TTFT.
    Latencies in seconds, rates per second of the whole configuration.
    """

    ttft_s: float
    tpot_s: float
    e2e_s: float
    ttft_percentiles_s: tuple[tuple[float, float], ...]
    tpot_high_s: float
    e2e_percentiles_s: tuple[tuple[float, float], ...]
    rate_rps: float
    output_tokens_per_s: float
    running_sequences: float
    utilisation: float
    saturated: bool
    num_devices: int
    sigma: float
    first_token_sigma: float
    provenance: Provenance
    memory: tuple[StageMemory, ...]


@dataclass(slots=True, kw_only=True)
class Evaluator:
    """Evaluates configurations of one model under one engine on one node group, for one workload.

    Layers are priced once per way of splitting them; later evaluations cost well under a millisecond.
    """

    model: ModelGraph
    group: NodeGroup
    costs: EngineCosts
    workload: ServingWorkload
    routing_skew: float = 1.0
    max_num_seqs: int = 1024
    max_token_budget: int = 16384
    memory_fraction: float | None = None
    builder: ReplicaBuilder = field(init=False)
    _replicas: dict[FixedReplica, Replica | None] = field(default_factory=dict[FixedReplica, Replica | None])

    def __post_init__(self) -> None:
        """Set up pricing."""
        self.builder = ReplicaBuilder(
            problem=ServingProblem(
                model=self.model,
                workload=self.workload,
                choices=ServingChoices(
                    weight_fmts=("bf16",),
                    kv_fmts=("auto",),
                    max_num_seqs=self.max_num_seqs,
                    token_budgets=(self.max_token_budget,),
                ),
                routing_skew=self.routing_skew,
                memory_fraction=self.memory_fraction,
            ),
            group=self.group,
            costs=self.costs,
        )

    def use(self, software: SoftwareProfile) -> None:
        """Evaluate from now on with other facts on the same engine; kernels are not priced again."""
        self.costs = replace(self.costs, software=software)
        self.builder.use(self.costs)
        self._replicas.clear()

    def replica(self, fixed: FixedReplica) -> Replica | None:
        """Return the priced replica, or None if it does not fit memory."""
        if fixed not in self._replicas:
            shape = self._shape(fixed)
            if fixed.layers_per_stage is not None:
                self._replicas[fixed] = self.builder.build_with(shape, fixed.layers_per_stage)
            else:
                self._replicas[fixed] = next(iter(self.builder.build(shape)), None)
        return self._replicas[fixed]

    def evaluate(self, fixed: FixedReplica) -> Prediction | None:
        """Return what aggregated (or decode) replicas do under the workload; None if they do not fit.

        Without a rate or a concurrency, the highest rate within the latency limits is taken.
        """
        replica = self.replica(fixed)
        if replica is None:
            return None
        if self.workload.concurrency is not None and fixed.role == "aggregated":
            return self.closed_loop(fixed, replica, self.workload.concurrency)
        pools = self._pools(replica)
        entries = Entries.one(0, fixed.replicas)
        position, saturated = self._position(pools, entries)
        state = state_at(pools, entries, np.array([position]))
        return self._prediction(replica, fixed, pools, state, saturated=saturated)

    def closed_loop(self, fixed: FixedReplica, replica: Replica, concurrency: int) -> Prediction:
        """Return what a replica does when `concurrency` clients wait for their answers, evenly over replicas.

        `utilisation` is the share of steps that carry prompt tokens.
        """
        times = self._loop_times(fixed, replica, concurrency)
        weights = wave_weights(times.e2e_s.size, max(1, round(concurrency / fixed.replicas)))
        high = np.array([self.workload.slo.percentile or 50.0])
        e2e_s = float(weights @ times.e2e_s)
        rate = concurrency / e2e_s
        tokens_per_s = rate * self.builder.requests.mean_output_tokens
        return Prediction(
            ttft_s=float(weights @ times.ttft_s),
            tpot_s=float(weights @ times.tpot_s),
            e2e_s=e2e_s,
            ttft_percentiles_s=_paired(weighted_percentiles(times.ttft_s, weights, PERCENTILES)),
            tpot_high_s=float(weighted_percentiles(times.tpot_s, weights, high)[0]),
            e2e_percentiles_s=_paired(weighted_percentiles(times.e2e_s, weights, PERCENTILES)),
            rate_rps=rate,
            output_tokens_per_s=tokens_per_s,
            running_sequences=times.sequences * replica.curve.num_ranks * fixed.replicas,
            utilisation=times.mixed_share,
            saturated=concurrency / fixed.replicas > replica.curve.num_ranks * _capacity(replica),
            num_devices=replica.num_devices * fixed.replicas,
            sigma=replica.tables.sigma,
            first_token_sigma=_streaming_sigma(replica, fixed, tokens_per_s),
            provenance=replica.tables.provenance,
            memory=replica.memory_report(),
        )

    def _loop_times(self, fixed: FixedReplica, replica: Replica, concurrency: int) -> LoopTimes:
        loop, how = self._loop(fixed, replica, concurrency)
        pattern = closed_loop_pattern(self.builder.requests, loop, how)
        return loop_times(pattern, replica.tables, self.builder.requests)

    def evaluate_offline(self, fixed: FixedReplica, num_requests: int) -> float:
        """Return how long replicas take for so many requests that are all queued at the start, seconds.

        Raises
        ------
        ValueError
            If the replica does not fit.
        """
        replica = self.replica(fixed)
        if replica is None:
            raise ValueError("the replica does not fit the memory of its devices")
        loop, how = self._loop(fixed, replica, num_requests)
        return run_s(offline_pattern(self.builder.requests, loop, how), replica.tables)

    def requests_offline(self, fixed: FixedReplica, replica: Replica) -> int:
        """Return how many requests show the highest throughput: several times as many as run at once."""
        places = max(1.0, _capacity(replica)) * replica.curve.num_ranks * fixed.replicas
        return round(max(_FEWEST_WAVES * places, min(WAVES * places, _ENOUGH_REQUESTS)))

    def _loop(self, fixed: FixedReplica, replica: Replica, num_requests: int) -> tuple[Loop, Discipline]:
        software, limits = self.costs.software, replica.limits
        context = self.builder.requests.context_moments()[0]
        loop = Loop(
            num_clients=max(1, round(num_requests / fixed.replicas)),
            num_ranks=replica.curve.num_ranks,
            max_sequences=limits.max_sequences,
            cache_tokens=round(limits.cache_sequences * context, -2),
            num_stages=replica.tables.num_stages,
        )
        share = software.reserved_output_share
        how = Discipline(
            token_budget=fixed.token_budget,
            reserved_share=share.value if share is not None else 1.0,
            wait_steps=fixed.prompt_wait_steps if replica.curve.num_ranks > 1 else 0,
        )
        return loop, how

    def evaluate_static(self, fixed: FixedReplica, batch: float) -> BatchTimes | None:
        """Return the times of one static batch per attention rank; None if it does not fit."""
        replica = self.replica(fixed)
        if replica is None:
            return None
        return static_batch(replica.tables, self.builder.requests, batch, float(fixed.token_budget))

    def capacity_rps(self, fixed: FixedReplica) -> float | None:
        """Return the highest rate within the workload's latency limits (0: none); None if it does not fit."""
        replica = self.replica(fixed)
        if replica is None:
            return None
        pools, entries = self._pools(replica), Entries.one(0, fixed.replicas)
        position = capacity_position(pools, entries, self._limits())
        return (
            float(state_at(pools, entries, np.maximum(position, 0.0)).rate_rps[0])
            if position[0] >= 0
            else 0.0
        )

    def _shape(self, fixed: FixedReplica) -> ReplicaShape:
        if fixed.strategy.pp > self.model.num_layers:
            raise InputError("more stages than layers", key="pp", value=fixed.strategy.pp)
        return ReplicaShape(
            role=fixed.role,
            group=self.group.name,
            engine=self.costs.engine,
            weight_fmt=fixed.weight_fmt,
            kv_fmt=fixed.kv_fmt,
            strategy=fixed.strategy,
            token_budget=min(fixed.token_budget, self.max_token_budget),
            max_num_seqs=min(fixed.max_num_seqs, self.max_num_seqs),
        )

    def _limits(self) -> LatencyLimits:
        slo = self.workload.slo

        def limit(value: float | None) -> float:
            return np.inf if value is None else value

        return LatencyLimits(
            ttft_s=limit(slo.ttft_s),
            tpot_s=limit(slo.tpot_s),
            e2e_s=limit(slo.e2e_s),
            percentile=slo.percentile,
        )

    def _pools(self, replica: Replica, extra_ttft_s: float = 0.0) -> Pools:
        arrivals = Arrivals(
            scv=self.workload.burstiness,
            closed=self.workload.concurrency is not None and replica.shape.role == "aggregated",
        )
        return Pools.stack([replica.curve], self.builder.requests, arrivals, extra_ttft_s)

    def _position(self, pools: Pools, entries: Entries) -> tuple[float, bool]:
        last = float(pools.num_points - 1)
        if self.workload.concurrency is not None:
            position = float(position_at_concurrency(pools, entries, float(self.workload.concurrency))[0])
            return position, position >= last * (1.0 - 1e-9)
        if self.workload.rate_rps is not None:
            position = float(position_at_rate(pools, entries, self.workload.rate_rps)[0])
            return (last, True) if position < 0.0 else (position, False)
        position = float(capacity_position(pools, entries, self._limits())[0])
        return max(position, 0.0), position < 0.0

    def _prediction(
        self, replica: Replica, fixed: FixedReplica, pools: Pools, state: PoolState, *, saturated: bool
    ) -> Prediction:
        rate = float(state.rate_rps[0])
        tokens_per_s = rate * self.builder.requests.mean_output_tokens
        step = float(state.tpot_high_s[0])
        entry = Entries.one(0, fixed.replicas)
        return Prediction(
            ttft_s=float(state.ttft_s[0]),
            tpot_s=float(state.tpot_s[0]),
            e2e_s=float(state.e2e_s[0]),
            ttft_percentiles_s=_paired(ttft_percentiles(pools, entry, state, PERCENTILES)),
            tpot_high_s=step,
            e2e_percentiles_s=_paired(e2e_percentiles(pools, entry, state, PERCENTILES, step)),
            rate_rps=rate,
            output_tokens_per_s=tokens_per_s,
            running_sequences=float(state.sequences[0]) * replica.curve.num_ranks * fixed.replicas,
            utilisation=float(state.utilisation[0]),
            saturated=saturated,
            num_devices=replica.num_devices * fixed.replicas,
            sigma=replica.tables.sigma,
            first_token_sigma=_streaming_sigma(replica, fixed, tokens_per_s),
            provenance=replica.tables.provenance,
            memory=replica.memory_report(),
        )


def _streaming_sigma(replica: Replica, fixed: FixedReplica, tokens_per_s: float) -> float:
    return streaming_sigma(replica.tables.first_token_sigma, tokens_per_s / fixed.replicas)


def _capacity(replica: Replica) -> float:
    return min(replica.limits.max_sequences, replica.limits.cache_sequences)


def _paired(values: FloatArray) -> tuple[tuple[float, float], ...]:
    return tuple((float(p), float(value)) for p, value in zip(PERCENTILES, values, strict=True))


def evaluate_pair(
    prefill: Evaluator, decode: Evaluator, halves: tuple[FixedReplica, FixedReplica], link: LinkSpec
) -> Prediction | None:
    """Return what a prefill pool and a decode pool do together; None if one does not fit.

    Both evaluators share a workload. The cache crosses `link` on as many lanes as both sides have; a closed
    loop is followed request by request.
    """
    first, second = prefill.replica(halves[0]), decode.replica(halves[1])
    if first is None or second is None:
        return None
    lanes = float(min(first.cache_lanes, second.cache_lanes))
    num_bytes = prefill.builder.prompt_cache_bytes(first.shape)
    transfer = prefill.costs.model.price(KvTransfer(num_bytes=num_bytes, link=link, num_lanes=lanes)).time_s
    if prefill.workload.concurrency is not None:
        return _closed_pair(prefill, halves, (first, second), transfer)
    # the decode worker takes a request in as the prefill worker did, and streams its first token
    handover = (transfer + second.tables.per_request_s)[None, :]
    before = Pools.stack(
        [first.curve], prefill.builder.requests, Arrivals(scv=prefill.workload.burstiness), handover
    )
    after = Pools.stack([second.curve], decode.builder.requests, Arrivals())
    return _Pair(
        prefill=prefill, decode=decode, halves=halves, replicas=(first, second), pools=(before, after)
    ).prediction()


def _closed_pair(
    prefill: Evaluator,
    halves: tuple[FixedReplica, FixedReplica],
    replicas: tuple[Replica, Replica],
    transfer_s: FloatArray,
) -> Prediction:
    """Return what the pools do when a fixed number of clients wait for their answers."""
    (before, after), (first, second), requests = halves, replicas, prefill.builder.requests
    concurrency = prefill.workload.concurrency or 1
    times = pair_times(
        concurrency,
        requests,
        PrefillPool(
            tables=first.tables,
            num_workers=before.replicas,
            token_budget=before.token_budget,
            random_ranks=prefill.costs.software.random_prefill_ranks,
        ),
        DecodePool(
            tables=second.tables,
            num_workers=after.replicas,
            max_sequences=second.limits.max_sequences,
            cache_tokens=second.limits.cache_sequences * requests.context_moments()[0],
        ),
        transfer_s,
    )
    rate = concurrency / times.mean(times.e2e_s)
    tables = (first.tables, second.tables)
    high = np.array([prefill.workload.slo.percentile or 50.0])
    places = _capacity(second) * second.curve.num_ranks * after.replicas
    return Prediction(
        ttft_s=times.mean(times.ttft_s),
        tpot_s=times.mean(times.tpot_s),
        e2e_s=times.mean(times.e2e_s),
        ttft_percentiles_s=_paired(times.percentile(times.ttft_s, PERCENTILES)),
        tpot_high_s=float(times.percentile(times.tpot_s, high)[0]),
        e2e_percentiles_s=_paired(times.percentile(times.e2e_s, PERCENTILES)),
        rate_rps=rate,
        output_tokens_per_s=rate * requests.mean_output_tokens,
        running_sequences=times.sequences,
        utilisation=times.prefill_busy,
        saturated=concurrency > places,
        num_devices=sum(r.num_devices * h.replicas for r, h in zip(replicas, halves, strict=True)),
        sigma=max(t.sigma for t in tables),
        first_token_sigma=handover_sigma(max(t.first_token_sigma for t in tables)),
        provenance=max(t.provenance for t in tables),
        memory=(*first.memory_report(), *second.memory_report()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    prefill: Evaluator
    decode: Evaluator
    halves: tuple[FixedReplica, FixedReplica]
    replicas: tuple[Replica, Replica]
    pools: tuple[Pools, Pools]

    def states(self, rate: float) -> tuple[PoolState, PoolState] | None:
        """Return both states at a rate, or None if one cannot carry it."""
        states: list[PoolState] = []
        for pools, half in zip(self.pools, self.halves, strict=True):
            entries = Entries.one(0, half.replicas)
            position = position_at_rate(pools, entries, rate)
            if position[0] < 0.0:
                return None
            states.append(state_at(pools, entries, position))
        return states[0], states[1]

    def rate(self) -> tuple[float, bool]:
        """Return the rate of the workload, and whether it exceeds what can run."""
        workload = self.prefill.workload
        highest = min(
            float(pools.rate_rps[0, -1]) * half.replicas * float(pools.num_ranks[0])
            for pools, half in zip(self.pools, self.halves, strict=True)
        ) * (1.0 - 1e-9)
        if workload.rate_rps is not None:
            return (workload.rate_rps, False) if workload.rate_rps <= highest else (highest, True)
        low, high = 0.0, highest
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self._fine(middle) else (low, middle)
        return low, low >= highest * (1.0 - 1e-6)

    def _fine(self, rate: float) -> bool:
        states = self.states(rate)
        if states is None:
            return False
        ttft, tpot = float(states[0].ttft_s[0]), float(states[1].tpot_s[0])
        slo = self.prefill.workload.slo
        return ttft <= (slo.ttft_s or np.inf) and tpot <= (slo.tpot_s or np.inf)

    def prediction(self) -> Prediction | None:
        """Return the prediction of the pair."""
        rate, saturated = self.rate()
        states = self.states(rate)
        if states is None:
            return None
        first, second = states
        steps = self.prefill.builder.requests.mean_steps
        step = float(second.tpot_high_s[0])
        pools, entry = self.pools[0], Entries.one(0, self.halves[0].replicas)
        ttft, tpot = float(first.ttft_s[0]), float(second.tpot_s[0])
        tables = [replica.tables for replica in self.replicas]
        return Prediction(
            ttft_s=ttft,
            tpot_s=tpot,
            e2e_s=ttft + tpot * steps,
            ttft_percentiles_s=_paired(ttft_percentiles(pools, entry, first, PERCENTILES)),
            tpot_high_s=step,
            e2e_percentiles_s=_paired(e2e_percentiles(pools, entry, first, PERCENTILES, step)),
            rate_rps=rate,
            output_tokens_per_s=rate * self.prefill.builder.requests.mean_output_tokens,
            running_sequences=float(second.sequences[0]) * self.replicas[1].curve.num_ranks,
            utilisation=float(first.utilisation[0]),
            saturated=saturated,
            num_devices=sum(
                r.num_devices * h.replicas for r, h in zip(self.replicas, self.halves, strict=True)
            ),
            sigma=max(t.sigma for t in tables),
            first_token_sigma=handover_sigma(max(t.first_token_sigma for t in tables)),
            provenance=max(t.provenance for t in tables),
            memory=(*self.replicas[0].memory_report(), *self.replicas[1].memory_report()),
        )
