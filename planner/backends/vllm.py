"""vLLM on hosts of one's own: scripts that run ``vllm serve``; `_hosts` says how they are laid out."""

from __future__ import annotations

from dataclasses import dataclass

from planner.backends._hosts import HostExport
from planner.backends._protocol import Capabilities, ExportedFile, ExportOptions
from planner.backends._vllm_engine import ENGINE
from planner.plan.schema import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmBackend:
    """Writes shell scripts that run ``vllm serve`` on named hosts."""

    name: str = "vllm"
    capabilities: Capabilities = ENGINE.capabilities

    def export(self, plan: Plan, options: ExportOptions) -> tuple[ExportedFile, ...]:
        """Return scripts, configurations and a README.

        Raises
        ------
        InputError
            If the plan has nothing to launch, contradicts itself or breaks a rule of vLLM.
        UnsupportedError
            If vLLM cannot run a decision of the plan.
        """
        ENGINE.check_plan(self.name, plan)
        return HostExport(engine=ENGINE, plan=plan, options=options).files()


BACKEND = VllmBackend()
