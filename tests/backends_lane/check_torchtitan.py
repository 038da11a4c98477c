"""Holds every exported torchtitan command line against torchtitan's own parser, without a GPU.

Runs in the virtual environment of run.sh with torchtitan on the path. ``ConfigManager`` parses the words as
``launch.sh`` passes them, with words of the user's own; ``ParallelDims`` builds its meshes over ranks that
are not there; the model's ``update_from_config`` holds its sizes against the degrees. Prints one line per
plan and leaves with 1 if any was rejected.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from pathlib import Path

from stand_ins import stand_in_for
from training_plans import plans

from planner.backends import BACKENDS, ExportOptions
from planner.errors import UnsupportedError
from planner.plan.schema import Plan

NOT_NEEDED = ("wandb", "datasets")
MEANT_TO_BE_REFUSED = {
    "states": "training.zero",
    "tensor": "training.sequence_parallel",
    "wide tensor": "strategy.tp",
    "offloaded states": "training.offload",
}


def words_of(folder: Path) -> list[str]:
    """What launch.sh passes to torchtitan, read from a torchrun that only prints."""
    torchrun = folder / "bin" / "torchrun"
    torchrun.parent.mkdir()
    torchrun.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    torchrun.chmod(0o755)
    command = ["bash", str(folder / "launch.sh"), "0", "--training.steps", "7"]
    path = f"{torchrun.parent}:/usr/bin:/bin"
    done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    return words[words.index("torchtitan.train") + 1 :]


def meshes(parallelism, num_ranks: int) -> None:
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from torchtitan.distributed import ParallelDims

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)
    try:
        ParallelDims.from_config(parallelism, num_ranks).build_mesh()
    finally:
        dist.destroy_process_group()


def schedule(config, num_ranks: int) -> str | None:
    """What is wrong with the pipeline of a configuration."""
    from torch.distributed.pipelining.schedules import get_schedule_class
    from torchtitan.distributed.pipeline_parallel import _get_pp_rank_to_stage_indices_mapping

    given, training = config.parallelism, config.training
    if given.pipeline_parallel_degree == 1:
        return None
    get_schedule_class(given.pipeline_parallel_schedule)
    names = [name for part in given.module_fqns_per_model_part for name in part]
    layers = [f"layers.{i}" for i in range(len(config.model_spec.model.layers))]
    if names != ["tok_embeddings", *layers, "norm", "lm_head"]:
        return "the parts are not the model"
    for rank in range(given.pipeline_parallel_degree):
        _get_pp_rank_to_stage_indices_mapping(
            rank,
            given.pipeline_parallel_degree,
            given.pipeline_parallel_schedule,
            len(given.module_fqns_per_model_part),
        )
    if given.pipeline_parallel_schedule_csv and not Path(given.pipeline_parallel_schedule_csv).is_file():
        return "the schedule is not where launch.sh says"
    return None if training.local_batch_size % given.pipeline_parallel_microbatch_size == 0 else "batch"


def defect(plan: Plan, folder: Path) -> str | None:
    from torchtitan.config.manager import ConfigManager

    settings, s = plan.pools[0].training, plan.pools[0].strategy
    assert settings is not None
    num_ranks = s.tp * s.pp * s.cp * s.dp
    try:
        config = ConfigManager().parse_args(words_of(folder))
        meshes(config.parallelism, num_ranks)
        config.model_spec.model.update_from_config(config=config)
        wrong = schedule(config, num_ranks)
    except SystemExit as error:
        return f"parser exit {error.code}"
    except Exception as error:  # noqa: BLE001 - whatever torchtitan raises is the finding
        return f"{type(error).__name__}: {str(error)[:300]}"
    kind = type(config.activation_checkpoint).__qualname__.removesuffix("AC.Config").lower()
    if kind != {"none": "nonetype"}.get(settings.recompute, settings.recompute):
        return f"recomputes {kind}, not {settings.recompute}"
    given = config.training
    if given.global_batch_size % (given.local_batch_size * s.dp) or given.steps != 7:
        return "the batch does not divide, or the user's words are lost"
    return wrong


def main() -> int:
    logging.disable(logging.WARNING)
    stand_in_for(*NOT_NEEDED)
    count = 0
    for name, plan in plans():
        with tempfile.TemporaryDirectory() as scratch:
            meant, refusal = MEANT_TO_BE_REFUSED.get(name), None
            try:
                for file in BACKENDS.get("torchtitan").export(plan, ExportOptions()):
                    path = Path(scratch) / file.path
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(file.text)
            except UnsupportedError as error:
                refusal = str(error)
            if refusal is not None:
                why = None if meant and meant in refusal else refusal
            else:
                why = f"{meant} is not refused" if meant else defect(plan, Path(scratch))
        word = "REJECT" if why else "ok" if refusal is None else "refuse"
        sys.stdout.write(f"{word:6} torchtitan {name}" + (f": {why}" if why else "") + "\n")
        sys.stdout.flush()
        count += why is not None
    sys.stdout.write(f"{count} defects\n")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
