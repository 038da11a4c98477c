"""From a priced training plan to the candidate that a plan's file is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardware_profiles.provenance import Provenance
from planner.ir.candidates import Candidate, Estimate, PoolCandidate, ReplicaPlacement, StageMemory
from planner.ir.cluster import NodeGroup
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem, TrainingStrategy
from planner.space.training.evaluate import Evaluation, TrainingEvaluator
from planner.space.training.partition import chunk_sizes
from planner.space.training.plans import PlanArrays

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingAnswer:
    """One plan with everything its report needs."""

    group: NodeGroup
    fmt: str
    strategy: TrainingStrategy
    first_drop: int
    last_drop: int
    evaluation: Evaluation
    objective_value: float


def objective_of(problem: Problem[TrainingProblem]) -> tuple[str, str]:
    """Return the unit and sense-free name of the objective: step time, or money per step."""
    return ("min_cost", "USD/step") if problem.objective.name == "min_cost" else ("min_step_time", "s")


def usd_per_second(group: NodeGroup, num_devices: int) -> float | None:
    """Return the price of `num_devices` devices per second, None where unknown."""
    price = group.usd_per_device_hour
    return None if price is None else price * num_devices / SECONDS_PER_HOUR


def stage_layers(answer: TrainingAnswer, num_layers: int) -> tuple[int, ...]:
    """Return the layers of every stage, chunks of a stage summed."""
    strategy = answer.strategy
    sizes = chunk_sizes(num_layers, strategy.pp * strategy.num_chunks, answer.first_drop, answer.last_drop)
    if sizes is None:
        raise ValueError("the layer split of a priced plan exists")
    return tuple(sum(sizes[stage :: strategy.pp]) for stage in range(strategy.pp))


def summary_of(strategy: TrainingStrategy, fmt: str) -> str:
    """Return a plan's shape in one line."""
    parts = [f"tp{strategy.tp}", f"pp{strategy.pp}", f"dp{strategy.dp}"]
    if strategy.cp > 1:
        parts.append(f"cp{strategy.cp}")
    if strategy.ep > 1:
        parts.append(f"ep{strategy.ep}")
    if strategy.num_chunks > 1:
        parts.append(f"v{strategy.num_chunks}")
    parts += [f"mbs{strategy.micro_batch}", f"zero{strategy.zero}", f"recompute {strategy.recompute}", fmt]
    return " ".join(parts)


def model_flops_per_token(problem: Problem[TrainingProblem]) -> float:
    """Return model FLOPs per trained token: 6 per active parameter and the causal attention products.

    Embedding tables are looked up and do not count (Narayanan 2021, eq. 3, without recompute).
    """
    model = problem.payload.model
    table = model.vocab_size * model.hidden_size
    head_extra = table if model.tied_embeddings else 0
    weights = model.num_active_text_params - table + head_extra
    seq = problem.payload.workload.seq_len
    attention = sum(
        6.0 * core.num_heads * (core.head_dim + core.v_head_dim) * (min(core.window, seq) if core.window else seq / 2.0)
        for core in model.attention_cores()
    )
    return 6.0 * weights + attention


def candidate_of(
    problem: Problem[TrainingProblem], answer: TrainingAnswer, evaluator: TrainingEvaluator, reason: str = ""
) -> Candidate:
    """Return the candidate of an answer."""
    return Candidate(
        summary=summary_of(answer.strategy, answer.fmt),
        objective_value=answer.objective_value,
        pools=(_pool(problem, answer, evaluator),),
        placement=(_placement(answer),),
        predicted=_predicted(problem, answer),
        reason=reason,
        details=_details(answer),
    )


def _predicted(problem: Problem[TrainingProblem], answer: TrainingAnswer) -> tuple[tuple[str, Estimate], ...]:
    step_s = float(answer.evaluation.time.total_s[0])
    workload = problem.payload.workload
    devices = answer.strategy.num_devices
    tokens_per_s = workload.tokens_per_step / step_s
    flops = model_flops_per_token(problem) * tokens_per_s / devices
    figures: list[tuple[str, Estimate]] = [
        ("step_time_s", Estimate(value=step_s, unit="s", provenance=Provenance.CALIBRATED)),
        ("tokens_per_s", Estimate(value=tokens_per_s, unit="tokens/s", provenance=Provenance.CALIBRATED)),
        ("tokens_per_s_per_device", Estimate(value=tokens_per_s / devices, unit="tokens/s")),
        ("model_flops_per_s_per_device", Estimate(value=flops, unit="FLOP/s")),
    ]
    peak = answer.group.device.peak_flops_per_s.get("bf16")
    if peak is not None:
        figures.append(("mfu", Estimate(value=flops / peak.value, unit="1")))
    rate = usd_per_second(answer.group, devices)
    if rate is not None:
        figures.append(("usd_per_step", Estimate(value=rate * step_s, unit="USD")))
    if workload.num_tokens is not None:
        run_s = workload.num_tokens / tokens_per_s
        figures.append(("run_time_s", Estimate(value=run_s, unit="s")))
        if rate is not None:
            figures.append(("run_usd", Estimate(value=run_s * rate, unit="USD")))
    return tuple(figures)


