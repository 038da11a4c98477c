"""An outer loop between sites as torchtitan runs: one launch per site, joined by torchft.

Settings of torchtitan 0.3 (torchtitan/experiments/torchft/config/job_config.py and trainer.py): the batch is
that of all sites, every site runs the same shape, and the model comes with a trainer configuration for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from planner.backends._protocol import Capabilities, ExportedFile, ExportOptions
from planner.backends._torchtitan import Arguments, files
from planner.backends._training import Job, job_of
from planner.errors import InputError, UnsupportedError
from planner.plan.schema import OuterLoopSettings, Plan, Pool

_QUANTISED_BITS = 8
_WHOLE_BITS = 32


def site_files(
    backend: str, capabilities: Capabilities, plan: Plan, options: ExportOptions
) -> list[ExportedFile]:
    """Return the files of every site, each in a folder of its own.

    Raises
    ------
    InputError
        If the model has no configuration with an outer loop, or the plan contradicts itself.
    UnsupportedError
        Naming the decision that torchtitan cannot express.
    """
    _check(plan)
    if plan.pools[0].model not in dict(options.model_paths):
        raise InputError(
            "torchtitan runs outer loops with a trainer configuration for them",
            key="--model-path",
            value=plan.pools[0].model,
            hint="Name one that builds a FaultTolerantTrainer: --model-path MODEL=MODULE:CONFIG.",
        )
    found: list[ExportedFile] = []
    for number, pool in enumerate(plan.pools):
        alone = plan.model_copy(
            update={"pools": [pool], "placement": [p for p in plan.placement if p.pool == pool.name]}
        )
        job = job_of(backend, capabilities, alone)
        for file in files(job, options, _arguments(job, number, len(plan.pools))):
            found.append(ExportedFile(path=f"site-{number}/{file.path}", text=file.text, mode=file.mode))
    return found


def _check(plan: Plan) -> None:
    first = plan.pools[0]
    for number, pool in enumerate(plan.pools):
        for where, name in _differences(first, pool):
            raise UnsupportedError(
                "torchtitan runs the same shape on every site, with equally many sequences",
                key=f"pools[{number}].{where}.{name}",
                value=_values(pool, where).get(name),
                allowed=str(_values(first, where)[name]),
            )
    settings = first.training
    if settings is None or settings.outer_loop is None:
        raise UnsupportedError(
            "torchtitan reduces gradients inside one job; its sites exchange in an outer loop",
            key="pools[0].training.share",
            value=settings.share if settings else 0,
        )
    loop = settings.outer_loop
    if loop.bits not in (_QUANTISED_BITS, _WHOLE_BITS):
        raise UnsupportedError(
            "torchft exchanges 32 bit or 8",
            key="pools[0].training.outer_loop.bits",
            value=loop.bits,
            allowed="8, 32",
        )
    if first.strategy.pp > 1 or settings.dp_shard not in (1, first.strategy.dp):
        raise UnsupportedError(
            "torchft joins sites without pipelines and without replicas inside",
            key="pools[0].strategy.pp",
            value=first.strategy.pp,
            hint="Plan with --fix pp=1 and as many dp_shard as dp.",
        )


def _differences(first: Pool, other: Pool) -> Iterator[tuple[str, str]]:
    """Yield which settings of two pools differ."""
    for where in ("strategy", "training"):
        own, seen = _values(first, where), _values(other, where)
        yield from ((where, name) for name in own if own[name] != seen.get(name))


def _values(pool: Pool, where: str) -> dict[str, object]:
    """Return the degrees of a pool, or what it decides beside them."""
    if where == "strategy":
        return pool.strategy.model_dump()
    return pool.training.model_dump() if pool.training else {}


def _arguments(job: Job, number: int, num_sites: int) -> Arguments:
    loop = job.settings.outer_loop or OuterLoopSettings(steps=1)
    return {
        "fault_tolerance.enable": True,
        "fault_tolerance.process_group": "nccl",
        "fault_tolerance.replica_id": number,
        "fault_tolerance.group_size": num_sites,
        "fault_tolerance.min_replica_size": num_sites,
        "fault_tolerance.semi_sync_method": "diloco",
        "fault_tolerance.sync_steps": loop.steps,
        "fault_tolerance.num_fragments": loop.fragments,
        "fault_tolerance.fragment_sync_delay": loop.overlap_steps,
        "fault_tolerance.should_quantize": loop.bits == _QUANTISED_BITS,
    }
