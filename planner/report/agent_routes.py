"""Sentences on drafts of models, on routes that many runs take, and on what is busy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from planner.plan.schema import Plan
from planner.report.figures import figure, percent

_MAX_SHOWN = 8
_LEAST_SHARE = 0.005


def _rows(plan: Plan, key: str) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", plan.details.get(key) or [])


def draft_facts(plan: Plan) -> Iterator[str]:
    """Yield which models write with a draft, of how many tokens, and what that makes of their speed."""
    rows = cast("dict[str, dict[str, Any]]", plan.details.get("drafts") or {})
    for model, row in sorted(rows.items()):
        yield (
            f"{model} writes with the draft {row['draft']}, {row['tokens']} tokens ahead: "
            f"{figure(float(row['decode_s_per_token']), 's')} per token."
        )


def route_facts(plan: Plan) -> Iterator[str]:
    """Yield which calls differ between routes, how busy each shared thing is and what more is worth."""
    routes = [r for r in _rows(plan, "routes") if float(r["share"]) >= _LEAST_SHARE]
    models = [{str(c["name"]): str(c.get("model", "")) for c in route["calls"]} for route in routes]
    if len(routes) > 1:
        differing = [name for name in models[0] if len({m[name] for m in models}) > 1]
        for route, chosen in list(zip(routes, models, strict=True))[:_MAX_SHOWN]:
            shown = ", ".join(f"{name} on {chosen[name]}" for name in differing[:_MAX_SHOWN])
            more = len(differing) - _MAX_SHOWN
            shown += f" and {more} more" if more > 0 else ""
            yield f"{percent(float(route['share']))} of the runs: {shown or 'other streams'}."
    busy = [(float(r["used_per_s"]) / float(r["capacity_per_s"]), r) for r in _rows(plan, "load")]
    for share, row in sorted(busy, key=lambda pair: (-pair[0], str(pair[1]["resource"])))[:_MAX_SHOWN]:
        price = float(row["price"])
        one = "one more" if str(row["resource"]).startswith(("slots", "tool")) else "one more per second"
        worth = f"; {one} would be worth {figure(price, '1/s')}" if price > 0.0 else ""
        yield f"{row['resource']}: busy for {percent(share)}{worth}."
