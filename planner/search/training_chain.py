"""The best cut of a chain of layers into pipeline stages over ordered groups of devices, exactly.

A step takes (m - 1) x + S + U: x is the pace of the slowest stage or link, S one micro-batch through all
stages and links, U what the slowest stage does once per step. For a limit on x, a dynamic programme over
(stages used of every group, group at work, first layer) finds the least S, last stage first, as a stage k
from the end keeps k micro-batches. Limits are then searched by bisection: between two of them no plan is
better than (m - 1) times the lower with the S of the upper. U is then limited until nothing better remains.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log2

import numpy as np

from cost_models.cost import FloatArray
from planner.space.training.chain_stages import StageBand, StageChoice
from planner.space.training.plans import IntArray

_SAME = 1e-12
Counts = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSegment:
    """A group that may hold consecutive stages: its priced stages, and how many there is room for."""

    band: StageBand
    most_stages: int
    devices_per_stage: int
    devices_per_node: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainQuestion:
    """What is to be cut.

    `hop_s[i][j]` is one send from a stage on group i to the next stage on j, of which the share
    `hidden` is hidden; `straggler` is what doubling the nodes adds to the step. `num_stages` is pinned
    unless it is 0; `least_groups` groups take part.
    """

    segments: tuple[ChainSegment, ...]
    hop_s: FloatArray
    num_micro: int
    hidden: float
    straggler: float
    per_step_s: float
    num_stages: int = 0
    least_groups: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedStage:
    """A stage on a group; `hop_s` is the send to the next stage, 0 for the last."""

    segment: int
    held: float
    choice: StageChoice
    hop_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A pipeline, first stage first, with the time of its step in seconds."""

    stages: tuple[PlacedStage, ...]
    step_s: float


@dataclass(slots=True, kw_only=True)
class _State:
    """Pipelines that end the model, by their first layer: least time of one micro-batch, and how."""

    least_s: FloatArray
    taken: IntArray
    next_state: list[tuple[Counts, int] | None]


_Table = dict[tuple[Counts, int], _State]


