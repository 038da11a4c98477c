"""A request on its way through a simulation."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan


@dataclass(slots=True, kw_only=True)
class Request:
    """Tokens to compute, tokens cached before, decode steps, who sent it, and what happened to it.

    `blocks` are the hashes of its leading whole prompt blocks (each stands for all before it). `guess` is
    how many steps a predictor expects. `done` counts computed prompt tokens, `produced` decode steps
    that an interruption has thrown back into the prompt. What was measured of it is NaN where nobody says.
    """

    arrival_s: float
    cached: int
    new: int
    steps: int
    blocks: tuple[int, ...] = ()
    session: int = -1
    tenant: int = 0
    priority: int = 0
    guess: float = 0.0
    done: int = 0
    produced: int = 0
    ready_s: float = 0.0
    start_s: float = inf
    first_s: float = inf
    finish_s: float = inf
    place: int = -1
    private_tokens: int = 0
    promised_tokens: float = 0.0
    interruptions: int = 0
    measured_ttft_s: float = nan
    measured_e2e_s: float = nan

    @property
    def context(self) -> int:
        """Tokens whose caches it needs before it decodes: its prompt, and what it had produced before."""
        return self.cached + self.new

    def interrupt(self, produced: int) -> None:
        """Throw it back: what it produced joins the prompt, and all of that is to be computed again."""
        self.new += self.cached + produced
        self.cached = 0
        self.steps -= produced
        self.produced += produced
        self.done = 0
        self.interruptions += 1
