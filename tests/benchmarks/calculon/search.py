"""Newel's exact search of its own training space, with every price taken from Calculon's formulas.

A plan of Newel leaves open how its software overlaps and which network a group uses: Calculon's price of it
is the least over those switches, of those that fit. What Calculon cannot price (context parallelism, ZeRO-2
or 3, states shared by some ranks only, stages with more than an even share) is left out or infinitely dear.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from planner.diagnostics import Diagnostics
from planner.frontend.models import model_from_config
from planner.ir.model_graph import ModelGraph
from planner.ir.training import TrainingChoices, TrainingWorkload
from planner.search.training_exact import ExactOutcome, ExactSearch
from planner.search.training_question import Limits, Rates
from planner.space.training.evaluate import Evaluation, StepTime
from planner.space.training.grid import Space, points
from planner.space.training.partition import chunk_sizes
from planner.space.training.plans import OFFLOADS, SCHEDULES, PlanArrays, away
from planner.space.training.point_grid import PointGrid
from planner.space.training.stage_times import LayerTotals, Outline
from tests.benchmarks.calculon.machine import Floats, Ints, Machine, Model
from tests.benchmarks.calculon.options import OFFLOADS_OF_BOTH, Question, switches
from tests.benchmarks.calculon.pricing import COMMS, RECOMPUTES, Executions, Price, gathered_blocks, price

_MOST_AT_ONCE = 200_000
_SWITCHES = (
    "comm",
    "gather_again",
    "overlap",
    "dp_overlap",
    "tensor_net",
    "pipeline_net",
    "data_net",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _NoOverhead:
    """What the search asks of a software stack beside the evaluator: Calculon knows no such time."""

    per_step_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class CalculonEvaluator:
    """Prices plans of Newel by Calculon's formulas, in the words that Newel's search asks for."""

    question: Question
    machine: Machine
    software: _NoOverhead = field(default_factory=_NoOverhead)
    num_priced: int = 0
    least_work_s: dict[tuple[int, ...], float] = field(default_factory=dict[tuple[int, ...], float])

    def evaluate(self, plans: PlanArrays, fmt: str = "bf16") -> Evaluation:
        """Return time and memory of every plan; its switches are the best that fit."""
        time, held, _ = self._least(plans)
        zero = np.zeros(len(plans))
        step = StepTime(
            compute_s=time,
            layer_comm_s=zero,
            bubble_s=zero,
            pipeline_comm_s=zero,
            data_parallel_s=zero,
            optimizer_s=zero,
            overhead_s=zero,
            straggler_s=zero,
        )
        return Evaluation(
            time=step,
            sigma_log=zero,
            memory=[None] * len(plans),
            peak_bytes=held,
            allocated_bytes=held,
        )

    def outline(self, plans: PlanArrays, fmt: str = "bf16") -> Outline:
        """Return bounds that hold for every sharding, offload and network: blocks alone, leanest memory.

        A step of m micro-batches in v chunks takes m v + p - 1 times a chunk, less what stages lack of an
        even share; that rises with the time of a block, whose least over all switches is known.
        """
        model = self.question.model
        block = self._block_s(plans) / model.blocks
        pp = plans.pp.astype(np.float64)
        share = np.ceil(model.blocks / pp)
        num_micro = self.question.global_batch / (plans.dp * plans.micro_batch)
        laps = plans.num_chunks
        step = block * ((num_micro + (pp - 1.0) / laps) * share - (pp * share - model.blocks))
        held = np.full(len(plans), np.inf)
        zero = (plans.dp > 1).astype(np.int64)
        for offload in self._offloads():
            lean = replace(plans, zero=zero, offload=np.full_like(plans.offload, offload))
            held = np.minimum(held, self._least_memory(lean))
        return Outline(step_s=step, compute_s=step, least_bytes=held)

    def _block_s(self, plans: PlanArrays) -> Floats:
        """Return the least time of all blocks of one micro-batch, each plan with its own recomputation."""
        work = self.work_of_all_layers(plans)
        extra = np.choose(plans.recompute, [np.zeros(len(plans)), work.selective, work.full])
        return work.forward + extra

    def _least_memory(self, plans: PlanArrays) -> Floats:
        """Return the least memory over all switches, on whatever network."""
        runs, plan_of = self._runs(plans)
        first = np.flatnonzero((runs.tensor_net == 0) & (runs.pipeline_net == 0) & (runs.data_net == 0))
        held = np.full(len(plans), np.inf)
        for start in range(0, len(first), _MOST_AT_ONCE):
            rows = first[start : start + _MOST_AT_ONCE]
            np.minimum.at(held, plan_of[rows], self._price(runs.take(rows)).device_bytes)
        return held

    def work_of_all_layers(self, plans: PlanArrays, fmt: str = "bf16") -> LayerTotals:
        """Return what a micro-batch takes at least in all blocks, there and back, for every recomputation."""
        keys = np.stack([plans.tp, plans.micro_batch, plans.sequence_parallel])
        shapes, shape_of = np.unique(keys, axis=1, return_inverse=True)
        shape_of = shape_of.ravel()
        least = {name: self._least_work(shapes, number)[shape_of] for number, name in enumerate(RECOMPUTES)}
        none, zero = least["none"], np.zeros(len(plans))
        return LayerTotals(
            forward=none,
            backward=zero,
            weight_grad=zero,
            selective=least["attn_only"] - none,
            full=least["full"] - none,
            comm=zero,
        )

    def _least_work(self, shapes: Ints, recompute: int) -> Floats:
        """Return the least time of all blocks of (tensor ranks, micro-batch, sequence parallelism)."""
        known = [self.least_work_s.get((*map(int, shape), recompute)) for shape in shapes.T]
        fresh = np.array([at for at, value in enumerate(known) if value is None], dtype=np.int64)
        if len(fresh):
            found = self._priced_work(shapes[:, fresh], recompute)
            for at, value in zip(fresh.tolist(), found.tolist(), strict=True):
                self.least_work_s[(*map(int, shapes[:, at]), recompute)] = value
        return np.array([self.least_work_s[(*map(int, shape), recompute)] for shape in shapes.T])

    def _priced_work(self, shapes: Ints, recompute: int) -> Floats:
        least = np.full(shapes.shape[1], np.inf)
        for alone, parallel in ((True, 0), (False, 0), (False, 1)):
            here = np.flatnonzero((shapes[0] == 1) if alone else (shapes[0] > 1) & (shapes[2] == parallel))
            ways = _ways((1 if alone else 2, 1, 1, recompute), parallel=bool(parallel))
            table = np.tile(np.array(ways, dtype=np.int64), (len(here), 1))
            owner = np.repeat(here, len(ways))
            columns = {name: table[:, i] for i, name in enumerate(_SWITCHES)}
            runs = Executions.of(
                len(owner), tp=shapes[0][owner], micro_batch=shapes[1][owner], recompute=recompute, **columns
            )
            b = gathered_blocks(self.question.model, self.machine, runs)
            shown = [
                sum(getattr(b, f"{end}_shown_{name}_s") for name in ("forward", "backward", "resend"))
                for end in ("base", "edge")
            ]
            time = b.forward_s + b.input_s + b.weight_s + b.again_s + np.minimum(*shown)
            np.minimum.at(least, owner, time)
        return least * self.question.model.blocks

    def execution(self, plans: PlanArrays, index: int) -> Executions | None:
        """Return how one plan runs at best."""
        one = plans.take(np.array([index]))
        _, _, best = self._least(one)
        runs, _ = self._runs(one)
        return None if best[0] < 0 else runs.take(np.array([best[0]]))

    def _offloads(self) -> tuple[int, ...]:
        return tuple(range(len(OFFLOADS_OF_BOTH))) if self.question.offload else (0,)

    def _least(self, plans: PlanArrays) -> tuple[Floats, Floats, Ints]:
        """Return (time, memory, execution) of the best switches of every plan that fit."""
        time, held = np.full(len(plans), np.inf), np.full(len(plans), np.inf)
        chosen = np.full(len(plans), -1, dtype=np.int64)
        runs, plan_of = self._runs(plans)
        self.num_priced += len(runs)
        for start in range(0, len(runs), _MOST_AT_ONCE):
            rows = np.arange(start, min(start + _MOST_AT_ONCE, len(runs)))
            priced = self._price(runs.take(rows))
            owner = plan_of[rows]
            value = np.where(priced.fits(self.machine), priced.time_s, np.inf)
            order = np.lexsort((value, owner))
            first = order[np.unique(owner[order], return_index=True)[1]]
            better = first[value[first] < time[owner[first]]]
            time[owner[better]], held[owner[better]] = value[better], priced.device_bytes[better]
            chosen[owner[better]] = rows[better]
        return time, held, chosen

    def _price(self, runs: Executions) -> Price:
        return price(self.question.model, self.machine, runs, self.question.global_batch)

    def _runs(self, plans: PlanArrays) -> tuple[Executions, Ints]:
        """Return every execution of the plans that Calculon can price, and which plan each belongs to."""
        keys = np.stack(
            [
                plans.tp,
                plans.pp > 1,
                plans.dp > 1,
                plans.recompute,
                plans.sequence_parallel,
            ]
        ).astype(np.int64)
        shapes, shape_of = np.unique(keys, axis=1, return_inverse=True)
        shape_of = shape_of.ravel()
        known = self._known(plans)
        owners: list[Ints] = []
        tables: list[Ints] = []
        for number, (tp, staged, spread, recompute, parallel) in enumerate(shapes.T):
            rows = np.flatnonzero((shape_of == number) & known)
            shape = int(tp), 1 + int(staged), 1 + int(spread), int(recompute)
            ways = _ways(shape, parallel=bool(parallel))
            owners.append(np.repeat(rows, len(ways)))
            tables.append(np.tile(np.array(ways, dtype=np.int64), (len(rows), 1)))
        owner = np.concatenate(owners)
        table = np.concatenate(tables)
        sent = np.array(OFFLOADS_OF_BOTH)[plans.offload[owner]]
        runs = Executions.of(
            len(owner),
            tp=plans.tp[owner],
            pp=plans.pp[owner],
            dp=plans.dp[owner],
            laps=plans.num_chunks[owner],
            micro_batch=plans.micro_batch[owner],
            recompute=plans.recompute[owner],
            sharded=(plans.zero[owner] == 1).astype(np.int64),
            offload_weights=sent[:, 0],
            offload_activations=sent[:, 1],
            offload_optimizer=sent[:, 2],
            **{name: table[:, i] for i, name in enumerate(_SWITCHES)},
        )
        return runs, owner

    def _known(self, plans: PlanArrays) -> np.ndarray:
        """Return which plans are of a kind that Calculon has a formula for."""
        model = self.question.model
        found = (plans.cp == 1) & ((plans.zero == 0) | ((plans.zero == 1) & (plans.dp_shard == plans.dp)))
        found &= (plans.zero == 0) | (plans.dp > 1)
        named = (plans.schedule == SCHEDULES.index("1f1b")) & (plans.num_chunks == 1)
        found &= named | (plans.schedule == SCHEDULES.index("interleaved"))
        # Calculon sends no activations away where it recomputes all of them.
        found &= ~(away(plans, "activations") & (plans.recompute == RECOMPUTES.index("full")))
        keys = np.stack([plans.pp, plans.num_chunks, plans.first_drop, plans.last_drop])
        splits, split_of = np.unique(keys, axis=1, return_inverse=True)
        even = np.array([_is_even(model.blocks, *map(int, split)) for split in splits.T])
        return found & even[split_of.ravel()] & (model.heads % plans.tp == 0)


def _ways(shape: tuple[int, int, int, int], *, parallel: bool) -> list[tuple[int, ...]]:
    """Return the switches of (tp, pp, dp, recompute) that split the sequence, or do not."""
    tp, pp, dp, recompute = shape
    found = switches(tp=tp, pp=pp, dp=dp, recompute=recompute)
    return [w for w in found if tp == 1 or (w[0] == COMMS.index("rs_ag")) == parallel]


def _is_even(blocks: int, pp: int, chunks: int, first: int, last: int) -> bool:
    """Return whether no stage holds more than an even share rounded up, in whole chunks."""
    sizes = chunk_sizes(blocks, pp * chunks, first, last)
    if sizes is None:
        return False
    share = -(-blocks // pp)
    return share % chunks == 0 and max(sum(sizes[stage::pp]) for stage in range(pp)) <= share


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Newel's answer: the plan, how Calculon would run it, and what the search did."""

    outcome: ExactOutcome
    plans: PlanArrays
    runs: Executions
    time_s: float
    device_bytes: float
    num_points: int
    num_priced: int


