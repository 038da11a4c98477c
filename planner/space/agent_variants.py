"""The ways in which consumers may stream, one per choice of the models that it depends on."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from math import prod

from planner.ir.agent_graph import AgentGraph, AgentProblem, LlmCall
from planner.space.agent_flat import FlatCall, Flow
from planner.space.agent_gains import gaining_stream, may_stream
from planner.space.agent_lower import Variant, usable_models

_MAX_CHOICES = 64
_MAX_VARIANTS = 4_000

Variants = dict[str, tuple[Variant, ...]]


def variants_of(payload: AgentProblem, flow: Flow) -> tuple[Variants, list[str]]:
    """Return the variants of every consumer that may gain, and consumers of too many choices to list."""
    streaming = [call for call in flow.flat.calls if may_stream(flow, call)]
    most = min(_MAX_CHOICES, max(_MAX_VARIANTS // max(len(streaming), 1), 1))
    found: Variants = {}
    left: list[str] = []
    for call in streaming:
        models = _choices(payload.graph, flow, call)
        if prod(len(m) for m in models.values()) > most:
            left.append(call.name)
            continue
        rows = (dict(zip(models, chosen, strict=True)) for chosen in product(*models.values()))
        variants = _variants(payload, flow, call, rows)
        if variants:
            found[call.name] = variants
    return found, left


def variants_under(
    payload: AgentProblem,
    flow: Flow,
    names: Iterable[str],
    proposals: Iterable[dict[str, str]],
    *,
    own: bool = True,
) -> Variants:
    """Return variants of some consumers whose producers run on the models of one of the proposals.

    `own`: they themselves may run on any of their models, not only on that of the proposal.
    """
    tried = list(proposals)
    found: Variants = {}
    for name in names:
        call = flow.calls[name]
        models = _choices(payload.graph, flow, call)
        rows: list[dict[str, str]] = []
        for fixed in tried:
            for mine in models.get(name, [""]) if own else [fixed.get(name, "")]:
                row = {n: mine if n == name else fixed[n] for n in models}
                if row not in rows:
                    rows.append(row)
        variants = _variants(payload, flow, call, rows)
        if variants:
            found[name] = variants
    return found


def _choices(graph: AgentGraph, flow: Flow, call: FlatCall) -> dict[str, list[str]]:
    """Return the models that a consumer and the producers that may stream to it can run on."""
    ends = [call, *(flow.calls[e.source] for e in may_stream(flow, call))]
    return {
        c.name: [m.name for m in usable_models(graph, c.work)] for c in ends if isinstance(c.work, LlmCall)
    }


def _variants(
    payload: AgentProblem, flow: Flow, call: FlatCall, rows: Iterable[dict[str, str]]
) -> tuple[Variant, ...]:
    found: list[Variant] = []
    for row in rows:
        stream = gaining_stream(payload, flow, call, row)
        if stream is not None:
            needs = {source: row[source] for source in stream.starts_s}
            found.append(Variant(model=row.get(call.name, ""), needs=needs, stream=stream))
    return tuple(found)