def _details(answer: TrainingAnswer) -> tuple[tuple[str, object], ...]:
    time = answer.evaluation.time
    terms = {
        "compute_s": float(time.compute_s[0]),
        "layer_comm_s": float(time.layer_comm_s[0]),
        "bubble_s": float(time.bubble_s[0]),
        "pipeline_comm_s": float(time.pipeline_comm_s[0]),
        "data_parallel_s": float(time.data_parallel_s[0]),
        "optimizer_s": float(time.optimizer_s[0]),
        "overhead_s": float(time.overhead_s[0]),
    }
    strategy = answer.strategy
    switches = {
        "recompute": strategy.recompute,
        "schedule": strategy.schedule,
        "offload": strategy.offload,
        "sequence_parallel": strategy.sequence_parallel,
        "first_drop": answer.first_drop,
        "last_drop": answer.last_drop,
    }
    return (("step_time_terms", terms), ("training", switches))


def _pool(
    problem: Problem[TrainingProblem], answer: TrainingAnswer, evaluator: TrainingEvaluator
) -> PoolCandidate:
    strategy = answer.strategy
    model = problem.payload.model
    return PoolCandidate(
        name="trainer",
        role="trainer",
        model=model.name,
        num_replicas=1,
        device=answer.group.device.name,
        node_group=answer.group.name,
        strategy=(
            ("tp", strategy.tp),
            ("pp", strategy.pp),
            ("dp", strategy.dp),
            ("cp", strategy.cp),
            ("ep", strategy.ep),
            ("etp", strategy.etp),
            ("num_chunks", strategy.num_chunks),
            ("zero", strategy.zero),
            ("dp_shard", strategy.dp_shard),
        ),
        weight_fmt=answer.fmt,
        kv_fmt="none",
        engine=evaluator.software.name,
        limits=(
            ("micro_batch", strategy.micro_batch),
            ("global_batch", problem.payload.workload.global_batch),
            ("seq_len", problem.payload.workload.seq_len),
        ),
        layers_per_stage=stage_layers(answer, len(model.layers)),
        predicted=(),
        memory=_memory(answer),
    )


def _memory(answer: TrainingAnswer) -> tuple[StageMemory, ...]:
    memory = answer.evaluation.memory[0]
    if memory is None:
        return ()
    names = ("weights", "gradients", "optimizer", "gathered", "activations", "workspace", "reserved")
    capacity = answer.group.device.memory_bytes.value
    return tuple(
        StageMemory(
            stage=stage,
            parts=tuple((name, float(getattr(memory, name)[stage])) for name in names),
            capacity_bytes=capacity,
        )
        for stage in range(len(memory.weights))
    )


def _placement(answer: TrainingAnswer) -> ReplicaPlacement:
    group = answer.group
    per_node = group.devices_per_node
    names = group.node_names or tuple(f"{group.name}-{i}" for i in range(group.num_nodes))
    devices = tuple(f"{names[i // per_node]}/{i % per_node}" for i in range(answer.strategy.num_devices))
    return ReplicaPlacement(pool="trainer", replica=0, devices=devices)


def answer_of(
    group: NodeGroup, fmt: str, plans: PlanArrays, index: int, evaluator: TrainingEvaluator, objective: float
) -> TrainingAnswer:
    """Return plan `index` of `plans`, priced again alone with its memory by stage."""
    one = plans.take(np.array([index]))
    return TrainingAnswer(
        group=group,
        fmt=fmt,
        strategy=one.strategy(0),
        first_drop=int(one.first_drop[0]),
        last_drop=int(one.last_drop[0]),
        evaluation=evaluator.evaluate(one, fmt),
        objective_value=objective,
    )
