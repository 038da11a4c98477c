"""What Calculon says of a whole step: time and memory of many executions at once (its `llm/llm.py`)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.calculon.block import Block, BlockBuilder, Way
from tests.benchmarks.calculon.machine import ELEMENT_BYTES, Floats, Ints, Machine, Model

Flags = NDArray[np.bool_]

RECOMPUTES = ("none", "attn_only", "full")
COMMS = ("ar", "p2p_rs_ag", "rs_ag")
OVERLAPS = ("none", "ring", "pipe")
_OPTIMIZER_BYTES = 12.0
"""Master copy and two moments in 32 bits."""
_OPTIMIZER_FLOPS = 11.0
_SUMMED_BYTES = 4.0
_FEWEST_TO_OFFLOAD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Executions:
    """Ways to run a model, as columns; words are indices into RECOMPUTES, COMMS and OVERLAPS.

    `laps` is Calculon's pipeline interleaving; `sharded` its sharding of the optimizer; networks are tiers.
    """

    tp: Ints
    pp: Ints
    dp: Ints
    laps: Ints
    micro_batch: Ints
    recompute: Ints
    comm: Ints
    overlap: Ints
    gather_again: Ints
    sharded: Ints
    dp_overlap: Ints
    tensor_net: Ints
    pipeline_net: Ints
    data_net: Ints
    offload_weights: Ints
    offload_activations: Ints
    offload_optimizer: Ints
    fused: Ints

    def __len__(self) -> int:
        return len(self.tp)

    def take(self, index: Ints | Flags) -> Executions:
        """Return the executions at `index`."""
        return Executions(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @staticmethod
    def of(count: int, **columns: Ints | int) -> Executions:
        """Return executions with these columns; degrees that are left out are one, all else zero."""
        ones = {"tp", "pp", "dp", "laps", "micro_batch", "fused"}
        return Executions(
            **{
                f.name: np.broadcast_to(
                    np.asarray(columns.get(f.name, int(f.name in ones)), dtype=np.int64), (count,)
                )
                for f in fields(Executions)
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Step time and memory of executions; `allowed` is False where Calculon refuses them outright."""

    time_s: Floats
    device_bytes: Floats
    host_bytes: Floats
    states_bytes: Floats
    activation_bytes: Floats
    allowed: Flags

    def fits(self, machine: Machine) -> Flags:
        """Return which executions both memories hold."""
        held = (self.device_bytes <= machine.memory_bytes) & (self.host_bytes <= machine.host_bytes)
        return self.allowed & held


def price(model: Model, machine: Machine, runs: Executions, global_batch: int) -> Price:
    """Return what Calculon says of `runs`."""
    return _Step(model, machine, runs, global_batch).price()


def gathered_blocks(model: Model, machine: Machine, runs: Executions) -> Block:
    """Return the block of every execution, each shape and way of running built once."""
    names = ("recompute", "comm", "overlap", "gather_again", "fused", "tensor_net")
    keys = np.stack([getattr(runs, name) for name in names])
    ways, way_of = np.unique(keys, axis=1, return_inverse=True)
    way_of = way_of.ravel()
    found = Block.empty(np.zeros(len(runs)))
    parts: list[tuple[Ints, list[Floats]]] = []
    for number, (recompute, comm, overlap, again, fused, net) in enumerate(ways.T):
        rows = np.flatnonzero(way_of == number)
        shapes, shape_of = np.unique(
            np.stack([runs.tp[rows], runs.micro_batch[rows]]), axis=1, return_inverse=True
        )
        way = Way(
            recompute=RECOMPUTES[recompute],
            comm=COMMS[comm],
            overlap=OVERLAPS[overlap],
            gather_again=bool(again),
            fused=bool(fused),
            tensor_net=int(net),
        )
        block = BlockBuilder(model, machine, way, shapes[0], shapes[1]).build()
        shape_of = shape_of.ravel()
        for field in fields(Block):
            if field.name != "weights":
                getattr(found, field.name)[rows] = getattr(block, field.name)[shape_of]
        parts.append((rows, [weights[shape_of] for weights in block.weights]))
    most = max((len(weights) for _, weights in parts), default=0)
    found.weights = [np.zeros(len(runs)) for _ in range(most)]
    for rows, weights in parts:
        for column, value in zip(found.weights, weights, strict=False):
            column[rows] = value
    return found


