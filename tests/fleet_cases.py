"""Small fleets of the tests: stated stages, whose optimum can be worked out by hand, and one small model."""

from __future__ import annotations

from planner.diagnostics import Diagnostics
from planner.frontend.spec_tree import spec_from_mapping
from planner.frontend.specs import read_problem
from planner.ir.fleet import FleetProblem
from planner.ir.problem import Problem

INVENTORY = {
    "groups": [
        {
            "name": "big",
            "device": "h100",
            "nodes": 4,
            "price": 3.0,
            "levels": [
                {"level": "domain", "devices": 8, "link": "nvlink4"},
                {"level": "rack", "nodes": 2, "link": "ib400"},
                {"level": "pod", "link": "ib400", "oversubscription": 2},
            ],
        },
        {
            "name": "cheap",
            "device": "l40s",
            "nodes": 2,
            "price": 1.0,
            "levels": [
                {"level": "node", "devices": 8, "link": "pcie4"},
                {"level": "rack", "nodes": 2, "link": "roce200"},
            ],
        },
    ],
    "between_groups": "roce200",
}
CHAT = {
    "name": "chat",
    "model": "llama-3.2-1b",
    "workload": {"input_tokens": 1000, "output_tokens": 200},
    "slo": {"ttft": "1s", "tpot": "20ms", "percentile": "p90"},
    "rate": 40,
    "replica_devices": 2,
}


def stage(name: str, rate: float, **stated: float) -> dict[str, object]:
    """A stage with stated rates per device kind, e.g. ``h100=100``."""
    return {"name": name, "rate": rate, "stated": {kind: {"rate": value} for kind, value in stated.items()}}


def spec(*models: dict[str, object], **keys: object) -> dict[str, object]:
    return {"kind": "fleet", "cluster": INVENTORY, "models": list(models), **keys}


def fleet(*models: dict[str, object], **keys: object) -> Problem[FleetProblem]:
    return read_problem(spec_from_mapping(spec(*models, **keys)), Diagnostics())
