"""One transformer block of one micro-batch under Calculon's formulas (its `llm/layers.py`, `llm/llm.py`).

Arrays are over shapes: pairs of tensor ranks and micro-batch. What looks odd is its own: the arithmetic of
recomputation is summed up cumulatively, a piped collective is counted in the product that it overlaps and
again as exposed, and what is sent again while gradients are taken is exposed as in the forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from tests.benchmarks.calculon.machine import ELEMENT_BYTES, Floats, Ints, Machine, Model, Network

_FORWARD, _INPUT, _WEIGHT = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a block runs: what is recomputed, how tensor ranks talk, and what of that is overlapped.

    `recompute` is none, attn_only or full; `comm` ar, p2p_rs_ag or rs_ag (sequence parallelism); `overlap`
    none, ring or pipe; `gather_again` keeps only a rank's part of a gathered input; `tensor_net` is the
    network tier.
    """

    recompute: str = "none"
    comm: str = "ar"
    overlap: str = "none"
    gather_again: bool = False
    fused: bool = False
    tensor_net: int = 0

    @property
    def split_sequence(self) -> bool:
        """Whether what lies between tensor-parallel products is split along the sequence."""
        return self.comm == "rs_ag"


@dataclass(slots=True, kw_only=True)
class Block:
    """Sums over the operations of a block: seconds, bytes, and the weights of every operation (elements).

    `edge_` is the block at the end of a chunk, `base_` any other; `shown_` is what no overlap hides.
    """

    forward_flop_s: Floats
    forward_memory_s: Floats
    forward_s: Floats
    again_flop_s: Floats
    again_memory_s: Floats
    again_s: Floats
    input_flop_s: Floats
    input_memory_s: Floats
    input_s: Floats
    weight_flop_s: Floats
    weight_memory_s: Floats
    weight_s: Floats
    base_shown_forward_s: Floats
    edge_shown_forward_s: Floats
    base_shown_backward_s: Floats
    edge_shown_backward_s: Floats
    base_backward_link_s: Floats
    edge_backward_link_s: Floats
    base_shown_resend_s: Floats
    edge_shown_resend_s: Floats
    base_resend_link_s: Floats
    edge_resend_link_s: Floats
    weight_bytes: Floats
    working_bytes: Floats
    stored_bytes: Floats
    gradient_bytes: Floats
    weights: list[Floats]

    @staticmethod
    def empty(like: Floats) -> Block:
        """Return sums at zero."""
        zeros = {f.name: np.zeros_like(like) for f in fields(Block) if f.name != "weights"}
        return Block(weights=[], **zeros)


@dataclass(slots=True, kw_only=True)
class _Op:
    """One operation: arithmetic and traffic of its three passes, and the bytes that it holds."""

    flops: tuple[Floats, Floats, Floats]
    moved: tuple[Floats, Floats, Floats]
    weights: Floats
    held: Floats
    output: Floats
    gradient: Floats
    matrix: bool = False
    again: bool = False
    reused: bool = False
    stored: bool = True
    output_stored: bool = True


