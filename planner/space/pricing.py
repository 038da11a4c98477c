"""Prices layers once per way of splitting them, and assembles the time tables of a replica."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from cost_models.cost import Cost, FloatArray
from cost_models.serving.requests import Requests
from cost_models.serving.tables import TimeTables
from cost_models.serving.uncertainty import first_token_sigma, step_sigma
from cost_models.work import Attention, ExpertGemm, Gemm, Span, Work
from hardware_profiles.provenance import Provenance
from planner.ir.cluster import NodeGroup
from planner.ir.launches import DENSE_LAUNCHES, num_launches
from planner.ir.model_graph import Experts, Layer, ModelGraph
from planner.ir.serving import Adapters
from planner.ir.strategy import ServingStrategy
from planner.ir.workload import Images
from planner.space.engine import EngineCosts, executed_on, kv_format
from planner.space.expert_copies import Loads, mean_skew
from planner.space.images import lower_images
from planner.space.lower import (
    Lowering,
    Piece,
    StepGrid,
    lower_embedding,
    lower_head,
    lower_prompts,
    lower_stage_send,
    lower_steps,
)
from planner.space.spans import link_spec, span_of

_REFERENCE_TOKENS = 256.0
SCALED_WORK = (Gemm, Attention, ExpertGemm)
"""Work that a software profile's `compute_scale` multiplies."""
_SPREAD_FROM = 40.0
_DENSE = (64.0, 512.0)
"""Tokens between which the grid is twice as fine."""
_SPREAD = np.array([-1.2816, -0.5244, 0.0, 0.5244, 1.2816])
"""Standard deviations at which a step is priced: the middles of five equally likely fifths of a normal."""


def step_grid_points(top: float) -> FloatArray:
    """Return grid points 0, 1, 2, 3, 4, 6, 8, 12, 16, ... up to at least `top`.

    Where one more tile of a kernel is felt most, there are four points per octave.
    """
    powers = 2.0 ** np.arange(0, max(2, int(np.ceil(np.log2(max(top, 2.0)))) + 1))
    dense = powers[(powers >= _DENSE[0]) & (powers < _DENSE[1])]
    return np.unique(np.concatenate(([0.0], powers, 1.5 * powers[1:], 1.25 * dense, 1.75 * dense)))


