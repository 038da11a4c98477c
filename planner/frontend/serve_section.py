"""The section ``serve`` of a graph's spec: where its models are served, and how often runs begin."""

from __future__ import annotations

from typing import cast

from planner.frontend.spec_tree import SpecTree

_KEYS = ("cluster", "rate", "objective", "percentile", "models", "ttft", "tpot")


def serve_section(tree: SpecTree) -> dict[str, object]:
    """Return the section, with its keys checked but not its values.

    Raises
    ------
    InputError
        If the section, or a key that it needs, is missing, or a key is unknown or follows from the graph.
    """
    section = tree.data.get("serve")
    if not isinstance(section, dict):
        raise tree.error(
            "is missing", ("serve",), hint="Say where the models are served: serve: {cluster: ...}."
        )
    found = cast("dict[str, object]", section)
    for key in found:
        if key not in _KEYS:
            raise tree.error("unknown key", ("serve", str(key)), allowed=", ".join(_KEYS))
    for key in ("cluster", "rate", "models"):
        if key not in found:
            raise tree.error("is missing", ("serve", key))
    models = found["models"]
    if not isinstance(models, dict) or not models:
        raise tree.error("a mapping of models is expected", ("serve", "models"))
    for name, entry in cast("dict[object, object]", models).items():
        if not isinstance(entry, dict):
            raise tree.error(
                "a mapping is expected, as a model of a fleet", ("serve", "models", str(name)), value=entry
            )
        inside = [key for key in ("name", "workload", "slo", "rate", "variants") if key in entry]
        if inside:
            raise tree.error("follows from the graph", ("serve", "models", str(name), inside[0]))
    return found
