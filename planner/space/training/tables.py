"""Tables of layer work: every (tp, cp, ep, etp, sp) is priced once, over all micro-batch sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from cost_models.base import CostModel
from cost_models.cost import FloatArray
from cost_models.work import Collective, Gemm
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import Layer, Linear, ModelGraph, Op, Small, ceil_div
from planner.space.spans import span_of
from planner.space.training.alignment import alignment
from planner.space.training.known_prices import KnownPrices
from planner.space.training.layer_pricer import LayerPricer
from planner.space.training.layer_work import Groups, LayerWork, Shape
from planner.space.training.plans import IntArray
from planner.space.training.software import TrainingSoftware


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """What the first and the last stage carry beside layers, per micro-batch (over micro-batch sizes)."""

    embed_forward_s: FloatArray
    head_forward_s: FloatArray
    head_backward_s: FloatArray
    embed_backward_s: FloatArray
    embed_params: float
    head_params: float
    logits_bytes: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeTable:
    """Priced layer kinds of one shape, and the ends of the model."""

    kinds: tuple[LayerWork, ...]
    ends: Ends


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTable:
    """Tables of several shapes as seen by plans: every plan reads its own shape and micro-batch size.

    `shape` and `column` say which, each [plans]. `stacks` keeps what was stacked over the tables, for all
    views of them.
    """

    tables: tuple[ShapeTable, ...]
    shape: IntArray
    column: IntArray
    stacks: dict[str, FloatArray] = field(default_factory=dict[str, FloatArray])

    def take(self, index: IntArray) -> PlanTable:
        """Return the view of the plans at `index`."""
        return PlanTable(
            tables=self.tables, shape=self.shape[index], column=self.column[index], stacks=self.stacks
        )

    def layer(self, name: str) -> FloatArray:
        """Return a time or a size of one layer of each kind, [kinds, plans]."""
        stacked = self.stacks.get(name)
        if stacked is None:
            stacked = np.array([[getattr(kind, name) for kind in table.kinds] for table in self.tables])
            self.stacks[name] = stacked
        found = stacked[self.shape] if stacked.ndim == 2 else stacked[self.shape, :, self.column]
        return np.asarray(found.T, dtype=np.float64)

    def whole(self, counts: IntArray, *names: str) -> FloatArray:
        """Return the sum of times of all layers, `counts` of each kind, [plans]."""
        totals = np.array(
            [
                sum(
                    count * getattr(kind, name)
                    for name in names
                    for count, kind in zip(counts.tolist(), table.kinds, strict=True)
                )
                for table in self.tables
            ]
        )
        return np.asarray(totals[self.shape, self.column], dtype=np.float64)

    def end(self, name: str) -> FloatArray:
        """Return a time or a size of embedding or head, [plans]."""
        stacked = self.stacks.get(name)
        if stacked is None:
            stacked = np.array([getattr(table.ends, name) for table in self.tables])
            self.stacks[name] = stacked
        found = stacked[self.shape] if stacked.ndim == 1 else stacked[self.shape, self.column]
        return np.asarray(found, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedModel:
    """A model as distinct layer kinds and the order in which they come."""

    kinds: tuple[Layer, ...]
    order: tuple[int, ...]


def fold(model: ModelGraph) -> FoldedModel:
    """Return the distinct layers of a model and the index of each layer's kind."""
    kinds: list[Layer] = []
    index: dict[tuple[object, ...], int] = {}
    order: list[int] = []
    for layer, run in groupby(model.layers):
        found = index.setdefault(layer.ops, len(kinds))
        if found == len(kinds):
            kinds.append(layer)
        order.extend(found for _ in run)
    return FoldedModel(kinds=tuple(kinds), order=tuple(order))


class TableBuilder:
    """Prices shapes of one model on one node group, and remembers them."""

    def __init__(
        self,
        model: ModelGraph,
        group: NodeGroup,
        costs: CostModel,
        software: TrainingSoftware,
        micro_batches: FloatArray,
    ) -> None:
        self.folded = fold(model)
        self._model = model
        self._group = group
        self._software = software
        self._batches = micro_batches
        self._tables: dict[Shape, ShapeTable] = {}
        self._prices = KnownPrices(costs)

    @property
    def num_tables(self) -> int:
        """Shapes priced so far."""
        return len(self._tables)

    def table(self, shape: Shape) -> ShapeTable:
        """Return the table of a shape, pricing it if it is new."""
        if shape not in self._tables:
            pricer = LayerPricer(self._prices, shape, self._groups(shape), self._software, self._batches)
            kinds = tuple(pricer.price(layer, self._model.hidden_size) for layer in self.folded.kinds)
            self._tables[shape] = ShapeTable(kinds=kinds, ends=self._ends(shape, pricer))
        return self._tables[shape]

    def view(self, shapes: list[Shape], shape: IntArray, column: IntArray) -> PlanTable:
        """Return the tables of plans: plan i has shape `shapes[shape[i]]` and the batch of `column[i]`."""
        return PlanTable(tables=tuple(self.table(s) for s in shapes), shape=shape, column=column)

    def _groups(self, shape: Shape) -> Groups:
        ep_stride = 1 if shape.etp < shape.tp else shape.tp
        return Groups(
            tensor=span_of(self._group, shape.tp, 1),
            context=span_of(self._group, shape.cp // shape.cp_ulysses, shape.tp * shape.cp_ulysses),
            exchange=span_of(self._group, shape.cp_ulysses, shape.tp),
            expert=span_of(self._group, shape.ep, ep_stride),
        )

    def _ends(self, shape: Shape, pricer: LayerPricer) -> Ends:
        """Price the embedding and the head with its loss.

        The vocabulary is padded to a multiple of 128 per tensor rank (Megatron-LM).
        """
        model, tokens = self._model, pricer.tokens
        vocab = 128.0 * ceil_div(model.vocab_size, 128 * shape.tp)
        hidden = float(model.hidden_size)
        lost = 1.0 / alignment(hidden, vocab)
        gemm = pricer.time(Gemm(m=tokens, n=vocab, k=hidden)) * lost
        grad_in = pricer.time(Gemm(m=tokens, n=hidden, k=vocab)) * lost
        grad_w = pricer.time(Gemm(m=np.full_like(tokens, hidden), n=vocab, k=tokens)) * lost
        loss = pricer.loss_s(tokens * vocab)
        rows = pricer.stream(tokens * hidden * 6.0, 2.0)
        reduce = np.zeros_like(tokens)
        if shape.tp > 1:
            work = Collective(op="all_reduce", num_bytes=tokens * hidden * 2.0, span=pricer.groups.tensor)
            reduce = pricer.time(work)
        return Ends(
            embed_forward_s=rows + reduce,
            embed_backward_s=rows,
            head_forward_s=gemm + loss,
            head_backward_s=grad_in + grad_w + loss + reduce,
            embed_params=float(sum(_per_rank(op, shape.tp) for op in model.embedding)),
            head_params=float(sum(_per_rank(op, shape.tp) for op in model.head)),
            logits_bytes=tokens * vocab * self._logit_bytes(shape.tp),
        )

    def _logit_bytes(self, tp: int) -> float:
        split = self._software.parallel_logit_bytes
        return self._software.logit_bytes if tp == 1 or split is None else split


def _per_rank(op: Op, tp: int) -> int:
    """Return stored parameters per rank; a tied head counts, as the last stage keeps a copy of the table."""
    return op.num_params_per_rank(tp) if isinstance(op, Linear | Small) else 0