class _Step:
    """The arithmetic of one step; every array is over executions."""

    def __init__(self, model: Model, machine: Machine, runs: Executions, global_batch: int) -> None:
        self._machine, self._runs = machine, runs
        self._block = gathered_blocks(model, machine, runs)
        self._tp, self._pp, self._dp, self._laps = (
            x.astype(np.float64) for x in (runs.tp, runs.pp, runs.dp, runs.laps)
        )
        self._num_micro = np.asarray(global_batch / (runs.dp * runs.micro_batch), dtype=np.float64)
        self._blocks = np.ceil(model.blocks / self._pp)
        self._missing = np.where(model.blocks % runs.pp > 0, self._pp - model.blocks % runs.pp, 0.0)
        self._per_chunk = self._blocks / self._laps
        self._inner = self._per_chunk - 1.0
        self._shard = np.where(runs.sharded == 1, self._dp, 1.0)
        self._input = runs.micro_batch * float(model.seq * model.hidden) * ELEMENT_BYTES
        share = np.where(runs.comm >= COMMS.index("p2p_rs_ag"), self._tp, 1.0)
        self._sent = np.where(self._pp > 1.0, self._input / share, 0.0)
        self._full = runs.recompute == RECOMPUTES.index("full")
        self._optimizer()
        self._passes()

    def price(self) -> Price:
        """Return time and memory."""
        b, m = self._block, self._num_micro
        total = self._blocks * m
        chunks = m * self._laps
        shown = sum(
            self._inner * getattr(b, f"base_shown_{name}_s") + getattr(b, f"edge_shown_{name}_s")
            for name in ("forward", "backward", "resend")
        )
        sends = np.where(self._pp > 1.0, 2.0 * chunks * self._hop_s, 0.0)
        late = chunks * (
            self._inner * (self._base_late[0] + self._base_late[1]) + self._edge_late[0] + self._edge_late[1]
        )
        time = total * (b.forward_s + b.input_s + b.weight_s + b.again_s)
        time = time + self._blocks * self._optimizer_s + late + chunks * shown + sends
        time = time + self._bubble_s() + self._data_s()
        device, host, states, activations = self._memory()
        return Price(
            time_s=np.asarray(time),
            device_bytes=device,
            host_bytes=host,
            states_bytes=states,
            activation_bytes=activations,
            allowed=self._allowed(),
        )

    def _over(self, tier: Ints, op: str, num_bytes: Floats, ranks: Floats) -> Floats:
        found = np.zeros(len(tier))
        for number, network in enumerate(self._machine.networks):
            here = tier == number
            found[here] = network.time_s(op, num_bytes[here], ranks[here])
        return found

    def _tier(self, field: str, tier: Ints) -> Floats:
        return np.array([float(getattr(network, field)) for network in self._machine.networks])[tier]

    def _optimizer(self) -> None:
        """Sum the update over the operations that have weights: arithmetic, traffic and both."""
        machine = self._machine
        zero = np.zeros(len(self._runs))
        self._optimizer_flop_s, self._optimizer_memory_s, self._optimizer_bytes = zero, zero, zero
        for weights in self._block.weights:
            own = weights / self._shard
            self._optimizer_flop_s = self._optimizer_flop_s + machine.vector.time_s(_OPTIMIZER_FLOPS * own)
            self._optimizer_memory_s = self._optimizer_memory_s + machine.memory.time_s(
                _OPTIMIZER_BYTES * own
            )
            self._optimizer_bytes = self._optimizer_bytes + _OPTIMIZER_BYTES * own
        self._optimizer_s = self._optimizer_flop_s + self._optimizer_memory_s

    def _passes(self) -> None:
        """Times of an inner and of an end block, there and back, with what offloading adds to them."""
        b, runs = self._block, self._runs
        self._hop_s = self._over(runs.pipeline_net, "p2p", self._sent, self._pp)
        base = (
            b.forward_s + b.base_shown_forward_s,
            b.again_s + b.base_shown_resend_s + b.input_s + b.weight_s + b.base_shown_backward_s,
        )
        edge = (
            b.forward_s + b.edge_shown_forward_s + self._hop_s,
            b.again_s
            + b.edge_shown_resend_s
            + b.input_s
            + b.weight_s
            + b.edge_shown_backward_s
            + self._hop_s,
        )
        kept = np.where(self._full, self._input, b.stored_bytes)
        weights = np.where(runs.offload_weights == 1, b.weight_bytes, 0.0)
        activations = np.where(runs.offload_activations == 1, kept, 0.0)
        states = np.where(runs.offload_optimizer == 1, self._optimizer_bytes, 0.0)
        moved = (
            self._machine.host.time_s(np.maximum(weights, activations)) + b.forward_memory_s,
            self._machine.host.time_s(weights + activations + states) + b.input_memory_s + b.weight_memory_s,
        )
        self._base_late = tuple(np.maximum(0.0, out - own) for out, own in zip(moved, base, strict=True))
        self._edge_late = tuple(np.maximum(0.0, out - own) for out, own in zip(moved, edge, strict=True))
        self._base = tuple(own + late for own, late in zip(base, self._base_late, strict=True))
        self._edge = tuple(own + late for own, late in zip(edge, self._edge_late, strict=True))

    def _bubble_s(self) -> Floats:
        short = self._num_micro % self._pp
        extra = np.where(short > 0.0, (self._laps - 1.0) * (self._pp - short), 0.0)
        chunk = sum(self._inner * self._base[i] + self._edge[i] for i in (0, 1))
        ends = sum(self._edge)
        less = np.where(self._inner > 0.0, (sum(self._base) + ends) / 2.0, ends)
        return (self._pp - 1.0 + extra) * chunk - self._missing * less

    def _data_s(self) -> Floats:
        """Reduction of gradients, and with a sharded optimizer the gathering of weights, that shows."""
        runs, b = self._runs, self._block
        net, size = runs.data_net, b.weight_bytes
        halves = self._over(net, "reduce_scatter", size, self._dp) + self._over(
            net, "all_gather", size, self._dp
        )
        block = np.where(runs.sharded == 1, halves, self._over(net, "all_reduce", size, self._dp))
        hidden = np.where(runs.dp_overlap == 1, self._overlapped_s(block), self._blocks * block)
        return np.where(self._dp > 1.0, hidden, 0.0)

    def _overlapped_s(self, block_s: Floats) -> Floats:
        """Return what shows where reductions run beside the backward passes of later blocks.

        All chunks but the last have pp passes to hide behind, the last one its own other blocks.
        """
        runs, b = self._runs, self._block
        taken = self._tier("slowed", runs.data_net)
        traffic = b.input_memory_s + b.weight_memory_s + b.again_memory_s
        busy = b.input_flop_s + b.weight_flop_s + b.again_flop_s
        freed = np.where(runs.sharded == 1, 0.0, self._optimizer_s - self._optimizer_memory_s)
        busy = busy + np.where(runs.sharded == 1, 0.0, self._optimizer_flop_s)
        shared = runs.data_net == runs.tensor_net
        windows = [
            own[1] - traffic + freed - np.where(shared, link, 0.0)
            for own, link in (
                (self._base, b.base_resend_link_s + b.base_backward_link_s),
                (self._edge, b.edge_resend_link_s + b.edge_backward_link_s),
            )
        ]
        window = self._inner * windows[0] + windows[1]
        back = self._inner * self._base[1] + self._edge[1]
        chunk = self._per_chunk * block_s
        odd = self._num_micro % self._pp
        meets = np.minimum(chunk // back, np.where(odd > 0.0, odd, self._pp))
        meets = np.where(runs.data_net == runs.pipeline_net, meets, 0.0)
        over = chunk - (self._pp * window - meets * self._hop_s) + self._pp * self._per_chunk * busy * taken
        others = (self._laps - 1.0) * np.where(over > 0.0, over, chunk * taken)
        last = window - self._hop_s - (self._base[1] + self._edge[1]) / 2.0 + freed
        last = np.where(self._inner > 0.0, last, 0.0)
        over = self._inner * block_s + busy * taken - last
        return block_s + others + np.where(over > 0.0, over, self._inner * block_s * taken)

    def _memory(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Return bytes on the device, in host memory, and of them all states and all activations."""
        runs, b, full = self._runs, self._block, self._full
        held = np.minimum(self._num_micro, self._pp)
        held = held * np.where(self._laps > 1.0, 1.0 + (self._pp - 1.0) / (self._laps * self._pp), 1.0)
        active = b.working_bytes + np.where(full, 0.0, b.stored_bytes * (self._blocks * held - 1.0))
        saved = np.where(full, self._blocks * self._input * held, 0.0)
        own = b.weight_bytes / self._shard
        summed = b.weight_bytes / ELEMENT_BYTES * _SUMMED_BYTES
        gradients = summed + own * (self._blocks - 1.0)
        weights, states = b.weight_bytes * self._blocks, self._optimizer_bytes * self._blocks
        away = [f == 1 for f in (runs.offload_weights, runs.offload_activations, runs.offload_optimizer)]
        device = np.where(away[0], 2.0 * b.weight_bytes, weights) + b.gradient_bytes
        least = b.working_bytes + np.where(full, 2.0 * self._input, b.stored_bytes)
        device = device + np.where(away[1], least, active + saved)
        device = device + np.where(away[2], summed + own + 2.0 * self._optimizer_bytes, gradients + states)
        host = np.where(away[0], weights, 0.0) + np.where(away[1], np.where(full, saved, active), 0.0)
        host = host + np.where(away[2], own * self._blocks + states, 0.0)
        return device, host, weights + gradients + states, active + saved

    def _allowed(self) -> Flags:
        """Return which executions put their groups on networks that hold them, and divide as they must."""
        runs = self._runs
        found = (self._laps <= self._blocks) & (self._blocks % self._laps == 0)
        away = (runs.offload_weights | runs.offload_activations | runs.offload_optimizer) == 1
        found &= ~away | (self._blocks >= _FEWEST_TO_OFFLOAD)
        for number, network in enumerate(self._machine.networks):
            size = np.ones(len(runs), dtype=np.int64)
            for degree, tier in (
                (runs.tp, runs.tensor_net),
                (runs.pp, runs.pipeline_net),
                (runs.dp, runs.data_net),
            ):
                size = size * np.where((degree > 1) & (tier == number), degree, 1)
            found &= size <= network.size
            if network.filled:
                found &= (size == 1) | (network.size % size == 0)
        return found
