"""Every stage that a node group could hold of a pipeline whose layers may be cut anywhere.

Arrays are [first layer, number of layers - 1]; stages that reach beyond the last layer are infinite. A
stage chooses its own recomputation: nothing, attention and activation functions, or its first layers in full,
whichever is fastest of those that fit beside the micro-batches it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from cost_models.cost import FloatArray
from planner.ir.training import Recompute
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.memory import StageLoad, StageMemory, stage_memory
from planner.space.training.plans import IntArray, PlanArrays


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainGroup:
    """What prices stages of one node group, and the memory of its devices less what is kept free."""

    evaluator: TrainingEvaluator
    capacity_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageChoice:
    """One stage: its layers, what it recomputes, seconds per micro-batch and per step, and its memory.

    `recompute_layers` are the first layers of the stage, recomputed in full where `recompute` says so.
    """

    first_layer: int
    num_layers: int
    recompute: Recompute
    recompute_layers: int
    compute_s: float
    comm_s: float
    once_s: float
    optimizer_s: float
    error: float
    memory: StageMemory


@dataclass(slots=True, kw_only=True)
class StageBand:
    """Priced stages of one group under one plan, seconds and bytes.

    `plain_s` is one micro-batch without recomputation, communication inside layers included; of it are
    `comm_s` that communication, `forward_s` and `weight_s` the forward pass and the weight gradients;
    `error_s` is time by spread of the kernels. By way of recomputing: `extra_s` is what recomputing a whole
    stage adds, `base_bytes` memory without activations, `loads` what a stage holds.
    `saved_bytes` and `again_s` are sums over the layers before each, of what recomputing them in full saves
    and costs. `once_s` and `optimizer_s` are what a stage does once per step.
    """

    plan: PlanArrays
    group: ChainGroup
    plain_s: FloatArray
    comm_s: FloatArray
    forward_s: FloatArray
    weight_s: FloatArray
    error_s: FloatArray
    extra_s: dict[Recompute, FloatArray]
    base_bytes: dict[Recompute, FloatArray]
    loads: dict[Recompute, StageLoad]
    saved_bytes: FloatArray
    again_s: FloatArray
    once_s: FloatArray
    optimizer_s: FloatArray
    ways: tuple[Recompute, ...]
    _times: dict[float, FloatArray] = field(default_factory=dict[float, FloatArray])

    @property
    def shape(self) -> tuple[int, int]:
        """Layers of the model, and most layers of a stage."""
        return self.plain_s.shape[0], self.plain_s.shape[1]

    def time_s(self, held: float) -> FloatArray:
        """Return the time of one micro-batch where `held` are kept, infinite where nothing fits."""
        if held not in self._times:
            extra = np.min([self._extra(way, held)[0] for way in self.ways], axis=0)
            self._times[held] = self.plain_s + extra
        return self._times[held]

    def choice(self, first: int, count: int, held: float) -> StageChoice:
        """Return how a stage that fits recomputes, and what it then takes and holds."""
        at = (first, count - 1)
        found = [float(self._extra(way, held)[0][at]) for way in self.ways]
        extra = min(found)
        way = self.ways[found.index(extra)]
        layers = int(self._extra("full", held)[1][at]) if way == "full" else 0
        return StageChoice(
            first_layer=first,
            num_layers=count,
            recompute=way,
            recompute_layers=layers,
            compute_s=float(self.plain_s[at] - self.comm_s[at]) + extra,
            comm_s=float(self.comm_s[at]),
            once_s=float(self.once_s[at]),
            optimizer_s=float(self.optimizer_s[at]),
            error=float(self.error_s[at] / max(self.plain_s[at], 1e-30)),
            memory=self._memory(way, at, held, layers),
        )

    def _kept(self, way: Recompute) -> FloatArray:
        return self.loads[way].kept_bytes.reshape(self.shape)

    def _extra(self, way: Recompute, held: float) -> tuple[FloatArray, IntArray]:
        """Return the seconds that a way of recomputing adds, infinite where it does not fit, and layers."""
        room = self.group.capacity_bytes - self.base_bytes[way]
        per_byte = held * (1.0 + self.group.evaluator.software.allocator_slack)
        num_layers, width = self.shape
        layers = np.zeros(self.shape, dtype=np.int64)
        if way != "full":
            fits = self._kept(way) * per_byte <= room
            return np.where(fits, self.extra_s[way], np.inf), layers
        first = np.arange(num_layers)[:, None]
        count = np.minimum(np.arange(1, width + 1)[None, :], num_layers - first)
        if "none" in self.ways:
            missing = np.maximum(self._kept("none") - room / per_byte, 0.0)
            until = np.searchsorted(self.saved_bytes, self.saved_bytes[first] + missing * (1 - 1e-12))
            layers = np.asarray(np.maximum(until - first, 1), dtype=np.int64)
        else:
            layers = np.asarray(count + np.zeros_like(layers), dtype=np.int64)
        allowed = layers <= count
        end = first + np.where(allowed, layers, 0)
        kept = self._kept("none") - (self.saved_bytes[end] - self.saved_bytes[first])
        fits = allowed & (kept * per_byte <= room * (1 + 1e-9))
        return np.where(fits, self.again_s[end] - self.again_s[first], np.inf), layers

    def _memory(self, way: Recompute, at: tuple[int, int], held: float, layers: int) -> StageMemory:
        """Return the memory of one stage, arrays of one element."""
        load = self.loads[way]
        values = {f.name: np.array([[getattr(load, f.name).reshape(self.shape)[at]]]) for f in fields(load)}
        if way == "full":
            saved = self.saved_bytes[at[0] + layers] - self.saved_bytes[at[0]]
            values["kept_bytes"] = np.array([[self._kept("none")[at] - saved]])
        evaluator = self.group.evaluator
        shards = evaluator.shards(self.plan)
        held_here = np.array([[held]])
        return stage_memory(self.plan, StageLoad(**values), held_here, shards, evaluator.software).plan(0)
