"""``kind: serving``: one model on one cluster under one workload."""

from __future__ import annotations

from dataclasses import replace

from planner.diagnostics import Diagnostics
from planner.errors import InputError, UnknownNameError
from planner.frontend.expert_loads import Loads, read_expert_loads
from planner.frontend.lengths import from_trace, joint
from planner.frontend.model_blocks.vision_tower import FIXED, NATIVE
from planner.frontend.serving_spec import DEGREES, GOALS, ServingSpec, WorkloadSection
from planner.frontend.spec_inputs import cluster_input, model_input
from planner.frontend.spec_tree import SpecTree
from planner.frontend.specs import validated
from planner.frontend.traces import arrival_rate_rps, burstiness, busy_rate_rps, read_trace
from planner.ir.cluster import Cluster
from planner.ir.cost_sources import COST_SOURCES
from planner.ir.model_graph import Experts, ModelGraph
from planner.ir.objective import Objective
from planner.ir.problem import Problem
from planner.ir.serving import BALANCING_ENGINES, Adapters, ServingChoices, ServingProblem
from planner.ir.trace import RequestTrace
from planner.ir.weight_offload import OFFLOADING_ENGINES
from planner.ir.workload import Images, Lengths, ServingWorkload, Slo

SPEC = ServingSpec
_MOST_PATCHES = 1_000_000

_BUSY_SHARE, _BUSY_SHARE_OF_MEANS = 0.9, 0.99
"""Of the requests of a trace, how many are planned for at the rate of their minute: at least, and where
limits hold of means, which a few minutes of too much traffic spoil."""


def read(tree: SpecTree, diagnostics: Diagnostics) -> Problem[ServingProblem]:
    """Return the serving problem that a spec states.

    Raises
    ------
    InputError
        If anything in the spec is wrong.
    """
    spec = validated(tree, ServingSpec)
    model = model_input(tree, spec.model, diagnostics, assume_family=spec.assume_family)
    cluster = cluster_input(tree, spec.cluster, diagnostics)
    workload = _with_images(tree, spec, model, _workload(tree, spec, diagnostics), diagnostics)
    workload = _loaded(workload, spec, diagnostics)
    payload = ServingProblem(
        model=model,
        workload=workload,
        choices=_choices(tree, spec, model, diagnostics),
        routing_skew=spec.routing_skew,
        memory_fraction=spec.memory_fraction,
        adapters=_adapters(spec),
        expert_loads=_expert_loads(tree, spec, model),
        assumptions=(f"read as {model.assumed_family}",) if model.assumed_family else (),
    )
    return Problem(
        kind="serving",
        name=spec.name or f"{model.name} on {cluster.name}",
        cluster=cluster,
        objective=_objective(tree, spec, workload, cluster, diagnostics),
        budget=spec.budget.lowered(),
        options=spec.search.lowered(),
        payload=payload,
        inputs=tuple(tree.digests),
    )


def _adapters(spec: ServingSpec) -> Adapters | None:
    if spec.adapters is None:
        return None
    return Adapters(num_resident=spec.adapters.resident, rank=spec.adapters.rank)


def _expert_loads(tree: SpecTree, spec: ServingSpec, model: ModelGraph) -> Loads:
    """Return the measured loads of experts, one row for every layer that has any (or one for all)."""
    if spec.expert_loads is None:
        return ()
    key = ("expert_loads",)
    file = tree.path_of(spec.expert_loads, key)
    try:
        loads = read_expert_loads(file)
    except InputError as error:
        raise tree.located(error, key) from None
    layers = [any(isinstance(op, Experts) for op in layer.ops) for layer in model.layers]
    sparse = [index for index, has_experts in enumerate(layers) if has_experts]
    if not sparse:
        raise tree.error("the model has no routed experts", key, value=file.name)
    if len(loads[0]) != model.num_experts or len(loads) not in (1, len(sparse), model.num_layers):
        raise tree.error(
            f"the loads are of {len(loads)} layers of {len(loads[0])} experts",
            key,
            value=file.name,
            allowed=f"{len(sparse)} layers of {model.num_experts} experts",
        )
    tree.add_file_digest("expert loads", file)
    return tuple(loads[index] for index in sparse) if len(loads) == model.num_layers else loads


def _redundant(tree: SpecTree, spec: ServingSpec, model: ModelGraph) -> tuple[int, ...]:
    """Return the numbers of copies of hot experts to choose from."""
    copies = tuple(sorted(set(spec.redundant_experts)))
    key = ("redundant_experts",)
    if any(copies) and model.num_experts == 0:
        raise tree.error("the model has no routed experts", key, value=spec.redundant_experts)
    if any(copies) and not set(spec.engine) & BALANCING_ENGINES:
        raise tree.error(
            "none of the engines is told of copies of experts",
            key,
            value=", ".join(spec.engine),
            allowed=", ".join(sorted(BALANCING_ENGINES)),
        )
    if len(copies) > 1 and spec.expert_loads is None:
        raise tree.error(
            "which number is best follows from the loads of the experts",
            key,
            value=spec.redundant_experts,
            hint="Give expert_loads, or one number and its routing_skew.",
        )
    return copies


