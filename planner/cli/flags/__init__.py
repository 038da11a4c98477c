"""Flags that stand for keys of a spec, one file of them per kind of problem; light to import.

``newel plan --model m.json --isl 4000`` and a spec with ``model: m.json`` and
``workload: {input_tokens: 4000}`` are the same thing: a flag is a path of keys and no more.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from planner.errors import InputError
from planner.registry import Registry

if TYPE_CHECKING:
    from planner.frontend.spec_tree import Override

DEFAULT_KIND = "serving"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag: its name without dashes, the path of keys that it sets, how its text is read.

    yaml: a number, word or flow mapping; text: as it is; list: repeatable, commas separate;
    pairs: repeatable ``key=value``, commas separate.
    """

    name: str
    keys: tuple[str, ...]
    help: str
    form: Literal["yaml", "text", "list", "pairs"] = "yaml"

    @property
    def parameter(self) -> str:
        """Name of the parameter that receives the flag."""
        return f"flag_{self.name.replace('-', '_')}"


FLAG_SETS: Registry[tuple[Flag, ...]] = Registry(what="kind", package="planner.cli.flags", attribute="FLAGS")

COMMON_FLAGS = (
    Flag(name="kind", keys=("kind",), help="Kind of problem (default: serving).", form="text"),
    Flag(name="name", keys=("name",), help="Name of the plan.", form="text"),
    Flag(name="objective", keys=("objective", "name"), help="What counts, e.g. min_cost, max_throughput."),
    Flag(
        name="robust", keys=("objective", "robust"), help="Plan against this quantile of the model's error."
    ),
    Flag(name="budget-devices", keys=("budget", "devices"), help="Most devices to use."),
    Flag(name="budget-usd-per-hour", keys=("budget", "usd_per_hour"), help="Most money per hour, USD."),
    Flag(name="budget-power", keys=("budget", "power"), help="Most power, e.g. 10kW."),
    Flag(name="time-limit", keys=("search", "time_limit"), help="Longest search, e.g. 60s."),
    Flag(name="seed", keys=("search", "seed"), help="Seed of the search."),
    Flag(name="workers", keys=("search", "workers"), help="Threads of the search."),
    Flag(name="alternatives", keys=("search", "alternatives"), help="How many runners-up to list."),
)


def spec_flags() -> tuple[Flag, ...]:
    """Return every flag of every kind, each name once."""
    found: dict[str, Flag] = {flag.name: flag for flag in COMMON_FLAGS}
    for _, flags in FLAG_SETS.items():
        for flag in flags:
            found.setdefault(flag.name, flag)
    return tuple(found.values())


def with_spec_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command with an option per flag; what was given arrives as its parameter `flags`."""
    flags = spec_flags()
    signature = inspect.signature(command, eval_str=True)

    @wraps(command)
    def wrapper(**arguments: Any) -> Any:
        given = {flag.name: arguments.pop(flag.parameter) for flag in flags}
        return command(
            flags={n: value for n, value in given.items() if value is not None and value != []}, **arguments
        )

    own = [p for name, p in signature.parameters.items() if name != "flags"]
    added = [_parameter(flag) for flag in flags]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *added)]
    wrapper.__dict__["__signature__"] = signature.replace(parameters=parameters)
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def overrides(flags: Mapping[str, str | list[str]], kind: str) -> list[Override]:
    """Return the changes to a spec of `kind` that flags stand for.

    Raises
    ------
    InputError
        If a flag is none of this kind's, or its text cannot be read.
    """
    from planner.frontend.spec_tree import Override

    own = {flag.name: flag for flag in (*COMMON_FLAGS, *FLAG_SETS.get(kind))}
    changes: list[Override] = []
    for name, value in flags.items():
        flag = own.get(name)
        if flag is None:
            raise InputError(f"is no option of kind {kind}", key=f"--{name}", value=value)
        try:
            changes.append(Override(path=flag.keys, value=_value(flag, value), origin=f"--{name}"))
        except InputError as error:
            raise InputError(error.message, key=f"--{name}", value=value, allowed=error.allowed) from None
    return changes


def parse_pairs(text: str, option: str) -> dict[str, object]:
    """Return the choices in a text such as ``tp=8,weights=bf16``.

    Raises
    ------
    InputError
        If it is not of that form.
    """
    try:
        return dict(_pair(part.strip()) for part in text.split(","))
    except InputError as error:
        raise InputError(error.message, key=option, value=text, allowed=error.allowed) from None


def _parameter(flag: Flag) -> inspect.Parameter:
    kind: Any = list[str] if flag.form in {"list", "pairs"} else str
    option: Any = typer.Option(f"--{flag.name}", help=flag.help, show_default=False)
    annotation: Any = Annotated[kind | None, option]
    return inspect.Parameter(
        flag.parameter, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _value(flag: Flag, value: str | list[str]) -> object:
    from planner.frontend.yaml_source import parse_document, parse_scalar

    if not "".join(value).strip():
        raise InputError("has no value")
    if isinstance(value, list):
        parts = [part.strip() for text in value for part in text.split(",") if part.strip()]
        return parts if flag.form == "list" else dict(_pair(part) for part in parts)
    if flag.form == "text":
        return value
    if value.lstrip().startswith(("{", "[")):
        return parse_document(value, file=f"--{flag.name}").data
    return parse_scalar(value)


def _pair(text: str) -> tuple[str, object]:
    from planner.frontend.yaml_source import parse_scalar

    key, mark, value = text.partition("=")
    if not mark or not key.strip() or not value.strip():
        raise InputError("not a pair", allowed="key=value, e.g. tp=8,pp=2")
    return key.strip(), parse_scalar(value)
