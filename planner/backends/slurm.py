"""Slurm: a batch job that launches a training job, under the software that the plan was made for."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from planner.backends import _deepspeed, _megatron, _torchtitan
from planner.backends._layout import slug
from planner.backends._protocol import Capabilities, ExportedFile, ExportOptions
from planner.backends._training import Job, job_of
from planner.plan.schema import Plan

_Files = Callable[[Job, ExportOptions], list[ExportedFile]]
_SOFTWARE: dict[str, tuple[Capabilities, _Files]] = {
    "torchtitan": (_torchtitan.CAPABILITIES, _torchtitan.files),
    "deepspeed": (_deepspeed.CAPABILITIES, _deepspeed.files),
}
_OTHERWISE: tuple[Capabilities, _Files] = (_megatron.CAPABILITIES, _megatron.files)


def _batch_script(job: Job, options: ExportOptions) -> str:
    """Return the batch script; names in directives are words of our own, never text from outside."""
    step = job.plan.predicted.get("step_time_s")
    lines = [
        "#!/usr/bin/env bash",
        f"#SBATCH --job-name={slug(job.plan.name)}",
        f"#SBATCH --nodes={len(job.nodes)}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={job.per_node}",
        "#SBATCH --exclusive",
        "#SBATCH --output=%x-%j.log",
    ]
    if step is not None:
        lines.append(f"# Predicted: {step.value:.4g} s per step.")
    lines += [
        "set -euo pipefail",
        'here="$(cd "${SLURM_SUBMIT_DIR:-.}" && pwd)"',
        'MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"',
        "export MASTER_ADDR",
        f"export MASTER_PORT={options.base_port}",
        "# The first node of the allocation stands for the first node of the plan.",
        "srun --kill-on-bad-exit=1 bash -c "
        + shlex.quote('exec bash "$0/launch-slurm.sh" "$SLURM_NODEID" "$@"')
        + ' "$here" "$@"',
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmBackend:
    """Writes ``job.sbatch`` beside what the training software needs."""

    name: str = "slurm"
    capabilities: Capabilities = _megatron.CAPABILITIES

    def export(self, plan: Plan, options: ExportOptions) -> tuple[ExportedFile, ...]:
        """Return the batch script and the files of the training software.

        Raises
        ------
        InputError
            If the plan has nothing to launch or contradicts itself.
        UnsupportedError
            Naming the decision that the training software cannot express.
        """
        engine = plan.pools[0].engine if plan.pools else ""
        capabilities, files = _SOFTWARE.get(engine, _OTHERWISE)
        job = job_of(self.name, capabilities, plan)
        kept = [f for f in files(job, options) if not f.path.startswith("nodes/")]
        launch = next(f for f in kept if f.path == "launch.sh")
        in_job = launch.text.replace('. "$here/hosts.env"\n', "")
        readme = next(f for f in kept if f.path == "README.md")
        start = "Submit it from this folder: `sbatch job.sbatch`; words after it are passed on.\n"
        others = [f for f in kept if f.path not in ("hosts.env", "launch.sh", "README.md")]
        return tuple(
            sorted(
                (
                    *others,
                    ExportedFile(path="launch-slurm.sh", text=in_job, mode=0o755),
                    ExportedFile(path="job.sbatch", text=_batch_script(job, options)),
                    ExportedFile(path="README.md", text=_with_start(readme.text, start)),
                ),
                key=lambda f: f.path,
            )
        )


def _with_start(text: str, start: str) -> str:
    """Return a README with its way to start replaced."""
    before, _, rest = text.partition("## Start\n")
    _, mark, after = rest.partition("## Before you start")
    return f"{before}## Start\n\n{start}" + (f"\n{mark}{after}" if mark else "")


BACKEND = SlurmBackend()
