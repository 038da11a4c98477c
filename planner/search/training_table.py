"""The dynamic programme behind a cut: pipeline ends by stages used, group at work and first stage.

Stages are put in front one by one. A state holds, for every first stage (first layer, number of layers - 1)
of such an end, the least time of one micro-batch there and back, and the longest loop that begins at that
stage: the sum over a run of stages of time less the limit, and of sends between groups both ways. A limit
on the pace can be kept where no loop is above zero (Qi 2024 for equal stages: 1F1B waits for the way there
and back over every two neighbours).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from cost_models.cost import FloatArray
from planner.space.training.chain_stages import StageBand
from planner.space.training.plans import IntArray

_SAME = 1e-12
Counts = tuple[int, ...]
Key = tuple[Counts, int]


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

    `hop_s[i][j]` is one send from a stage on group i to the next stage on j; of sends inside a group the
    share `hidden` delays no loop; `straggler` is what doubling the nodes adds to the step. `num_stages` is
    pinned unless it is 0; `least_groups` groups take part. Steps that differ by less than the share
    `tolerance` count as equal.
    """

    segments: tuple[ChainSegment, ...]
    hop_s: FloatArray
    num_micro: int
    hidden: float
    straggler: float
    per_step_s: float
    num_stages: int = 0
    least_groups: int = 1
    tolerance: float = 1e-9

    @property
    def most_stages(self) -> int:
        """Most stages of a pipeline."""
        most = min(sum(segment.most_stages for segment in self.segments), self.segments[0].band.shape[0])
        return min(most, self.num_stages) if self.num_stages else most


@dataclass(slots=True, kw_only=True)
class State:
    """Pipeline ends of one key, by their first stage; `before_of` are keys of what may follow the stage.

    `total_s` and `loop_s` are least times and loops; `follows` and `count` say which key follows and how
    many layers (less one) its first stage has. `least_s` and `taken` are over the stages of each first layer.
    """

    total_s: FloatArray
    loop_s: FloatArray
    follows: IntArray
    count: IntArray
    keys: list[Key]
    least_s: FloatArray
    taken: IntArray