class ChainSearch:
    """Searches one question."""

    def __init__(self, question: ChainQuestion) -> None:
        self._q = question
        self._num_layers, width = question.segments[0].band.shape
        first = np.arange(self._num_layers)[:, None]
        self._end = np.minimum(first + np.arange(1, width + 1)[None, :], self._num_layers)
        self._most_once_s = inf
        self.num_tables = 0

    def best(self, cut_s: float) -> Chain | None:
        """Return the fastest pipeline whose step is shorter than `cut_s`, None if there is none."""
        found: Chain | None = None
        best_s = cut_s
        self._most_once_s = inf
        fixed_s = self._q.per_step_s + self._least_once_s()
        while True:
            chain = self._fastest_pipe(best_s - fixed_s)
            if chain is None:
                return found
            if chain.step_s < best_s:
                found, best_s = chain, chain.step_s
            self._most_once_s = max(_once_s(stage.choice) for stage in chain.stages) * (1 - _SAME)

    def _fastest_pipe(self, cut_s: float) -> Chain | None:
        """Return the pipeline of least pace and ramp, None if they take `cut_s` or more.

        Only stages that do at most `_most_once_s` once per step are looked at.
        """
        free = self._table(inf)
        slack_s = cut_s - self._bound(0.0, free)
        limits = self._limits(slack_s) if slack_s > 0.0 else np.zeros(0)
        low = self._least_feasible(limits)
        if low is None:
            return None
        found: Chain | None = None
        brackets = [(low, len(limits) - 1, free)]
        while brackets:
            low, high, table = brackets.pop()
            if self._bound(float(limits[low]), table) >= cut_s:
                continue
            here = self._table(float(limits[low]))
            if self._bound(float(limits[low]), here) < cut_s:
                chain = self._chain(float(limits[low]), here)
                pipe_s = self._late(_counts(chain.stages, len(self._q.segments))) * self._pipe_s(chain.stages)
                if pipe_s < cut_s:
                    found, cut_s = chain, pipe_s
            if low < high:
                half = (low + 1 + high) // 2
                if half < high:
                    brackets.append((half + 1, high, table))
                    table = self._table(float(limits[half]))
                brackets.append((low + 1, half, table))
        return found

    def _limits(self, slack_s: float) -> FloatArray:
        """Return every pace that a stage or a link may set, ascending, at most `slack_s` in all."""
        q = self._q
        if q.num_micro == 1:
            return np.array([inf])
        most = slack_s / (q.num_micro - 1)
        found: list[FloatArray] = [q.hop_s.ravel()]
        for i, segment in enumerate(q.segments):
            delays = np.unique(np.append(q.hop_s[i], 0.0)) * self._visible
            for held in range(1, min(self._most_stages(), q.num_micro) + 1):
                times = np.unique(segment.band.time_s(float(held)))
                times = times[times <= most]
                found.extend(times + delay for delay in delays)
        values = np.unique(np.concatenate(found))
        return values[(values > 0.0) & (values <= most)]

    def _least_once_s(self) -> float:
        """Return a lower bound on what the slowest stage does once per step: one of them holds its share."""
        segments = self._q.segments
        share = -(-self._num_layers // min(sum(s.most_stages for s in segments), self._num_layers))
        bands = [(s.band.once_s + s.band.optimizer_s)[:, share - 1 :] for s in segments]
        return min((float(b.min()) for b in bands if b.size), default=0.0)

    @property
    def _visible(self) -> float:
        """Sends forward and back that the stage before a link waits for, as a share of one send."""
        return 2.0 * (1.0 - self._q.hidden)

    def _most_stages(self) -> int:
        most = min(sum(segment.most_stages for segment in self._q.segments), self._num_layers)
        return min(most, self._q.num_stages) if self._q.num_stages else most

    def _least_feasible(self, limits: FloatArray) -> int | None:
        """Return the place of the least limit under which there is a pipeline."""
        low, high = 0, len(limits) - 1
        if high < 0 or not self._finals(self._table(float(limits[high]))):
            return None
        while low < high:
            middle = (low + high) // 2
            if self._finals(self._table(float(limits[middle]))):
                high = middle
            else:
                low = middle + 1
        return low

    def _table(self, limit_s: float) -> _Table:
        """Return the least time of one micro-batch of every pipeline end whose pace keeps to a limit."""
        self.num_tables += 1
        q, table = self._q, _Table()
        layer: dict[tuple[Counts, int], _State] = {}
        for i in range(len(q.segments)):
            counts = tuple(int(i == k) for k in range(len(q.segments)))
            last = np.full(self._num_layers + 1, inf)
            last[-1] = 0.0
            self._extend(layer, last, None, (counts, i), 1, 0.0, limit_s)
        for depth in range(2, self._most_stages() + 2):
            table |= layer
            if depth > self._most_stages() or not layer:
                break
            following: dict[tuple[Counts, int], _State] = {}
            for (counts, i), state in layer.items():
                for k, segment in enumerate(q.segments):
                    used = counts[k]
                    if used >= segment.most_stages or (used and k != i) or q.hop_s[k, i] > limit_s:
                        continue
                    more = tuple(n + int(k == g) for g, n in enumerate(counts))
                    hop = float(q.hop_s[k, i])
                    self._extend(following, state.least_s, (counts, i), (more, k), depth, hop, limit_s)
            layer = following
        return table

    def _extend(  # noqa: PLR0913, PLR0917 - one transition of the programme
        self,
        layer: dict[tuple[Counts, int], _State],
        ends_s: FloatArray,
        after: tuple[Counts, int] | None,
        key: tuple[Counts, int],
        depth: int,
        hop_s: float,
        limit_s: float,
    ) -> None:
        """Put a stage of group `key[1]` before pipelines that begin at each layer in `ends_s` seconds."""
        band = self._q.segments[key[1]].band
        time = band.time_s(float(min(depth, self._q.num_micro)))
        slow = time + self._visible * hop_s > limit_s
        late = band.once_s + band.optimizer_s > self._most_once_s
        total = np.where(slow | late, inf, time + 2.0 * hop_s) + ends_s[self._end]
        taken = total.argmin(axis=1)
        least = np.append(total[np.arange(self._num_layers), taken], inf)
        if not np.isfinite(least).any():
            return
        state = layer.get(key)
        if state is None:
            layer[key] = _State(
                least_s=least, taken=taken.astype(np.int64), next_state=[after] * self._num_layers
            )
            return
        for a in np.flatnonzero(least < state.least_s):
            state.least_s[a], state.taken[a], state.next_state[a] = least[a], taken[a], after

    def _finals(self, table: _Table) -> dict[tuple[Counts, int], float]:
        """Return the pipelines that hold all layers and the groups asked for, with their times."""
        q = self._q
        return {
            key: float(state.least_s[0])
            for key, state in table.items()
            if np.isfinite(state.least_s[0])
            and (not q.num_stages or sum(key[0]) == q.num_stages)
            and sum(n > 0 for n in key[0]) >= q.least_groups
        }

    def _late(self, counts: Counts) -> float:
        """Return what waiting for slow nodes multiplies the step by."""
        nodes = sum(
            n * segment.devices_per_stage / segment.devices_per_node
            for n, segment in zip(counts, self._q.segments, strict=True)
        )
        return late_factor(self._q.straggler, nodes)

    def _bound(self, limit_s: float, table: _Table) -> float:
        """Return the least step by pace `limit_s` and the ramps of `table`."""
        paced = (self._q.num_micro - 1) * limit_s if self._q.num_micro > 1 else 0.0
        finals = self._finals(table).items()
        return min((self._late(key[0]) * (paced + total) for key, total in finals), default=inf)

    def _chain(self, limit_s: float, table: _Table) -> Chain:
        """Return the best pipeline of a table, walked from its first stage."""
        q = self._q
        paced = (q.num_micro - 1) * limit_s if q.num_micro > 1 else 0.0
        finals = self._finals(table)
        key: tuple[Counts, int] | None = min(
            finals, key=lambda k: (self._late(k[0]) * (paced + finals[k]), sum(k[0]), k)
        )
        first, stages = 0, list[PlacedStage]()
        while key is not None:
            state, (counts, i) = table[key], key
            count, key = int(state.taken[first]) + 1, state.next_state[first]
            held = float(min(sum(counts), q.num_micro))
            hop = 0.0 if key is None else float(q.hop_s[i, key[1]])
            choice = q.segments[i].band.choice(first, count, held)
            stages.append(PlacedStage(segment=i, held=held, choice=choice, hop_s=hop))
            first += count
        once = max(_once_s(stage.choice) for stage in stages)
        late = self._late(_counts(stages, len(q.segments)))
        step_s = late * (self._pipe_s(tuple(stages)) + once) + q.per_step_s
        return Chain(stages=tuple(stages), step_s=step_s)

    def _pipe_s(self, stages: tuple[PlacedStage, ...]) -> float:
        """Return the time that all micro-batches take through the stages and links."""
        pace = pace_s(stages, self._visible)
        ramp = sum(s.choice.compute_s + s.choice.comm_s + 2.0 * s.hop_s for s in stages)
        return (self._q.num_micro - 1) * pace + ramp


def late_factor(straggler: float, num_nodes: float) -> float:
    """Return what waiting for the slowest of so many nodes multiplies the step by."""
    return 1.0 + straggler * log2(max(num_nodes, 1.0))


def pace_s(stages: tuple[PlacedStage, ...], visible: float) -> float:
    """Return what one more micro-batch adds: the slowest stage with its sends, or the slowest link."""
    return max(max(s.choice.compute_s + s.choice.comm_s + visible * s.hop_s, s.hop_s) for s in stages)


def _once_s(choice: StageChoice) -> float:
    return choice.once_s + choice.optimizer_s


def _counts(stages: list[PlacedStage] | tuple[PlacedStage, ...], num_groups: int) -> Counts:
    return tuple(sum(stage.segment == i for stage in stages) for i in range(num_groups))
