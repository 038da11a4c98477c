"""Steps on their way through a pipeline, none of which overtakes another: the one rule of pipelined serving.

As many micro-batches are in flight as there are stages, and each has a step in turn. A step enters when the
step before has left the first stage and its own micro-batch has left the last; it leaves one step after the
step before, or after all stages. One that takes long therefore holds up all that are in flight: behind it
they wait at every stage, in front of it they come round and queue behind it.

Source: permutation flow shop with proportionate times, for which these two rules are exact; the pipeline
bubbles of Sarathi-Serve (OSDI 2024).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Convoy:
    """When the steps in flight leave the last stage, when the first stage is free, and who left last."""

    num_stages: int
    free_s: float = 0.0
    last_s: float = 0.0
    _left: deque[float] = field(default_factory=deque[float])

    def __post_init__(self) -> None:
        """Start with an empty pipeline."""
        self._left = deque([0.0] * self.num_stages, maxlen=self.num_stages)

    def enters_s(self) -> float:
        """Return when the next step may enter."""
        return max(self._left[0], self.free_s)

    def run(self, slot_s: float, through_s: float, ready_s: float = 0.0) -> float:
        """Let a step in, at `ready_s` at the earliest; return when it leaves.

        `slot_s` is its time on the slowest stage, `through_s` that on all stages.
        """
        enters_s = max(self._left[0], self.free_s, ready_s)
        self.free_s = enters_s + slot_s
        self.last_s = max(self.last_s + slot_s, enters_s + through_s)
        self._left.append(self.last_s)
        return self.last_s

    def drain(self) -> None:
        """Let nothing in until the last step has left."""
        self.free_s = self.last_s

    def delay(self, by_s: float) -> None:
        """Let all that is in flight pass that much later: where alike steps have followed meanwhile."""
        self.free_s += by_s
        self.last_s += by_s
        for at in range(self.num_stages):
            self._left[at] += by_s


def cycle_s(steps: Sequence[tuple[float, float]]) -> float:
    """Return how often alike steps of each micro-batch come round; steps are (slowest stage, all stages).

    The slowest stage serves all of them in turn, and none comes back before it has passed all stages.
    """
    return max(sum(slot_s for slot_s, _ in steps), *(through_s for _, through_s in steps))