def spread_out(tokens: FloatArray) -> FloatArray:
    """Return around each token count the counts that steps of this mean have, [tokens, 5].

    The number in a step fluctuates with the square root of its mean, as arrivals do. Kernels cost whole
    tiles, so the mean of their cost is not the cost of the mean, and no count is luckily aligned. Small
    steps (below one tile) are taken as they are.
    """
    deviation = np.where(tokens >= _SPREAD_FROM, np.sqrt(tokens), 0.0)
    return tokens[:, None] + deviation[:, None] * _SPREAD


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """Time of one part of the model by family, with its variance at the reference step.

    `shared_s` is the part of `tokens_s` that all attention ranks do together.
    """

    tokens_s: FloatArray
    shared_s: FloatArray
    sequences_s: FloatArray
    prompts_s: FloatArray
    variance_s2: float
    provenance: Provenance

    def times(self, count: int) -> Priced:
        """Return `count` equal parts; their errors are fully correlated."""
        return Priced(
            tokens_s=self.tokens_s * count,
            shared_s=self.shared_s * count,
            sequences_s=self.sequences_s * count,
            prompts_s=self.prompts_s * count,
            variance_s2=self.variance_s2 * count * count,
            provenance=self.provenance,
        )

    def plus(self, other: Priced) -> Priced:
        """Return both, one after the other."""
        return Priced(
            tokens_s=self.tokens_s + other.tokens_s,
            shared_s=self.shared_s + other.shared_s,
            sequences_s=self.sequences_s + other.sequences_s,
            prompts_s=self.prompts_s + other.prompts_s,
            variance_s2=self.variance_s2 + other.variance_s2,
            provenance=max(self.provenance, other.provenance),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageShape:
    """What a stage holds: how often each distinct layer, and whether embedding and head are in it."""

    layer_counts: tuple[tuple[int, int], ...]
    first: bool
    last: bool

    @property
    def num_layers(self) -> int:
        """Layers of the stage."""
        return sum(count for _, count in self.layer_counts)


@dataclass(slots=True, kw_only=True)
class Pricer:
    """Prices one model under one engine on one node group for one set of requests.

    Results are kept: layers split the same way are priced once, whatever the pipeline or role.
    """

    model: ModelGraph
    group: NodeGroup
    costs: EngineCosts
    requests: Requests
    routing_skew: float
    max_tokens: float
    max_sequences: float
    adapters: Adapters | None = None
    expert_loads: Loads = ()
    images: Images | None = None
    _skews: dict[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])
    num_priced: int = 0
    _parts: dict[tuple[object, ...], Priced] = field(default_factory=dict[tuple[object, ...], Priced])
    _tables: dict[tuple[object, ...], TimeTables] = field(
        default_factory=dict[tuple[object, ...], TimeTables]
    )
    _prompt_rows: dict[tuple[object, ...], FloatArray] = field(
        default_factory=dict[tuple[object, ...], FloatArray]
    )
    _weights: dict[tuple[object, ...], tuple[tuple[float, ...], float, float]] = field(
        default_factory=dict[tuple[object, ...], tuple[tuple[float, ...], float, float]]
    )
    _stage_shapes: dict[tuple[int, ...], tuple[StageShape, ...]] = field(
        default_factory=dict[tuple[int, ...], tuple[StageShape, ...]]
    )
    _overhead_provenance: Provenance = Provenance.MEASURED
    _kinds: tuple[Layer, ...] = ()
    _kind_of: tuple[int, ...] = ()
    _launches: tuple[int, ...] = ()
    _tokens: FloatArray = field(default_factory=lambda: np.zeros(0))
    _sequences: FloatArray = field(default_factory=lambda: np.zeros(0))
    _around: FloatArray = field(default_factory=lambda: np.zeros(0))
    _known: dict[tuple[object, ...], Cost] = field(default_factory=dict[tuple[object, ...], Cost])

    def __post_init__(self) -> None:
        """Fold equal layers and lay out the grids."""
        self._kinds = tuple(dict.fromkeys(self.model.layers))
        index = {layer: i for i, layer in enumerate(self._kinds)}
        self._kind_of = tuple(index[layer] for layer in self.model.layers)
        self._launches = tuple(num_launches(layer) for layer in self._kinds)
        software = self.costs.software
        self._overhead_provenance = max(software.provenance_of(fact) for _, fact in software.facts())
        self._tokens = step_grid_points(max(self.max_tokens, self.max_sequences))
        self._sequences = step_grid_points(self.max_sequences)
        self._around = spread_out(self._tokens).ravel()

    @property
    def layer_kinds(self) -> tuple[Layer, ...]:
        """The distinct layers."""
        return self._kinds

    @property
    def kind_of_layer(self) -> tuple[int, ...]:
        """The index into `layer_kinds` of every layer."""
        return self._kind_of

    def stage_shapes(self, layers_per_stage: tuple[int, ...]) -> tuple[StageShape, ...]:
        """Return what each stage of a partition holds."""
        if layers_per_stage in self._stage_shapes:
            return self._stage_shapes[layers_per_stage]
        shapes: list[StageShape] = []
        start = 0
        for stage, count in enumerate(layers_per_stage):
            kinds = Counter(self._kind_of[start : start + count])
            shapes.append(
                StageShape(
                    layer_counts=tuple(sorted(kinds.items())),
                    first=stage == 0,
                    last=stage == len(layers_per_stage) - 1,
                )
            )
            start += count
        self._stage_shapes[layers_per_stage] = tuple(shapes)
        return self._stage_shapes[layers_per_stage]

    def use(self, costs: EngineCosts) -> None:
        """Price from now on with other facts on the same engine; only what they touch is priced again."""
        old, new = self.costs.software, costs.software
        if (old.kernel_scale, old.overlap.value) != (new.kernel_scale, new.overlap.value):
            self._parts.clear()
            self._prompt_rows.clear()
            self._known.clear()
        self._tables.clear()
        self._weights.clear()
        self.costs = costs

    def tables(
        self,
        strategy: ServingStrategy,
        weight_fmt: str,
        kv_fmt: str,
        token_budget: float,
        layers_per_stage: tuple[int, ...],
    ) -> TimeTables:
        """Return the time tables of a replica; of the chunk size only the attention of prompts depends.

        Raises
        ------
        ValueError
            If the device cannot run a format of the model.
        """
        split = (replace(strategy, pp=1), weight_fmt, kv_fmt, token_budget)
        key = (strategy, weight_fmt, kv_fmt, layers_per_stage)
        if key not in self._tables:
            self._tables[key] = self._new_tables(strategy, weight_fmt, kv_fmt, token_budget, layers_per_stage)
        known = self._tables[key]
        shapes = dict.fromkeys(self.stage_shapes(layers_per_stage))
        return replace(known, prompt_attention_s=np.array([self._prompts(shape, split) for shape in shapes]))

    def _prompts(self, shape: StageShape, split: tuple[ServingStrategy, str, str, float]) -> FloatArray:
        """Return the attention of whole prompts on a stage, by sample."""
        key = (shape, split)
        if key not in self._prompt_rows:
            total = np.zeros(self.requests.weights.size)
            for kind, count in shape.layer_counts:
                total = total + self._part(kind, *split).prompts_s * count
            if shape.first and self.images is not None and self.model.vision is not None:
                how = self.lowering(*split[:3])
                total = total + self._sum(lower_images(self.images, self.model.vision, how)).prompts_s
            self._prompt_rows[key] = total
        return self._prompt_rows[key]

    def _new_tables(
        self,
        strategy: ServingStrategy,
        weight_fmt: str,
        kv_fmt: str,
        token_budget: float,
        layers_per_stage: tuple[int, ...],
    ) -> TimeTables:
        shapes = Counter(self.stage_shapes(layers_per_stage))
        rows = [self._stage(shape, strategy, weight_fmt, kv_fmt, token_budget) for shape in shapes]
        software = self.costs.software
        seconds = sum(
            float(np.interp(_REFERENCE_TOKENS, self._tokens, row.tokens_s)) * count
            for row, count in zip(rows, shapes.values(), strict=True)
        )
        spread = sum(
            float(np.sqrt(row.variance_s2)) * count for row, count in zip(rows, shapes.values(), strict=True)
        )
        sparse = self._sparse()
        sigma = step_sigma(spread / max(seconds, 1e-12), sparse=sparse)
        return TimeTables(
            token_grid=self._tokens,
            token_time_s=np.array([row.tokens_s for row in rows]),
            sequence_grid=self._sequences,
            sequence_time_s=np.array([row.sequences_s for row in rows]),
            prompt_attention_s=np.array([row.prompts_s for row in rows]),
            stage_counts=np.array(list(shapes.values()), dtype=np.float64),
            num_attention_ranks=strategy.attention_dp,
            per_request_s=software.per_request_s.value,
            sigma=sigma,
            first_token_sigma=first_token_sigma(sigma, sparse=sparse),
            provenance=max(row.provenance for row in rows),
            prompt_step_s=np.array([self.prompt_step_s(shape) for shape in shapes]),
            shared_time_s=np.array([row.shared_s for row in rows]) if strategy.attention_dp > 1 else None,
            launch_sharpness=software.launches_meet,
            admission_s=software.admission_s.value if software.admission_s is not None else 0.0,
        )

    def layer_weights(
        self, strategy: ServingStrategy, weight_fmt: str, kv_fmt: str, token_budget: float, at: float
    ) -> tuple[tuple[float, ...], float, float]:
        """Return seconds of each layer, of the embedding and of the head at a step of `at` tokens."""
        key = replace(strategy, pp=1)
        asked = (key, weight_fmt, kv_fmt, at)
        if asked in self._weights:
            return self._weights[asked]

        def seconds(part: str | int) -> float:
            priced = self._part(part, key, weight_fmt, kv_fmt, token_budget)
            in_batch = min(at, self._sequences[-1])
            return float(
                np.interp(at, self._tokens, priced.tokens_s)
                + np.interp(in_batch, self._sequences, priced.sequences_s)
            )

        kinds = tuple(seconds(index) for index in range(len(self._kinds)))
        per_layer = self.costs.software.per_layer_s.value
        layers = tuple(kinds[kind] + per_layer for kind in self._kind_of)
        self._weights[asked] = (layers, seconds("embedding"), seconds("head"))
        return self._weights[asked]

    def _stage(
        self, shape: StageShape, strategy: ServingStrategy, weight_fmt: str, kv_fmt: str, token_budget: float
    ) -> Priced:
        total = self._overheads(shape)
        key = replace(strategy, pp=1)
        for kind, count in shape.layer_counts:
            total = total.plus(self._part(kind, key, weight_fmt, kv_fmt, token_budget).times(count))
        if shape.first:
            total = total.plus(self._part("embedding", key, weight_fmt, kv_fmt, token_budget))
        if shape.last:
            total = total.plus(self._part("head", key, weight_fmt, kv_fmt, token_budget))
        if strategy.pp > 1:
            total = total.plus(self._part("send", strategy, weight_fmt, kv_fmt, token_budget))
        return total

    def _sparse(self) -> bool:
        return any(isinstance(op, Experts) for layer in self._kinds for op in layer.ops)

    def prompt_step_s(self, shape: StageShape) -> float:
        """Return what the host takes to launch a stage's kernels when a step holds prompt tokens."""
        fact = self.costs.software.prompt_layer_s
        if fact is None:
            return 0.0
        launches = sum(self._launches[kind] * count for kind, count in shape.layer_counts)
        return fact.value * launches / DENSE_LAUNCHES

    def _overheads(self, shape: StageShape) -> Priced:
        """Return what the engine adds to a step on a stage: per step, per layer and per sequence."""
        software = self.costs.software
        fixed = software.per_step_s.value + software.per_layer_s.value * shape.num_layers
        per_sequence = software.per_sequence_s.value if shape.last else 0.0
        return Priced(
            tokens_s=np.full(self._tokens.size, fixed),
            shared_s=np.zeros(self._tokens.size),
            sequences_s=self._sequences * per_sequence,
            prompts_s=np.zeros(self.requests.weights.size),
            variance_s2=0.0,
            provenance=self._overhead_provenance,
        )

    def _part(
        self,
        part: str | int,
        strategy: ServingStrategy,
        weight_fmt: str,
        kv_fmt: str,
        token_budget: float,
    ) -> Priced:
        """Return a part's price; only the work of prompts depends on the chunk size, the rest is shared."""
        key = (part, strategy, weight_fmt, kv_fmt)
        whole = self._parts.get((*key, token_budget))
        if whole is None:
            steps = self._parts.get(key)
            if steps is None:
                steps = self._price(key, token_budget, prompts=False)
                self._parts[key] = steps
                self.num_priced += 1
            prompts = steps if isinstance(part, str) else self._attention(key, token_budget)
            whole = replace(
                steps, prompts_s=prompts.prompts_s, provenance=max(steps.provenance, prompts.provenance)
            )
            self._parts[(*key, token_budget)] = whole
        return whole

    def _attention(self, key: tuple[str | int, ServingStrategy, str, str], token_budget: float) -> Priced:
        """Return the price of the work of prompts, which knows nothing of the format of weights."""
        part, strategy, weight_fmt, kv_fmt = key
        asked = (part, strategy, kv_fmt, token_budget)
        if asked not in self._parts:
            self._parts[asked] = self._price((part, strategy, weight_fmt, kv_fmt), token_budget, prompts=True)
        return self._parts[asked]

    def _price(
        self, key: tuple[str | int, ServingStrategy, str, str], token_budget: float, *, prompts: bool
    ) -> Priced:
        part, strategy, weight_fmt, kv_fmt = key
        how = self.lowering(strategy, weight_fmt, kv_fmt)
        grid = StepGrid(
            tokens=self._around / strategy.prefill_cp,
            sequences=self._sequences,
            requests=self.requests,
            token_budget=token_budget,
        )
        if part == "embedding":
            pieces = lower_embedding(how, grid)
        elif part == "head":
            pieces = lower_head(how, grid)
        elif part == "send":
            pieces = lower_stage_send(how, grid, self._stage_link(strategy))
        else:
            pieces = (lower_prompts if prompts else lower_steps)(self._kinds[int(part)], how, grid)
        return self._sum(pieces)

    def _sum(self, pieces: Iterable[Piece]) -> Priced:
        """Price pieces and add them by family; a stated share of communication hides behind compute."""
        sizes = {
            "tokens": self._tokens.size,
            "shared": self._tokens.size,
            "sequences": self._sequences.size,
            "prompts": self.requests.weights.size,
        }
        totals = {family: np.zeros(size) for family, size in sizes.items()}
        provenance, variance = Provenance.MEASURED, 0.0
        exposed = 1.0 - self.costs.software.overlap.value
        reference = int(np.searchsorted(self._tokens, _REFERENCE_TOKENS))
        for piece in pieces:
            cost = self._cost(piece.work)
            share = exposed if piece.is_communication else 1.0
            if isinstance(piece.work, SCALED_WORK):
                share *= self.costs.software.kernel_scale
            provenance = max(provenance, cost.provenance)
            if piece.family != "tokens":
                totals[piece.family] += cost.time_s * piece.count * share
                continue
            seconds = self._mean(cost.time_s * piece.count) * share
            totals["tokens"] += seconds
            if piece.is_shared:
                totals["shared"] += seconds
            variances = self._mean(cost.variance_s2)
            variance += float(variances[min(reference, self._tokens.size - 1)])
        return Priced(
            tokens_s=totals["tokens"],
            shared_s=totals["shared"],
            sequences_s=totals["sequences"],
            prompts_s=totals["prompts"],
            variance_s2=variance,
            provenance=provenance,
        )

    def _cost(self, work: Work) -> Cost:
        """Return the price of work; equal work, of which formats and degrees leave much, is priced once."""
        values = (getattr(work, name) for name in work.__dataclass_fields__)
        key = (type(work), *(v.tobytes() if isinstance(v, np.ndarray) else v for v in values))
        if key not in self._known:
            self._known[key] = self.costs.model.price(work)
        return self._known[key]

    def _mean(self, values: FloatArray | float) -> FloatArray:
        """Return the mean over the spread of every token count."""
        spread = (self._tokens.size, _SPREAD.size)
        return np.broadcast_to(values, self._tokens.size * _SPREAD.size).reshape(spread).mean(axis=1)

    def lowering(self, strategy: ServingStrategy, weight_fmt: str, kv_fmt: str) -> Lowering:
        """Return how this pricer lowers layers under a strategy."""
        tp, ranks = strategy.tp, strategy.attention_dp * strategy.prefill_cp
        return Lowering(
            model=self.model,
            strategy=strategy,
            weight_fmt=weight_fmt,
            kv_fmt=kv_format(self.model, kv_fmt),
            executed=self._executed,
            tensor_span=span_of(self.group, tp),
            stage_span=span_of(self.group, tp * ranks),
            rank_span=span_of(self.group, ranks, stride=tp),
            context_span=span_of(self.group, strategy.prefill_cp, stride=tp),
            decode_context_span=span_of(self.group, strategy.decode_cp),
            routing_skew=self._skew(strategy),
            adapters=self.adapters,
        )

    def _skew(self, strategy: ServingStrategy) -> float:
        """Return the load of the fullest rank of experts over the mean: from their loads, else as stated."""
        if not self.expert_loads or strategy.ep == 1:
            return self.routing_skew
        key = (strategy.ep, strategy.redundant_experts)
        if key not in self._skews:
            self._skews[key] = mean_skew(self.expert_loads, *key)
        return self._skews[key]

    def _executed(self, fmt: str) -> str:
        return executed_on(self.group, fmt) or fmt

    def _stage_link(self, strategy: ServingStrategy) -> Span:
        """Return the link between stages: that of the scale-up domain only if the replica stays inside one.

        A replica that does not divide the domain may be split over two when domains are filled.
        """
        num_devices, domain = strategy.num_devices, self.group.domain_size
        if domain >= self.group.num_devices or (num_devices <= domain and domain % num_devices == 0):
            return Span(ranks_per_level=(2,), links=(link_spec(self.group.levels[0].link),))
        needed = max(num_devices, domain + 1)
        level = next((v for v in self.group.levels if needed <= v.num_devices), self.group.levels[-1])
        return Span(ranks_per_level=(2,), links=(link_spec(level.link),))
