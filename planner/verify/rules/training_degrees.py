"""Degrees of a training job divide what they split, fill its devices, and suit its schedule."""

from __future__ import annotations

from collections.abc import Iterator

from planner.ir.model_graph import AttentionCore, Experts, StateCore
from planner.verify.report import Violation
from planner.verify.rule import TRAINING, Case, Rule
from planner.verify.training.view import JobView, jobs


def _check(case: Case) -> Iterator[Violation]:
    for job in jobs(case):
        for message in (*_ranks(case, job), *_model(job), *_batch(job), *_gradients(job), *_schedule(job)):
            yield Violation(message=f"pool {job.pool.name!r}: {message}")


def _ranks(case: Case, job: JobView) -> Iterator[str]:
    s = job.strategy
    size = s.tp * s.pp * s.dp * s.cp
    for replica in case.plan.placement:
        if replica.pool == job.pool.name and len(replica.devices) != size:
            yield f"{len(replica.devices)} devices are placed for {size} ranks"
    if sum(r.pool == job.pool.name for r in case.plan.placement) != 1:
        yield "the job is not placed once"
    if s.attention_dp * s.moe_tp * s.decode_cp != 1:
        yield "a degree of served models is set"


def _model(job: JobView) -> Iterator[str]:
    s, model = job.strategy, job.problem.payload.model
    ops = {op for layer in model.layers for op in layer.ops}
    for heads in sorted({op.num_heads for op in ops if isinstance(op, AttentionCore | StateCore)}):
        if heads % s.tp:
            yield f"tp={s.tp} does not divide {heads} heads"
    for kv in sorted({op.num_kv_heads for op in ops if isinstance(op, AttentionCore) and op.kind == "gqa"}):
        if kv % s.tp and s.tp % kv:
            yield f"tp={s.tp} and {kv} KV heads do not divide one another"
    experts = [op for op in ops if isinstance(op, Experts)]
    if not experts and s.ep * s.etp != 1:
        yield f"ep={s.ep}, etp={s.etp} for a model without experts"
    for op in experts:
        if op.num_experts % s.ep or op.inter % s.etp:
            yield f"ep={s.ep}, etp={s.etp} do not divide {op.num_experts} experts of width {op.inter}"
    if (s.dp * s.cp * s.tp) % (s.ep * s.etp):
        yield f"ep x etp = {s.ep} x {s.etp} does not divide the {s.dp * s.cp * s.tp} ranks of a stage"


def _batch(job: JobView) -> Iterator[str]:
    s, settings = job.strategy, job.settings
    packed = settings.rank_tokens > 0
    if packed and (s.pp, s.cp, settings.micro_batch, settings.zero > 2) != (1, 1, 1, False):
        yield "sequences of different lengths are packed without pipeline, fixed context ranks and ZeRO-3"
    if not packed and settings.sequences % (s.dp * settings.micro_batch):
        yield f"{s.dp} ranks with micro-batches of {settings.micro_batch} do not make {settings.sequences}"
    if settings.seq_len % (2 * s.cp if s.cp > 1 else 1):
        yield f"cp={s.cp} does not cut {settings.seq_len} tokens into pairs of pieces"
    if s.cp % settings.cp_ulysses:
        yield f"cp_ulysses={settings.cp_ulysses} does not divide cp={s.cp}"
    if s.dp % settings.dp_shard:
        yield f"dp_shard={settings.dp_shard} does not divide dp={s.dp}"
    if settings.sequence_parallel and s.tp == 1:
        yield "sequence parallelism without tensor parallelism"
    if settings.zero and settings.dp_shard * s.cp == 1:
        yield f"ZeRO-{settings.zero} on one rank"


def _gradients(job: JobView) -> Iterator[str]:
    """Yield formats of gradients that rest on another way of sharing states."""
    settings = job.settings
    if settings.gradients == "int4" and not (settings.zero == 3 and settings.dp_shard == job.strategy.dp):
        yield "gradients in 4 bit are part of ZeRO-3 over all ranks"
    if settings.gradients == "1bit" and settings.zero:
        yield "1-bit Adam keeps whole states, ZeRO shares them out"


def _schedule(job: JobView) -> Iterator[str]:
    s, name = job.strategy, job.settings.schedule
    if s.pp == 1:
        if s.num_chunks != 1:
            yield "chunks without a pipeline"
        return
    if name == "interleaved" and (s.num_chunks < 2 or job.num_micro % s.pp):
        yield f"interleaving {job.num_micro} micro-batches on {s.pp} stages with {s.num_chunks} chunks"
    if name != "interleaved" and s.num_chunks != (2 if name == "zb-v" else 1):
        yield f"{name} with {s.num_chunks} chunks per stage"
    if name.startswith("zb-") and job.num_micro < 2 * s.pp:
        yield f"{name} with {job.num_micro} micro-batches on {s.pp} stages"


RULE = Rule(
    says="degrees divide what they split and fill the devices",
    check=_check,
    kinds=TRAINING,
    requires=("training-choices", "training-spread", "inventory"),
)
