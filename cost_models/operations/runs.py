"""A long run as a whole: time, money and what the time went into."""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1

from cost_models.operations.checkpoints import CheckpointPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTime:
    """Expected wall time of a run and its parts, seconds; they add up to `wall_s`.

    Parameters
    ----------
    useful_s
        Steps that count, at the speed of a mean worker.
    straggler_s
        What steps take longer because of the slowest worker.
    waiting_s
        Standstill (or lost speed) while nodes are missing.
    checkpoint_s
        Standstill for checkpoints of work that counts.
    recovery_s
        Detection, restart and load.
    lost_s
        Work, and its checkpoints, thrown away by failures.
    num_failures
        Expected number of interruptions.
    """

    useful_s: float
    straggler_s: float
    waiting_s: float
    checkpoint_s: float
    recovery_s: float
    lost_s: float
    num_failures: float

    @property
    def wall_s(self) -> float:
        """Expected wall time, seconds."""
        parts = (self.useful_s, self.straggler_s, self.waiting_s)
        return sum(parts) + self.checkpoint_s + self.recovery_s + self.lost_s

    @property
    def goodput(self) -> float:
        """Useful time over wall time."""
        return self.useful_s / self.wall_s


def run_time(
    work_s: float,
    plan: CheckpointPlan,
    *,
    mtbf_s: float,
    restart_s: float,
    slowest_factor: float = 1.0,
    speed: float = 1.0,
) -> RunTime:
    """Return the expected time of `work_s` of steps under a checkpoint plan.

    `slowest_factor` stretches steps (see stragglers), `speed` is the mean part of full speed that spares
    leave (see spares). Failures strike all the time but while nodes are waited for. Of the time, the part
    1 - exp(-R / M) goes into recoveries of R, tries that fail included (see `efficiency`).
    """
    stepping_s = work_s * slowest_factor
    running_s = stepping_s / plan.efficiency
    num_failures = running_s / mtbf_s
    blocking_s = plan.safe.blocking_s / plan.num_segments
    if plan.quick is not None:
        blocking_s += plan.quick.blocking_s
    checkpoint_s = stepping_s / plan.interval_s * blocking_s
    load_s = plan.safe.load_s
    if plan.quick is not None:
        load_s = plan.quick.survives * plan.quick.load_s + (1 - plan.quick.survives) * plan.safe.load_s
    recovery_s = -expm1(-(restart_s + load_s) / mtbf_s) * running_s
    return RunTime(
        useful_s=work_s,
        straggler_s=stepping_s - work_s,
        waiting_s=running_s / speed - running_s,
        checkpoint_s=checkpoint_s,
        recovery_s=recovery_s,
        lost_s=running_s - stepping_s - checkpoint_s - recovery_s,
        num_failures=num_failures,
    )


def run_cost_usd(wall_s: float, num_devices: float, usd_per_device_hour: float) -> float:
    """Return the money that so many devices (spares among them) cost for a time."""
    return wall_s / 3600.0 * num_devices * usd_per_device_hour
