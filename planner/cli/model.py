"""``newel model``: what a model is made of, and which models ship with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from planner.cli.terminal import emit, emit_json, new_diagnostics, show_diagnostics

if TYPE_CHECKING:
    from planner.ir.model_graph import Layer, ModelGraph

_BF16_BYTES = 2


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Describe models: parameters, caches, layers.", no_args_is_help=True)
    group.command("show")(show)
    group.command("list")(list_models)
    app.add_typer(group, name="model")


def show(
    model: Annotated[
        str, typer.Argument(help="A config.json, its directory, a bundled name, or - for stdin.")
    ],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    assume_family: Annotated[
        str | None, typer.Option(help="Read an unknown architecture as this family.")
    ] = None,
) -> None:
    """Show a model's parameters, what it caches per token and per sequence, and its layers."""
    from planner.frontend.models import load_model

    diagnostics = new_diagnostics()
    graph = load_model(model, assume_family=assume_family, diagnostics=diagnostics)
    show_diagnostics(diagnostics)
    if json_:
        emit_json(_facts(graph))
    else:
        emit(_table(graph))


def list_models(
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the bundled models, by name, and the families that configs are recognised as."""
    from planner.frontend.family import FAMILIES
    from planner.frontend.models import bundled_configs

    if json_:
        models = [{"name": c.name, "aliases": list(c.aliases), "source": c.source} for c in bundled_configs()]
        emit_json({"models": models, "families": list(FAMILIES.names())})
        return
    lines = [f"{c.name:<24}{', '.join(c.aliases)}" for c in bundled_configs()]
    emit("\n".join([*lines, "", "families: " + ", ".join(FAMILIES.names())]))


def _facts(graph: ModelGraph) -> dict[str, object]:
    cores = graph.attention_cores()
    constant = not any(core.compress_ratio for core in cores)
    return {
        "name": graph.name,
        "family": graph.family,
        "architecture": graph.architecture,
        "assumed_family": graph.assumed_family,
        "num_params": graph.num_params,
        "num_text_params": graph.num_text_params,
        "num_extra_params": graph.num_params - graph.num_text_params,
        "num_routed_expert_params": graph.num_routed_expert_params,
        "num_active_text_params": graph.num_active_text_params,
        "num_experts": graph.num_experts,
        "vocab_size": graph.vocab_size,
        "hidden_size": graph.hidden_size,
        "max_position": graph.max_position,
        "tied_embeddings": graph.tied_embeddings,
        "num_layers": graph.num_layers,
        "num_mtp_layers": graph.num_mtp_layers,
        "kv_bytes_per_token_bf16": _BF16_BYTES * graph.kv_elems_per_token if constant else None,
        "kv_bytes_per_token_bf16_full_layers": (
            _BF16_BYTES * graph.kv_elems_per_token_full if constant else None
        ),
        "index_elems_per_token": sum(core.index_dim for core in cores) if constant else None,
        "cache_elems_by_tokens": {str(n): graph.cache_elems(n) for n in (1024, 8192, 131_072)},
        "recurrent_elems_per_seq": graph.recurrent_elems_per_seq,
        "conv_elems_per_seq": graph.conv_elems_per_seq,
        "checkpoint_dtype": graph.checkpoint_dtype,
        "checkpoint_weight_fmt": graph.checkpoint_weight_fmt,
        "checkpoint_kv_fmt": graph.checkpoint_kv_fmt,
        "num_params_by_fmt": _params_by_fmt(graph),
        "layers": _layer_facts(graph),
    }


def _params_by_fmt(graph: ModelGraph) -> dict[str, int]:
    from planner.ir.model_graph import Experts, Linear, op_params

    found: dict[str, int] = {}
    groups = (graph.embedding, graph.head, graph.extra, *(layer.ops for layer in graph.layers))
    for op in (op for ops in groups for op in ops):
        fmt = graph.weight_fmt(op, graph.checkpoint_weight_fmt) if isinstance(op, Linear | Experts) else ""
        key = fmt or graph.checkpoint_dtype
        found[key] = found.get(key, 0) + op_params(op)
    return {fmt: num_params for fmt, num_params in sorted(found.items()) if num_params}


def _layer_facts(graph: ModelGraph) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    first = 0
    for layer, count in graph.layer_runs():
        rows.append({"first": first, "count": count, **_one_layer(layer)})
        first += count
    return rows


def _one_layer(layer: Layer) -> dict[str, object]:
    from planner.ir.model_graph import AttentionCore, StateCore

    cores = [op for op in layer.ops if isinstance(op, AttentionCore)]
    states = [op for op in layer.ops if isinstance(op, StateCore)]
    return {
        "kind": layer.kind,
        "num_params": layer.num_params,
        "kv_elems_per_token": sum(core.kv_elems_per_token for core in cores),
        "window": max((core.window for core in cores), default=0),
        "compress_ratio": max((core.compress_ratio for core in cores), default=0),
        "state_elems_per_seq": sum(s.recurrent_elems + s.conv_elems for s in states),
    }


def _table(graph: ModelGraph) -> str:
    facts = _facts(graph)
    head = [f"{key:<38}{_plain(value)}" for key, value in facts.items() if key != "layers"]
    columns = ("layers", "kind", "parameters", "kv elems/token", "window", "state elems/seq")
    rows = [columns, *(_row(row) for row in _layer_facts(graph))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*head, "", *(line.rstrip() for line in body)])


def _row(row: dict[str, object]) -> tuple[str, ...]:
    first, count = int(str(row["first"])), int(str(row["count"]))
    span = str(first) if count == 1 else f"{first}-{first + count - 1}"
    keys = ("kind", "num_params", "kv_elems_per_token", "window", "state_elems_per_seq")
    return (span, *(_plain(row[key]) for key in keys))


def _plain(value: object) -> str:
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return ", ".join(f"{key}: {_plain(item)}" for key, item in items)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
