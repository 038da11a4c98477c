"""The best cut of a chain of layers into pipeline stages over ordered groups of devices, exactly.

A step takes (m - 1) x + S + U: x is the pace, S one micro-batch through all stages and links, U what the
slowest stage does once per step. The pace is that of the slowest stage, link or loop (training_table.py). For
a limit on x the table finds the least S. Limits are searched by bisection: between two of them no plan is
better than (m - 1) times the lower with the S of the upper. U is then limited until nothing better remains.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log2

from planner.search.training_table import ChainQuestion, Counts, Key, PipelineTable
from planner.space.training.chain_stages import StageChoice

EXACT, CLOSE = 1e-9, 5e-5
"""Steps that differ by less than this share count as equal: on few devices, and on many."""
MOST_DEVICES_EXACT = 128
"""More devices than this are many."""
_SAME = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedStage:
    """A stage on a group; `hop_s` is the send to the next stage, 0 for the last."""

    segment: int
    held: float
    choice: StageChoice
    hop_s: float

    @property
    def time_s(self) -> float:
        """One micro-batch, seconds."""
        return self.choice.compute_s + self.choice.comm_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A pipeline, first stage first, with the time of its step in seconds."""

    stages: tuple[PlacedStage, ...]
    step_s: float


class ChainSearch:
    """Searches one question."""

    def __init__(self, question: ChainQuestion) -> None:
        self._q = question
        self._most_once_s = inf
        self._close = question.tolerance
        self.num_tables = 0

    def best(self, cut_s: float) -> Chain | None:
        """Return the fastest pipeline whose step is shorter than `cut_s`, None if there is none."""
        found: Chain | None = None
        best_s = cut_s
        self._most_once_s = inf
        fixed_s = self._q.per_step_s + self._least_once_s()
        while True:
            chain = self._fastest_pipe(best_s * (1 - self._close) - fixed_s)
            if chain is None:
                return found
            if chain.step_s < best_s:
                found, best_s = chain, chain.step_s
            self._most_once_s = max(_once_s(stage.choice) for stage in chain.stages) * (1 - _SAME)

    def _fastest_pipe(self, cut_s: float) -> Chain | None:
        """Return the pipeline of least pace and ramp, None if they take `cut_s` or more.

        Only stages that do at most `_most_once_s` once per step are looked at.
        """
        others = self._q.num_micro - 1
        slack_s = cut_s * (1 - self._close) - self._bound(0.0, self._table(inf))
        if not slack_s > 0.0:
            return None
        high = slack_s / others if others else inf
        found: Chain | None = None
        brackets = [(0.0, high, self._table(high))]
        while brackets:
            low, high, table = brackets.pop()
            if self._bound(low, table) >= cut_s * (1 - self._close):
                continue
            chain = self._chain(high, table)
            pipe_s = self._late(_counts(chain.stages, len(self._q.segments))) * self._pipe_s(chain.stages)
            if pipe_s < cut_s:
                found, cut_s = chain, pipe_s
            pace = min(self._pace(chain.stages), high) * (1 - _SAME)
            if others and pace > low:
                brackets += self._split(low, pace)
        return found

    def _split(self, low: float, pace: float) -> list[tuple[float, float, PipelineTable]]:
        """Return the brackets that are left between two limits, each with the table of its upper one."""
        just_below = self._table(pace)
        if not just_below.finals():
            return []
        middle = (low + pace) / 2.0
        half = self._table(middle)
        return [(middle, pace, just_below), *([(low, middle, half)] if half.finals() else [])]

    def _least_once_s(self) -> float:
        """Return a lower bound on what the slowest stage does once per step: one of them holds its share."""
        segments = self._q.segments
        num_layers = segments[0].band.shape[0]
        share = -(-num_layers // min(sum(s.most_stages for s in segments), num_layers))
        bands = [(s.band.once_s + s.band.optimizer_s)[:, share - 1 :] for s in segments]
        return min((float(b.min()) for b in bands if b.size), default=0.0)

    def _table(self, limit_s: float) -> PipelineTable:
        self.num_tables += 1
        return PipelineTable(self._q, limit_s, self._most_once_s)

    def _late(self, counts: Counts) -> float:
        """Return what waiting for slow nodes multiplies the step by."""
        nodes = sum(
            n * segment.devices_per_stage / segment.devices_per_node
            for n, segment in zip(counts, self._q.segments, strict=True)
        )
        return late_factor(self._q.straggler, nodes)

    def _bound(self, limit_s: float, table: PipelineTable) -> float:
        """Return the least step by pace `limit_s` and the ramps of `table`."""
        return min((self._value(key, limit_s, total) for key, total in table.finals().items()), default=inf)

    def _value(self, key: Key, limit_s: float, total_s: float) -> float:
        paced = (self._q.num_micro - 1) * limit_s if self._q.num_micro > 1 else 0.0
        return self._late(key[0]) * (paced + total_s)

    def _chain(self, limit_s: float, table: PipelineTable) -> Chain:
        """Return the best pipeline of a table."""
        q, finals = self._q, table.finals()
        best = min(finals, key=lambda k: (self._value(k, limit_s, finals[k]), sum(k[0]), k))
        steps = table.walk(best)
        stages: list[PlacedStage] = []
        for n, (i, first, count, left) in enumerate(steps):
            held = float(min(left, q.num_micro))
            hop = float(q.hop_s[i, steps[n + 1][0]]) if n + 1 < len(steps) else 0.0
            choice = q.segments[i].band.choice(first, count, held)
            stages.append(PlacedStage(segment=i, held=held, choice=choice, hop_s=hop))
        once = max(_once_s(stage.choice) for stage in stages)
        late = self._late(_counts(tuple(stages), len(q.segments)))
        step_s = late * (self._pipe_s(tuple(stages)) + once) + q.per_step_s
        return Chain(stages=tuple(stages), step_s=step_s)

    def _pace(self, stages: tuple[PlacedStage, ...]) -> float:
        return pace_s(stages, self._q.num_micro, self._q.hidden)

    def _pipe_s(self, stages: tuple[PlacedStage, ...]) -> float:
        """Return the time that all micro-batches take through the stages and links."""
        return (self._q.num_micro - 1) * self._pace(stages) + ramp_s(stages)


def late_factor(straggler: float, num_nodes: float) -> float:
    """Return what waiting for the slowest of so many nodes multiplies the step by."""
    return 1.0 + straggler * log2(max(num_nodes, 1.0))


def ramp_s(stages: tuple[PlacedStage, ...]) -> float:
    """Return the time of one micro-batch through all stages and links, there and back."""
    return sum(stage.time_s + 2.0 * stage.hop_s for stage in stages)


def pace_s(stages: tuple[PlacedStage, ...], num_micro: int, hidden: float) -> float:
    """Return what one more micro-batch adds: the slowest stage, link, or loop over a run of stages.

    A loop of k stages passes k micro-batches in the time of its stages and of the sends between them, both
    ways; stages that begin with all their micro-batches are in none.
    """
    pace = 0.0
    for first, begin in enumerate(stages):
        loop = 0.0
        for last in range(first, len(stages)):
            here = stages[last]
            alike = last + 1 < len(stages) and stages[last + 1].segment == here.segment
            time = here.time_s + (2.0 * (1.0 - hidden) * here.hop_s if alike else 0.0)
            pace = max(pace, (loop + time) / (last - first + 1), begin.hop_s)
            if len(stages) - first >= num_micro:
                break
            loop += time + (0.0 if alike else 2.0 * here.hop_s)
    return pace


def _once_s(choice: StageChoice) -> float:
    return choice.once_s + choice.optimizer_s


def _counts(stages: tuple[PlacedStage, ...], num_groups: int) -> Counts:
    return tuple(sum(stage.segment == i for stage in stages) for i in range(num_groups))
