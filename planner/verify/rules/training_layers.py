"""Every layer of a trained model stands in exactly one chunk, and the chunks make up the stages."""

from __future__ import annotations

from collections.abc import Iterator

from planner.verify.report import Violation
from planner.verify.rule import TRAINING, Case, Rule
from planner.verify.training.view import JobView, jobs


def _check(case: Case) -> Iterator[Violation]:
    for job in jobs(case):
        for message in _messages(job):
            yield Violation(message=f"pool {job.pool.name!r}: {message}")


def _messages(job: JobView) -> Iterator[str]:
    s, chunks = job.strategy, job.settings.layers_per_chunk
    num_layers = len(job.problem.payload.model.layers)
    if len(chunks) != s.pp * s.num_chunks:
        yield f"{len(chunks)} chunks are filled, there are {s.pp * s.num_chunks}"
        return
    alone = not job.settings.num_stages
    if alone and sum(chunks) != num_layers:
        yield f"the chunks hold {sum(chunks)} layers of {num_layers}"
    if any(count < 0 for count in chunks) or any(count < 1 for count in chunks[1:-1]):
        yield "a chunk inside the model has no layer"
    held = [0] * s.pp
    for chunk, count in enumerate(chunks):
        held[job.stage_of(chunk)] += count
    if held != job.pool.layers_per_stage:
        yield f"the stages hold {held}, the plan says {job.pool.layers_per_stage}"
    if any(count < 1 for count in held):
        yield "a stage has no layer"


RULE = Rule(
    says="every layer stands in exactly one chunk of one stage",
    check=_check,
    kinds=TRAINING,
    requires=("training-degrees", "training-spread"),
)
