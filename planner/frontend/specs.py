"""Specs of every kind: how they are read, what they share, and how a wrong one is explained.

A kind of problem is one file in planner/frontend/kinds with a pydantic model ``SPEC`` of its
sections and a function ``read(tree, diagnostics)`` that lowers a spec to a problem.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from planner.diagnostics import Diagnostics
from planner.errors import InputError, nearest, shown
from planner.frontend import quantities
from planner.frontend.spec_tree import Override, SpecTree, override, spec_from_file, spec_from_mapping
from planner.frontend.yaml_source import KeyPath
from planner.ir.objective import Budget
from planner.ir.problem import Problem, SearchOptions
from planner.registry import Registry

DEFAULT_KIND = "serving"

# What people call things elsewhere, for hints.
_OTHER_WORDS = {
    "isl": "input_tokens",
    "osl": "output_tokens",
    "input_len": "input_tokens",
    "output_len": "output_tokens",
    "qps": "rate",
    "rps": "rate",
    "request_rate": "rate",
    "itl": "tpot",
    "gpus": "devices",
    "slos": "slo",
    "timeout": "time_limit",
    "batch_size": "concurrency",
    "max_concurrency": "concurrency",
    "kv_cache": "kv",
    "kv_dtype": "kv",
    "weight": "weights",
    "quantization": "formats",
    "quantisation": "formats",
}


class KindReader(Protocol):
    """Lowers a spec of one kind."""

    def __call__(self, tree: SpecTree, diagnostics: Diagnostics) -> Problem[Any]:
        """Return the problem that a spec states."""
        ...


KINDS: Registry[KindReader] = Registry(what="kind", package="planner.frontend.kinds", attribute="read")
SPECS: Registry[type[BaseModel]] = Registry(what="kind", package="planner.frontend.kinds", attribute="SPEC")


class _RefusedError(ValueError):
    """Carries an InputError through pydantic, which only understands ValueError."""

    def __init__(self, error: InputError) -> None:
        self.error = error
        super().__init__(error.message)


def checked(parse: Callable[[object], object]) -> BeforeValidator:
    """Return a validator that reads a value with `parse`, whose InputError is kept whole."""

    def validate(value: object) -> object:
        try:
            return parse(value)
        except InputError as error:
            raise _RefusedError(error) from None

    return BeforeValidator(validate)


def as_list(value: object) -> object:
    """Return a list as it is, anything else as the only item of one."""
    return cast("list[object]", value) if isinstance(value, list) else [value]


def _as_goal(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


TimeS = Annotated[float, checked(quantities.time_s)]
RateRps = Annotated[float, checked(quantities.rate_rps)]
PowerW = Annotated[float, checked(quantities.power_w)]
Share = Annotated[float, checked(quantities.share)]
UsdPerHour = Annotated[float, checked(quantities.usd_per_hour)]
Percentile = Annotated[float, checked(quantities.percentile)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Words = Annotated[list[str], BeforeValidator(as_list)]
Text = Annotated[str, Field(min_length=1, max_length=1000)]


class Section(BaseModel):
    """A part of a spec: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ObjectiveSection(Section):
    """What counts. `robust` plans against that quantile of the cost model's error (0.5: the median)."""

    name: Text | None = None
    robust: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.5


class BudgetSection(Section):
    """What a plan may use at most."""

    devices: Count | None = None
    usd_per_hour: UsdPerHour | None = None
    power: PowerW | None = None

    def lowered(self) -> Budget:
        """Return the budget of the IR."""
        return Budget(num_devices=self.devices, usd_per_hour=self.usd_per_hour, power_w=self.power)


class SearchSection(Section):
    """How to search."""

    time_limit: TimeS = 60.0
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    alternatives: Annotated[int, Field(ge=0, le=50)] = 5
    refine: bool = False

    def lowered(self) -> SearchOptions:
        """Return the options of the IR."""
        return SearchOptions(
            time_limit_s=self.time_limit,
            seed=self.seed,
            num_workers=self.workers,
            num_alternatives=self.alternatives,
            refine=self.refine,
        )


class CommonSpec(Section):
    """What specs of every kind share; a kind's own model adds its sections."""

    kind: Text = DEFAULT_KIND
    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] | None = None
    objective: Annotated[ObjectiveSection, BeforeValidator(_as_goal)] = ObjectiveSection()
    budget: BudgetSection = BudgetSection()
    search: SearchSection = SearchSection()