def _workload(tree: SpecTree, spec: ServingSpec, diagnostics: Diagnostics) -> ServingWorkload:
    section = spec.workload
    if section.rate is not None and section.concurrency is not None:
        raise tree.error("state either rate or concurrency, not both", ("workload", "concurrency"))
    if section.rate == 0:
        raise tree.error("a rate of zero needs no plan", ("workload", "rate"), value=section.rate)
    slo = Slo(ttft_s=spec.slo.ttft, tpot_s=spec.slo.tpot, e2e_s=spec.slo.e2e, percentile=spec.slo.percentile)
    for name in ("ttft", "tpot", "e2e"):
        if getattr(spec.slo, name) == 0:
            raise tree.error("no request can take no time", ("slo", name), value=0)
    workload = ServingWorkload(
        lengths=Lengths(samples=()),
        slo=slo,
        rate_rps=section.rate,
        concurrency=section.concurrency,
        burstiness=1.0 if section.burstiness is None else section.burstiness,
        prefix_hit_share=section.prefix_hit,
    )
    if section.trace is not None:
        return _from_trace(tree, spec, workload, diagnostics)
    return replace(workload, lengths=_lengths(tree, section))


def _with_images(
    tree: SpecTree, spec: ServingSpec, model: ModelGraph, workload: ServingWorkload, diagnostics: Diagnostics
) -> ServingWorkload:
    """Return the workload with the tokens of its images in every prompt."""
    section = spec.workload.images
    if section is None:
        return workload
    if model.vision is None:
        raise tree.error(
            "the images of this model are not understood",
            ("workload", "images"),
            value=model.name,
            allowed=f"models of the families {', '.join((*NATIVE, *FIXED))} with a vision_config",
        )
    patches, tokens = model.vision.patches_and_tokens(section.width, section.height)
    if patches > _MOST_PATCHES:
        raise tree.error(
            "an image has too many patches", ("workload", "images"), value=patches, allowed=f"{_MOST_PATCHES}"
        )
    more = section.count * tokens
    diagnostics.note(
        "image-tokens",
        f"an image of {section.width} x {section.height} is {patches} patches and {tokens} tokens; prompts "
        f"are {more} tokens longer than their text",
    )
    samples = tuple((i + more, o, w) for i, o, w in workload.lengths.samples)
    return replace(
        workload,
        lengths=replace(workload.lengths, samples=samples),
        images=Images(count=section.count, patches=patches, tokens=tokens),
    )


def _loaded(workload: ServingWorkload, spec: ServingSpec, diagnostics: Diagnostics) -> ServingWorkload:
    """Return the workload with the load that a latency is meant at, where none is stated."""
    stated = workload.rate_rps is not None or workload.concurrency is not None
    if spec.objective.name != "min_latency" or stated:
        return workload
    diagnostics.note("load-default", "no load is stated, so the latency is that of one request at a time")
    return replace(workload, concurrency=1)


def _lengths(tree: SpecTree, section: WorkloadSection) -> Lengths:
    path = ("workload", "lengths")
    plain = [section.input_tokens, section.output_tokens]
    if section.lengths is not None:
        if plain != [None, None]:
            raise tree.error("state either lengths or input_tokens and output_tokens, not both", path)
        parts = [(part.weight, part.input_tokens, part.output_tokens) for part in section.lengths]
        if sum(part[0] for part in parts) <= 0:
            raise tree.error("at least one weight must be positive", path)
        return joint([part for part in parts if part[0] > 0], "mixture")
    for name, points in zip(("input_tokens", "output_tokens"), plain, strict=True):
        if points is None:
            hint = "State it (--isl, --osl), or give lengths or a trace (--trace)."
            raise tree.error("is missing", ("workload", name), hint=hint)
    single = len(section.input_tokens) == len(section.output_tokens) == 1
    return joint([(1.0, section.input_tokens, section.output_tokens)], "fixed" if single else "distribution")


