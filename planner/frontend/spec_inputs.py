"""The model and the cluster that a spec names, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.clusters import parse_cluster
from planner.frontend.models import CONFIG_FOLDER, load_model, model_from_config
from planner.frontend.spec_tree import SpecTree
from planner.frontend.yaml_source import KeyPath
from planner.ir.cluster import Cluster
from planner.ir.model_graph import ModelGraph


def model_input(
    tree: SpecTree,
    source: object,
    diagnostics: Diagnostics,
    *,
    assume_family: str | None = None,
    path: KeyPath = ("model",),
) -> ModelGraph:
    """Return the model that stands at `path`: a config given in place, a file or directory, a bundled name.

    Raises
    ------
    InputError
        If it is none of them.
    """
    try:
        if isinstance(source, Mapping):
            config = cast("Mapping[str, object]", source)
            tree.add_data_digest("model", "inline", config)
            return model_from_config(
                config, name="inline", file="model", assume_family=assume_family, diagnostics=diagnostics
            )
        if not isinstance(source, str) or not source.strip() or "\0" in source:
            raise InputError("must name a model", allowed="a path or a bundled model's name")
        file = tree.path_of(source, path)
        if file.exists():
            config_file = file / "config.json" if file.is_dir() else file
            model = load_model(file, assume_family=assume_family, diagnostics=diagnostics)
        else:
            model = load_model(source, assume_family=assume_family, diagnostics=diagnostics)
            config_file = CONFIG_FOLDER / "bundled"
    except OSError as error:
        raise tree.error(f"cannot be read: {error.strerror}", path) from None
    except InputError as error:
        raise tree.located(error, path) from None
    if config_file.is_file():
        tree.add_file_digest("model", config_file)
    else:
        tree.add_data_digest("model", source, source)
    return model


def cluster_input(
    tree: SpecTree, source: object, diagnostics: Diagnostics, *, path: KeyPath = ("cluster",)
) -> Cluster:
    """Return the cluster that stands at `path`: a shorthand, a mapping, or a cluster file.

    Raises
    ------
    InputError
        If it is none of them.
    """
    try:
        if isinstance(source, str) and source.strip().lower().endswith((".yaml", ".yml", ".json")):
            file = tree.path_of(source.strip(), path)
            cluster = parse_cluster(str(file), source=None, diagnostics=diagnostics)
            tree.add_file_digest("cluster", file)
            return cluster
        lines = tree.lines_below(path)
        cluster = parse_cluster(source, source=tree.source_of(path), diagnostics=diagnostics, lines=lines)
    except InputError as error:
        raise tree.located(error, path) from None
    tree.add_data_digest("cluster", cluster.name, source)
    return cluster