def load_spec(source: str | Path | Mapping[str, object] | None, changes: Sequence[Override] = ()) -> SpecTree:
    """Return the spec in a file or mapping (or an empty one), with `changes` made to it.

    Raises
    ------
    InputError
        If it cannot be read, or is a plan.
    """
    if source is None:
        tree = spec_from_mapping({})
    elif isinstance(source, Mapping):
        tree = spec_from_mapping(source)
    else:
        tree = spec_from_file(Path(source))
    _refuse_plan(tree)
    override(tree, changes)
    if not tree.data:
        raise InputError(
            "the spec is empty", file=tree.file, hint="Give a spec file, or at least --model and --cluster."
        )
    name = Path(tree.file).name if tree.file else "arguments"
    tree.add_data_digest("spec", name, tree.data)
    return tree


def _refuse_plan(tree: SpecTree) -> None:
    """Refuse a plan given as a spec: it has keys of the same names with other things in them."""
    if not {"schema_version", "solver"} <= tree.data.keys():
        return
    inputs = tree.data.get("inputs")
    rows = cast("list[dict[str, object]]", inputs) if isinstance(inputs, list) else []
    names = [row.get("name") for row in rows if isinstance(row, dict) and row.get("role") == "spec"]  # pyright: ignore[reportUnnecessaryIsInstance] - unchecked data
    made_from = f", {shown(names[0])}" if names and isinstance(names[0], str) else ""
    raise tree.error(
        "this is a plan; a spec is expected",
        ("schema_version",),
        hint=f"Give the spec that the plan was made from{made_from}.",
    )


def read_problem(tree: SpecTree, diagnostics: Diagnostics) -> Problem[Any]:
    """Return the problem that a spec states.

    Raises
    ------
    InputError
        If anything in it is wrong; the message names file, line, key, value and what is allowed.
    """
    kind = tree.data.get("kind", DEFAULT_KIND)
    if not isinstance(kind, str):
        raise tree.error("must be a word", ("kind",), value=kind, allowed=", ".join(KINDS.names()))
    try:
        reader = KINDS.get(kind)
    except InputError as error:
        raise tree.located(error, ("kind",)) from None
    return reader(tree, diagnostics)


SpecT = TypeVar("SpecT", bound=BaseModel)


def validated(tree: SpecTree, model: type[SpecT]) -> SpecT:
    """Return the spec as its pydantic model.

    Raises
    ------
    InputError
        For the first thing that is wrong.
    """
    try:
        return model.model_validate(tree.data)
    except ValidationError as error:
        details = cast("list[dict[str, Any]]", error.errors(include_url=False))
        # A key that nobody knows explains the one that is missing: report it first.
        details.sort(key=lambda detail: detail["type"] != "extra_forbidden")
        raise _explained(tree, model, details[0]) from None


def _explained(tree: SpecTree, model: type[BaseModel], detail: dict[str, Any]) -> InputError:
    path: KeyPath = tuple(part for part in detail["loc"] if _is_key(part))
    context = detail.get("ctx", {})
    refused = context.get("error")
    if isinstance(refused, _RefusedError):
        return tree.located(refused.error, path)
    if detail["type"] == "extra_forbidden":
        return _unknown_key(tree, model, path)
    if detail["type"] == "missing":
        return tree.error("is missing", path, hint=_description(model, path))
    message = str(detail["msg"])
    message = message.removeprefix("Value error, ").replace("Input should", "should")
    return tree.error(message, path, value=detail["input"])


def _unknown_key(tree: SpecTree, model: type[BaseModel], path: KeyPath) -> InputError:
    section = _section_at(model, path[:-1])
    allowed = list(section.model_fields) if section is not None else []
    key = str(path[-1])
    close = _OTHER_WORDS.get(key.lower().replace("-", "_"))
    close = close if close in allowed else nearest(key, allowed)
    return tree.error(
        "unknown key",
        path,
        allowed=", ".join(allowed),
        hint=f"Did you mean {close!r}?" if close else None,
    )


def _is_key(part: object) -> bool:
    """Return whether a part of a pydantic location is a key of the spec and not the name of a validator."""
    return isinstance(part, int) or (isinstance(part, str) and "[" not in part and part.islower())


def _section_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """Return the section that a path leads to."""
    here: type[BaseModel] | None = model
    for part in path:
        if isinstance(part, int):
            continue
        info = here.model_fields.get(part) if here is not None else None
        here = _section_in(info.annotation) if info is not None else None
    return here


def _section_in(annotation: object) -> type[BaseModel] | None:
    """Return the section inside an annotation such as ``list[X] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in {Union, types.UnionType, list, Annotated}:
        return next((found for arg in get_args(annotation) if (found := _section_in(arg))), None)
    return None


def _description(model: type[BaseModel], path: KeyPath) -> str | None:
    section = _section_at(model, path[:-1])
    info: FieldInfo | None = section.model_fields.get(str(path[-1])) if section is not None else None
    return info.description if info is not None else None
