"""torchtitan: module, config and overrides of a training job, and scripts that launch it with torchrun."""

from __future__ import annotations

from dataclasses import dataclass

from planner.backends._protocol import Capabilities, ExportedFile, ExportOptions
from planner.backends._torchtitan import CAPABILITIES, files
from planner.backends._torchtitan_sites import site_files
from planner.backends._training import job_of
from planner.plan.schema import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchtitanBackend:
    """Writes overrides of a torchtitan configuration."""

    name: str = "torchtitan"
    capabilities: Capabilities = CAPABILITIES

    def export(self, plan: Plan, options: ExportOptions) -> tuple[ExportedFile, ...]:
        """Return the files that launch a training job.

        Raises
        ------
        InputError
            If the plan has nothing to launch, or torchtitan's name of the model is not known.
        UnsupportedError
            Naming the decision that torchtitan cannot express.
        """
        if len(plan.pools) > 1 and all(pool.training and pool.training.share for pool in plan.pools):
            sites = site_files(self.name, self.capabilities, plan, options)
            return tuple(sorted(sites, key=lambda f: f.path))
        found = files(job_of(self.name, self.capabilities, plan), options)
        return tuple(sorted(found, key=lambda f: f.path))


BACKEND = TorchtitanBackend()
