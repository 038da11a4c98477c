"""Megatron-LM: the arguments of a training job and scripts that launch it with torchrun."""

from __future__ import annotations

from dataclasses import dataclass

from planner.backends._megatron import CAPABILITIES, files
from planner.backends._protocol import Capabilities, ExportedFile, ExportOptions
from planner.backends._training import job_of
from planner.plan.schema import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class MegatronBackend:
    """Writes arguments of ``pretrain_gpt.py``."""

    name: str = "megatron"
    capabilities: Capabilities = CAPABILITIES

    def export(self, plan: Plan, options: ExportOptions) -> tuple[ExportedFile, ...]:
        """Return the files that launch a training job.

        Raises
        ------
        InputError
            If the plan has nothing to launch or contradicts itself.
        UnsupportedError
            Naming the decision that Megatron-LM cannot express.
        """
        found = files(job_of(self.name, self.capabilities, plan), options)
        return tuple(sorted(found, key=lambda f: f.path))


BACKEND = MegatronBackend()