class PipelineTable:
    """All pipeline ends that keep to a pace and to a time once per step."""

    def __init__(self, question: ChainQuestion, limit_s: float, most_once_s: float) -> None:
        self._q = question
        self._limit_s = limit_s
        self._most_once_s = most_once_s
        self._num_layers, width = question.segments[0].band.shape
        first = np.arange(self._num_layers)[:, None]
        end = first + np.arange(1, width + 1)[None, :]
        self._end = np.minimum(end, self._num_layers)
        self.states: dict[Key, State] = {}
        self._fill()

    def finals(self) -> dict[Key, float]:
        """Return the pipelines that hold all layers and the groups asked for, with their times."""
        q = self._q
        return {
            key: float(state.least_s[0])
            for key, state in self.states.items()
            if np.isfinite(state.least_s[0])
            and (not q.num_stages or sum(key[0]) == q.num_stages)
            and sum(n > 0 for n in key[0]) >= q.least_groups
        }

    def walk(self, key: Key) -> list[tuple[int, int, int, int]]:
        """Return the best pipeline of a key: (group, first layer, layers, stages left) of every stage."""
        found: list[tuple[int, int, int, int]] = []
        first, at = 0, int(self.states[key].taken[0])
        while True:
            state, (counts, i) = self.states[key], key
            found.append((i, first, at + 1, sum(counts)))
            follows, count = int(state.follows[first, at]), int(state.count[first, at])
            first += at + 1
            if follows < 0:
                return found
            key, at = state.keys[follows], count

    def _fill(self) -> None:
        q = self._q
        layer: dict[Key, State] = {}
        for i, own in enumerate(q.segments):
            if own.most_stages < 1:
                continue
            self._begin(layer, (tuple(int(i == k) for k in range(len(q.segments))), i))
        for depth in range(2, q.most_stages + 2):
            self.states |= layer
            if depth > q.most_stages or not layer:
                return
            following: dict[Key, State] = {}
            for (counts, i), state in layer.items():
                for k, segment in enumerate(q.segments):
                    if counts[k] >= segment.most_stages or (counts[k] and k != i):
                        continue
                    key = tuple(n + int(k == g) for g, n in enumerate(counts)), k
                    if k == i:
                        self._inside(following, state, ((counts, i), key), depth)
                    elif q.hop_s[k, i] <= self._limit_s:
                        self._across(following, state, ((counts, i), key), depth)
            layer = following

    def _times(self, i: int, depth: int, hop_s: float) -> tuple[FloatArray, FloatArray]:
        """Return times of stages (infinite where they break a limit), and what loops see of them."""
        band = self._q.segments[i].band
        time = band.time_s(float(min(depth, self._q.num_micro)))
        slow = time + 2.0 * (1.0 - self._q.hidden) * hop_s > self._limit_s * (1 + _SAME)
        slow |= band.once_s + band.optimizer_s > self._most_once_s
        finite = np.where(np.isfinite(time), time, 0.0)
        over = finite + 2.0 * (1.0 - self._q.hidden) * hop_s - self._limit_s
        return np.where(slow, inf, time), over

    def _begin(self, layer: dict[Key, State], key: Key) -> None:
        """Put the last stage of a pipeline."""
        time, over = self._times(key[1], 1, 0.0)
        total = np.where(self._end == self._num_layers, time, inf)
        none = np.full(time.shape, -1, dtype=np.int64)
        self._put(layer, key, (total, over, none), None)

    def _inside(self, layer: dict[Key, State], state: State, keys: tuple[Key, Key], depth: int) -> None:
        """Put a stage before one of the same group."""
        before, key = keys
        hop = float(self._q.hop_s[key[1], key[1]])
        time, over = self._times(key[1], depth, hop)
        least, taken = np.append(state.least_s, inf), np.append(state.taken, 0)
        total = time + 2.0 * hop + least[self._end]
        self._put(layer, key, (total, over, taken[self._end]), before)

    def _across(self, layer: dict[Key, State], state: State, keys: tuple[Key, Key], depth: int) -> None:
        """Put a stage of another group before one: both and the sends between them make a loop."""
        before, key = keys
        hop = float(self._q.hop_s[key[1], before[1]])
        time, over = self._times(key[1], depth, 0.0)
        used = np.flatnonzero(np.isfinite(state.total_s).any(axis=0))
        # Stages further in than those that may still come before can hold are in no whole pipeline.
        num_rows = min((self._q.most_stages - depth) * time.shape[1] + 1, self._num_layers)
        columns: IntArray = np.flatnonzero(np.isfinite(time[:num_rows]).any(axis=0))
        if not len(columns):
            return
        rows: IntArray = np.arange(num_rows, dtype=np.int64)
        here = rows[:, None], columns[None, :]
        end, shape = self._end[here], time.shape
        time, over = time[here], over[here]
        pad = np.full((1, len(used)), inf)
        rest = np.vstack([state.total_s[:, used], pad])[end]
        if depth < self._q.num_micro:
            loops = np.vstack([state.loop_s[:, used], np.zeros((1, len(used)))])[end] + 2.0 * hop
            margin = _SAME * min(self._limit_s, 1e300)
            rest[over[:, :, None] + loops > margin] = inf
            loops = np.where(np.isfinite(rest), loops, inf).min(axis=2)
            over = over + np.where(np.isfinite(loops), np.maximum(loops, 0.0), 0.0)
        chosen = rest.argmin(axis=2)
        total, loop, count = np.full(shape, inf), np.zeros(shape), np.zeros(shape, dtype=np.int64)
        total[here] = time + 2.0 * hop + np.take_along_axis(rest, chosen[:, :, None], axis=2)[:, :, 0]
        loop[here], count[here] = over, used[chosen]
        self._put(layer, key, (total, loop, count), before)

    def _put(
        self,
        layer: dict[Key, State],
        key: Key,
        found: tuple[FloatArray, FloatArray, IntArray],
        before: Key | None,
    ) -> None:
        """Add pipeline ends to a state, the best and the shortest loop of each first stage apart."""
        total, loop, count = found
        if not np.isfinite(total).any():
            return
        number = -1 if before is None else 0
        state = layer.get(key)
        if state is None:
            follows = np.full(total.shape, number, dtype=np.int64)
            keys = [] if before is None else [before]
        else:
            number, better = len(state.keys), total < state.total_s
            both = np.isfinite(total) & np.isfinite(state.total_s)
            loop = np.where(
                both, np.minimum(loop, state.loop_s), np.where(np.isfinite(total), loop, state.loop_s)
            )
            follows = np.where(better, number, state.follows)
            count = np.where(better, count, state.count)
            total = np.where(better, total, state.total_s)
            keys = state.keys if before is None else [*state.keys, before]
        taken = total.argmin(axis=1)
        layer[key] = State(
            total_s=total,
            loop_s=loop,
            follows=follows,
            count=count,
            keys=keys,
            least_s=total[np.arange(self._num_layers), taken],
            taken=taken.astype(np.int64),
        )
