"""Holds every exported ds_config.json against DeepSpeed's own configuration, without a GPU.

Runs in the virtual environment of run.sh with DeepSpeed on the path. ``DeepSpeedConfig`` reads the file as
``deepspeed.initialize`` would on every rank; keys at its top level, which it does not check, must be among
its own names. Prints one line per plan and leaves with 1 if any was rejected.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from pathlib import Path

from training_plans import hold

from planner.plan.schema import Plan

MEANT_TO_BE_REFUSED = {
    "replicated": "training.sequence_parallel",
    "hsdp": "training.sequence_parallel",
    "selective": "training.sequence_parallel",
    "wide tensor": "training.sequence_parallel",
    "offload": "training.recompute",
    "groups": "training.dp_shard",
    "context": "strategy.cp",
    "pipeline": "strategy.pp",
    "chunks": "strategy.pp",
    "zero bubble": "strategy.pp",
    "v shape": "strategy.pp",
    "experts": "strategy.ep",
    "experts in a pipeline": "strategy.pp",
}
"""The decision that each plan must be refused for; shapes that are not named must be accepted."""


class Ranks:
    """The ranks that share the work of a job, for a configuration that asks how many they are."""

    def __init__(self, number: int) -> None:
        self.number = number

    def get_data_parallel_world_size(self) -> int:
        return self.number


def defect(plan: Plan, text: str) -> str | None:
    from deepspeed.runtime import config as ours
    from deepspeed.runtime import constants

    ours.dist.get_rank = lambda: 0
    settings, strategy = plan.pools[0].training, plan.pools[0].strategy
    assert settings is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ds_config.json"
        path.write_text(text)
        try:
            config = ours.DeepSpeedConfig(str(path), mpu=Ranks(strategy.dp))
        except Exception as error:  # noqa: BLE001 - whatever DeepSpeed raises is the finding
            return f"{type(error).__name__}: {str(error)[:300]}"
    names = {value for value in vars(constants).values() if isinstance(value, str)}
    names |= {"zero_optimization", "tensor_parallel"}
    if unknown := set(json.loads(text)) - names:
        return f"it does not know {sorted(unknown)}"
    if config.train_batch_size != settings.global_batch:
        return f"it trains on {config.train_batch_size} sequences, not {settings.global_batch}"
    return None if config.zero_optimization_stage == settings.zero else "another ZeRO stage"


def main() -> int:
    os.environ["DS_ACCELERATOR"] = "cpu"
    logging.disable(logging.WARNING)
    return hold("deepspeed", "ds_config.json", MEANT_TO_BE_REFUSED, defect)


if __name__ == "__main__":
    sys.exit(main())