def _from_trace(
    tree: SpecTree, spec: ServingSpec, workload: ServingWorkload, diagnostics: Diagnostics
) -> ServingWorkload:
    """Return the workload with lengths, rate and burstiness of the trace, where they are not stated."""
    section, path = spec.workload, ("workload", "trace")
    if section.lengths is not None or section.input_tokens is not None or section.output_tokens is not None:
        raise tree.error("state either a trace or lengths, not both", path)
    file = tree.path_of(section.trace or "", path)
    try:
        trace = read_trace(file, diagnostics)
    except InputError as error:
        raise tree.located(error, path) from None
    tree.add_file_digest("trace", file)
    lengths = replace(from_trace(trace), source=f"trace {file.name}")
    if trace.prefix_share is not None and "prefix_hit" not in section.model_fields_set:
        diagnostics.note(
            "trace-prefixes",
            f"{trace.prefix_share:.0%} of the prompt tokens of the trace repeat an earlier prefix (with an "
            "unbounded cache); none is assumed to be cached unless workload.prefix_hit says so",
        )
    timed = len(trace.arrival_s) > 1
    spread = burstiness(trace, diagnostics) if timed and section.burstiness is None else workload.burstiness
    if not timed:
        diagnostics.note(
            "trace-untimed",
            f"{file.name} does not say when requests come, so only their lengths are taken from it; rate and "
            "burstiness are what the spec says",
        )
    rate = workload.rate_rps
    if rate is None and section.concurrency is None and spec.objective.name != "max_throughput" and timed:
        rate = _rate_of(trace, spec.slo.percentile, file.name, spread, diagnostics)
    return replace(workload, lengths=lengths, rate_rps=rate, burstiness=spread)


def _rate_of(
    trace: RequestTrace, percentile: float, name: str, spread: float, diagnostics: Diagnostics
) -> float:
    """Return the rate to plan for: that of the minutes in which the limits have to hold, too."""
    mean_rps = arrival_rate_rps(trace)
    share = max(_BUSY_SHARE, percentile / 100.0) if percentile else _BUSY_SHARE_OF_MEANS
    rate_rps = busy_rate_rps(trace, share)
    told = f"{name}: {mean_rps:.4g} requests/s, burstiness {spread:.3g}"
    if rate_rps > mean_rps:
        told += (
            f"; planned for {rate_rps:.4g} requests/s, as {100 * share:.4g} % of the requests arrive in "
            f"minutes no busier than that (--rate {mean_rps:.4g} plans for the mean)"
        )
    diagnostics.note("trace-rate", told)
    return rate_rps


def _choices(
    tree: SpecTree, spec: ServingSpec, model: ModelGraph, diagnostics: Diagnostics
) -> ServingChoices:
    for name in spec.fix:
        if name not in DEGREES:
            raise tree.located(UnknownNameError("degree", name, DEGREES), ("fix", name))
    if spec.costs not in COST_SOURCES.names():
        raise tree.located(UnknownNameError("source of costs", spec.costs, COST_SOURCES.names()), ("costs",))
    kv_default = model.checkpoint_kv_fmt if model.checkpoint_kv_fmt != "auto" else model.checkpoint_dtype
    if spec.allow_weight_offload and not set(spec.engine) & OFFLOADING_ENGINES:
        raise tree.error(
            "none of the engines keeps weights in host memory",
            ("allow_weight_offload",),
            value=", ".join(spec.engine),
            allowed=", ".join(sorted(OFFLOADING_ENGINES)),
        )
    if spec.formats.weights is None:
        diagnostics.note(
            "format-default", f"weights stay in the checkpoint's format, {model.checkpoint_weight_fmt}"
        )
    return ServingChoices(
        weight_fmts=tuple(spec.formats.weights or (model.checkpoint_weight_fmt,)),
        kv_fmts=tuple(spec.formats.kv or (kv_default,)),
        engines=tuple(spec.engine),
        modes=tuple(dict.fromkeys(spec.modes)),
        max_num_seqs=spec.max_num_seqs,
        token_budgets=tuple(sorted(set(spec.token_budgets))),
        fixed=tuple(sorted(spec.fix.items())),
        costs=spec.costs,
        weight_offload=spec.allow_weight_offload,
        redundant_experts=_redundant(tree, spec, model),
    )


def _objective(
    tree: SpecTree, spec: ServingSpec, workload: ServingWorkload, cluster: Cluster, diagnostics: Diagnostics
) -> Objective:
    """Return the objective; where none is stated, the cheapest plan that carries the load, or the fastest."""
    name = spec.objective.name
    if name is not None:
        if name not in GOALS:
            raise tree.located(UnknownNameError("objective", name, GOALS), ("objective",))
        return Objective(name=name, robust=spec.objective.robust)
    loaded = workload.rate_rps is not None or workload.concurrency is not None
    priced = all(group.usd_per_device_hour is not None for group in cluster.groups)
    name = ("min_cost" if priced else "min_devices") if loaded else "max_throughput"
    diagnostics.note("objective-default", f"no objective is stated, so it is {name}")
    return Objective(name=name, robust=spec.objective.robust)