class BlockBuilder:
    """Walks the operations of a block and adds them up."""

    def __init__(self, model: Model, machine: Machine, way: Way, ranks: Ints, micro_batch: Ints) -> None:
        self._model, self._machine, self._way = model, machine, way
        self._ranks = ranks.astype(np.float64)
        self._zero = np.zeros(len(ranks))
        self._rows = micro_batch.astype(np.float64) * model.seq
        self._micro = micro_batch.astype(np.float64)
        self._whole = self._rows * model.hidden
        self._between = self._whole / self._ranks if way.split_sequence else self._whole
        self._net: Network = machine.networks[way.tensor_net]
        self._sum = Block.empty(self._zero)

    def build(self) -> Block:
        """Return the sums of attention and of the feed-forward part."""
        way, model = self._way, self._model
        full = way.recompute == "full"
        again = full or way.recompute == "attn_only"
        width = float(model.heads * model.head_size)
        self._enter(full)
        resent = again or way.gather_again
        if way.overlap == "none":
            self._talk(returns=False, resent=resent, stored=True)
            self._fork(self._whole, 3.0, again=resent, stored=not resent)
            for _ in range(3):
                self._product(model.hidden, width / self._ranks, again=full, stored=False, reused=True)
        else:
            self._overlapped(model.hidden, 3.0 * width, returns=False, again=full, resent=resent)
        self._scores(again, full)
        self._leave(width, full)
        self._enter(full)
        resent = full or way.gather_again
        wide = float(model.feedforward)
        if way.overlap == "none":
            self._talk(returns=False, resent=resent, stored=True)
            self._product(model.hidden, wide / self._ranks, again=full, stored=not resent)
        else:
            self._overlapped(model.hidden, wide, returns=False, again=full, resent=resent)
        size = wide * self._rows / self._ranks
        kept = self._zero if way.fused else size * ELEMENT_BYTES
        moved = 2.0 * size * ELEMENT_BYTES
        self._put(self._light((8.0, 13.0), size, (moved, moved), kept, again=full))
        self._leave(wide, full)
        if full:
            self._sum.stored_bytes = self._zero
        return self._sum

    def _enter(self, full: bool) -> None:
        size, hidden = self._between, 2.0 * self._model.hidden
        self._fork(size, 2.0, again=full, stored=True)
        moved = (2.0 * size + hidden) * ELEMENT_BYTES
        self._put(
            _Op(
                flops=(9.0 * size, 14.0 * size, 7.0 * size),
                moved=(moved, moved, moved),
                weights=self._zero + hidden,
                held=size * ELEMENT_BYTES,
                output=size * ELEMENT_BYTES,
                gradient=size * ELEMENT_BYTES,
                again=full,
                reused=True,
                stored=False,
            )
        )

    def _leave(self, width: float, full: bool) -> None:
        """The product back to the hidden size, its collective, dropout and the residual sum."""
        if self._way.overlap == "none":
            self._product(width / self._ranks, self._model.hidden + self._zero, again=full)
            self._talk(returns=True, resent=full, stored=False)
        else:
            self._overlapped(width, self._model.hidden, returns=True, again=full, resent=full)
        size = self._between
        self._dropout(size, again=full, stored=True)
        moved = 3.0 * size * ELEMENT_BYTES
        self._put(
            self._light(
                (1.0, 2.0), size, (moved, moved), 2.0 * size * ELEMENT_BYTES, again=full, stored=False
            ),
            reused=True,
        )

    def _scores(self, again: bool, full: bool) -> None:
        """Queries times keys, softmax, dropout, and the sum of values."""
        model = self._model
        groups = self._micro * model.heads / self._ranks
        square = groups * model.seq**2
        self._batched(groups, model.head_size, model.seq, again=again, output_stored=not again)
        moved = 2.0 * square * ELEMENT_BYTES
        softmax = self._light((5.0, 8.0), square, (moved, moved), square * ELEMENT_BYTES, again=again)
        softmax.output_stored = not again
        self._put(softmax)
        self._dropout(square, again=again, stored=not again)
        self._batched(groups, model.seq, model.head_size, again=full, output_stored=True)

    def _light(
        self,
        flops: tuple[float, float],
        size: Floats,
        moved: tuple[Floats, Floats],
        held: Floats,
        *,
        again: bool,
        stored: bool = True,
    ) -> _Op:
        """An operation without weights; it has a gradient as large as its output unless it holds nothing."""
        gradient = np.where(held > 0.0, size * ELEMENT_BYTES, 0.0)
        return _Op(
            flops=(flops[0] * size, flops[1] * size, self._zero),
            moved=(moved[0], moved[1], self._zero),
            weights=self._zero,
            held=held,
            output=size * ELEMENT_BYTES,
            gradient=gradient,
            again=again,
            stored=stored,
        )

    def _dropout(self, size: Floats, *, again: bool, stored: bool) -> None:
        """Its mask has one byte per element, and so has the gradient that it counts."""
        moved = 2.0 * size * ELEMENT_BYTES + size
        op = self._light((1.0, 1.0), size, (moved, moved), size, again=again, stored=stored)
        op.gradient = size
        self._put(op)

    def _fork(self, size: Floats, users: float, *, again: bool, stored: bool) -> None:
        self._put(
            _Op(
                flops=(self._zero, users * size, self._zero),
                moved=(self._zero, size * ELEMENT_BYTES * (users + 1.0), self._zero),
                weights=self._zero,
                held=size * ELEMENT_BYTES,
                output=self._zero,
                gradient=self._zero,
                again=again,
                stored=stored,
            )
        )

    def _product(
        self,
        depth: float | Floats,
        width: Floats,
        *,
        again: bool,
        stored: bool = True,
        reused: bool = False,
    ) -> None:
        rows = self._rows
        flops = 2.0 * rows * depth * width
        source, result, weights = rows * depth, rows * width, depth * width
        moved = (source + result + weights) * ELEMENT_BYTES
        self._put(
            _Op(
                flops=(flops, flops, flops),
                moved=(moved, moved, moved),
                weights=weights,
                held=source * ELEMENT_BYTES,
                output=result * ELEMENT_BYTES,
                gradient=result * ELEMENT_BYTES,
                matrix=True,
                again=again,
                reused=reused,
                stored=stored,
            )
        )

    def _batched(
        self, groups: Floats, depth: float, width: float, *, again: bool, output_stored: bool
    ) -> None:
        seq = self._model.seq
        flops = 2.0 * groups * seq * depth * width
        source, result = groups * (seq * depth + depth * width), groups * seq * width
        moved = (source + result) * ELEMENT_BYTES
        self._put(
            _Op(
                flops=(flops, 2.0 * flops, self._zero),
                moved=(moved, moved, self._zero),
                weights=self._zero,
                held=source * ELEMENT_BYTES,
                output=result * ELEMENT_BYTES,
                gradient=result * ELEMENT_BYTES,
                matrix=True,
                again=again,
                output_stored=output_stored,
            )
        )

    def _talk(self, *, returns: bool, resent: bool, stored: bool) -> None:
        """A collective of its own: gathers or passes on (`returns` false), scatters or sums (`returns`)."""
        split, alone = self._way.split_sequence, self._ranks == 1.0
        size = np.where(alone, 0.0, self._whole)
        reduced = size * (self._ranks - 1.0) / self._ranks
        moved = 2.0 * size * ELEMENT_BYTES
        idle_forward, idle_backward = not split and not returns, not split and returns
        held = size * ELEMENT_BYTES
        op = _Op(
            flops=(
                reduced if returns else self._zero,
                self._zero if returns else reduced,
                self._zero,
            ),
            moved=(self._zero if idle_forward else moved, self._zero if idle_backward else moved, self._zero),
            weights=self._zero,
            held=held / self._ranks if split else (held if returns else self._zero),
            output=held,
            gradient=held / self._ranks if split else (self._zero if returns else held),
            stored=stored,
        )
        self._tally(op)
        sums = self._sum
        for end in ("base", "edge"):
            link = self._link_s(op, returns=returns, end=end)
            resend = np.where(alone, 0.0, link[2]) if resent else self._zero
            for name, value in (
                ("shown_forward_s", link[0]),
                ("shown_backward_s", link[1]),
                ("backward_link_s", link[1]),
            ):
                field = f"{end}_{name}"
                setattr(sums, field, getattr(sums, field) + np.where(alone, 0.0, value))
            for name in ("shown_resend_s", "resend_link_s"):
                setattr(sums, f"{end}_{name}", getattr(sums, f"{end}_{name}") + resend)

    def _link_s(self, op: _Op, *, returns: bool, end: str) -> tuple[Floats, Floats, Floats]:
        """Return a collective's seconds forward, backward and sent again, with its own arithmetic."""
        size = self._whole * ELEMENT_BYTES
        work = [
            self._machine.vector.time_s(op.flops[i]) + self._machine.memory.time_s(op.moved[i])
            for i in (_FORWARD, _INPUT)
        ]
        if self._way.split_sequence or (self._way.comm == "p2p_rs_ag" and end == "edge"):
            ops = ("reduce_scatter", "all_gather") if returns else ("all_gather", "reduce_scatter")
            there, back = (self._net.time_s(name, size, self._ranks) for name in ops)
            return there + work[0], back + work[1], there
        both = self._net.time_s("all_reduce", size, self._ranks)
        there, back = (both, self._zero) if returns else (self._zero, both)
        return there + work[0], back + work[1], there

    def _overlapped(self, depth: float, width: float, *, returns: bool, again: bool, resent: bool) -> None:
        """A product in as many tiles as ranks, whose collective runs beside it."""
        rows, ranks = self._rows, self._ranks
        deep, wide = (depth / ranks, width + self._zero) if returns else (depth + self._zero, width / ranks)
        flops = 2.0 * rows * deep * wide
        source, result, weights = rows * deep, rows * wide, deep * wide
        if self._way.split_sequence:
            held = source if returns else source / ranks
            gradient = 2.0 * result / ranks if returns else result
        else:
            held = self._zero if returns else source
            gradient = 2.0 * result if returns else self._zero
        backward = (weights + held + gradient) * ELEMENT_BYTES
        op = _Op(
            flops=(flops, flops, flops),
            moved=((source + result + weights) * ELEMENT_BYTES, backward, backward),
            weights=weights,
            held=held * ELEMENT_BYTES,
            output=result * ELEMENT_BYTES,
            gradient=gradient * ELEMENT_BYTES,
            matrix=True,
            again=again,
        )
        links = {end: self._tiled_links(returns=returns, resent=resent, end=end) for end in ("base", "edge")}
        passes = [self._overlap(op, i, links["base"][i]) for i in (_FORWARD, _INPUT, _WEIGHT)]
        self._tally(op, [time for time, _ in passes])
        sums = self._sum
        for end in ("base", "edge"):
            again_shown = passes[_FORWARD][1] if resent else self._zero
            for name, value in (
                ("shown_forward_s", passes[_FORWARD][1]),
                ("shown_backward_s", passes[_INPUT][1]),
                ("backward_link_s", links[end][1]),
                ("shown_resend_s", again_shown),
                ("resend_link_s", links[end][2]),
            ):
                setattr(sums, f"{end}_{name}", getattr(sums, f"{end}_{name}") + value)

    def _tiled_links(self, *, returns: bool, resent: bool, end: str) -> tuple[Floats, Floats, Floats]:
        ranks = self._ranks
        size = self._whole * ELEMENT_BYTES
        added = self._machine.vector.time_s(self._whole * (ranks - 1.0) / ranks)
        if self._way.split_sequence or (self._way.comm == "p2p_rs_ag" and end == "edge"):
            ops = ("reduce_scatter", "all_gather") if returns else ("all_gather", "reduce_scatter")
            there, back = (self._net.time_s(name, size, ranks) for name in ops)
        else:
            both = self._net.time_s("all_reduce", size, ranks)
            there, back = (both, self._zero) if returns else (self._zero, both)
        resend = there if resent else self._zero
        if returns:
            return there + added, back, resend
        return there, back + added, resend

    def _overlap(self, op: _Op, turn: int, link: Floats) -> tuple[Floats, Floats]:
        """Return (time of the product, what of the collective shows)."""
        flop = self._machine.matrix.time_s(op.flops[turn])
        memory = self._machine.memory.time_s(op.moved[turn])
        tiles, taken = self._ranks, self._net.slowed
        slow = flop / (1.0 - taken)
        over = link / tiles - slow / tiles
        late = (flop + memory) / tiles + (tiles - 1.0) * (slow + memory) / tiles
        time = np.where(over > 0.0, late, flop + memory + (tiles - 1.0) * link / tiles * taken)
        shown = np.where(over > 0.0, (tiles - 1.0) * over, 0.0)
        if self._way.overlap == "pipe":
            time, shown = time + link / tiles, shown + link / tiles
        quiet = link == 0.0
        return np.where(quiet, flop + memory, time), np.where(quiet, 0.0, shown)

    def _put(self, op: _Op, *, reused: bool = False) -> None:
        op.reused |= reused
        rate = self._machine.matrix if op.matrix else self._machine.vector
        self._tally(
            op,
            [
                rate.time_s(f) + self._machine.memory.time_s(b)
                for f, b in zip(op.flops, op.moved, strict=True)
            ],
        )

    def _tally(self, op: _Op, times: list[Floats] | None = None) -> None:
        """Add an operation; collectives of their own have no time of a product (`times` is None)."""
        sums = self._sum
        rate = self._machine.matrix if op.matrix else self._machine.vector
        for name, flops, moved in zip(("forward", "input", "weight"), op.flops, op.moved, strict=True):
            for part, value in (
                ("flop_s", rate.time_s(flops)),
                ("memory_s", self._machine.memory.time_s(moved)),
            ):
                setattr(sums, f"{name}_{part}", getattr(sums, f"{name}_{part}") + value)
        if times is not None:
            sums.forward_s = sums.forward_s + times[_FORWARD]
            sums.input_s = sums.input_s + times[_INPUT]
            sums.weight_s = sums.weight_s + times[_WEIGHT]
        if op.again and times is not None:
            sums.again_flop_s = sums.again_flop_s + sums.forward_flop_s
            sums.again_memory_s = sums.again_memory_s + sums.forward_memory_s
            sums.again_s = sums.again_s + times[_FORWARD]
        sums.weight_bytes = sums.weight_bytes + op.weights * ELEMENT_BYTES
        sums.weights.append(op.weights)
        if not op.reused:
            sums.working_bytes = sums.working_bytes + op.held
        kept = op.held * float(op.stored) - op.output * float(not op.output_stored)
        sums.stored_bytes = sums.stored_bytes + kept
        sums.gradient_bytes = sums.gradient_bytes + op.gradient