def newel_config(model: Model) -> dict[str, object]:
    """Return a config that Newel reads, with Megatron-LM's vocabulary, which Calculon leaves out."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": model.hidden,
        "n_inner": model.feedforward,
        "n_layer": model.blocks,
        "n_head": model.heads,
        "n_positions": model.seq,
        "vocab_size": 51200,
        "tie_word_embeddings": True,
    }


def newel_model(name: str, model: Model) -> ModelGraph:
    """Return the model graph of one of Calculon's models."""
    return model_from_config(newel_config(model), name=name, diagnostics=Diagnostics())


def space_of(graph: ModelGraph, question: Question) -> Space:
    """Return the part of Newel's space that Calculon has formulas for."""
    choices = TrainingChoices(
        zeros=(0, 1),
        schedules=("1f1b", "interleaved"),
        offloads=OFFLOADS if question.offload else ("none",),
        max_micro_batch=question.global_batch,
        fixed=(("cp", 1),),
    )
    workload = TrainingWorkload(global_batch=question.global_batch, seq_len=question.model.seq)
    return Space(model=graph, workload=workload, choices=choices, num_devices=question.num_devices)


def search(graph: ModelGraph, question: Question, machine: Machine) -> Found | None:
    """Return the optimum of Newel's space under Calculon's prices."""
    space = space_of(graph, question)
    choices = space.choices
    whole = replace(space, choices=replace(choices, fixed=(*choices.fixed, ("sequence_parallel", False))))
    coarse = PointGrid([p for s in (space, whole) for p in points(s) if s is space or int(p.tp[0]) > 1])
    evaluator = CalculonEvaluator(question=question, machine=machine)
    limits = Limits(
        num_devices=question.num_devices, capacity_bytes=machine.memory_bytes, longest_step_s=np.inf
    )
    rates = Rates(per_s=1.0, per_compute_s=0.0, by_device=False)
    search_ = ExactSearch(evaluator, space, rates, limits, 16, lambda: False)
    outcome = search_.run(coarse, "bf16")
    if outcome.kept is None:
        return None
    runs = evaluator.execution(outcome.kept.plans, 0)
    assert runs is not None
    return Found(
        outcome=outcome,
        plans=outcome.kept.plans,
        runs=runs,
        time_s=float(outcome.kept.step_s[0]),
        device_bytes=float(outcome.kept.peak_bytes[0]),
        num_points=len(coarse),
        num_priced=evaluator.num_priced,
    )
