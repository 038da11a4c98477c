"""An exported launch as it stands in its files, read back so that rules can be held against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from planner.errors import InputError

Takes = Literal["int", "fraction", "text", "switch", "json"]
Rule = Callable[["Launch"], Iterator[tuple[str, str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A value that the launching shell or pod fills in: the variable `name`, then the text `suffix`."""

    name: str
    suffix: str = ""

    def then(self, suffix: str) -> Reference:
        """Return this reference followed by `suffix`."""
        return Reference(name=self.name, suffix=self.suffix + suffix)


Argument = str | int | float | bool | dict[str, str] | dict[str, int] | Reference


def command_words(arguments: Mapping[str, Argument], *, bare: str = "") -> list[str | Reference]:
    """Return arguments as words of a command line; the flag `bare` comes first and without its name."""
    import json

    words: list[str | Reference] = []
    if bare in arguments:
        words.append(str(arguments[bare]))
    for flag, value in arguments.items():
        if flag == bare or value is False:
            continue
        words.append(f"--{flag}")
        if isinstance(value, dict):
            words.append(json.dumps(value, sort_keys=True))
        elif isinstance(value, Reference):
            words.append(value)
        elif value is not True:
            words.append(str(value))
    return words


def safe_text(value: str, key: str) -> str:
    """Return `value` if it can be an argument: no leading dash, no control character.

    Raises
    ------
    InputError
        If an engine would take it for a flag, or a file could not hold it on one line.
    """
    if not value or value.startswith("-") or any(not c.isprintable() for c in value):
        raise InputError(
            "this cannot be passed to a command",
            key=key,
            value=value,
            allowed="printable text that does not begin with a dash",
        )
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One start of an engine: flags without dashes (True for a switch), environment, devices it may see.

    `file` is the exported file it stands in. A value the launching shell fills in is given as "".
    """

    file: str
    arguments: Mapping[str, object]
    environment: Mapping[str, str]
    num_devices: int

    def count(self, flag: str, default: int = 1) -> int:
        """Return the value of a flag that holds a count, `default` where it is absent or filled in later."""
        value = self.arguments.get(flag, default)
        return int(cast("Any", value)) if value != "" else default


def hold(launch: Launch, rules: Iterable[Rule]) -> None:
    """Hold a launch against rules.

    Raises
    ------
    InputError
        Naming the file, the flag and what is wrong with it.
    """
    for rule in rules:
        for flag, message in rule(launch):
            raise InputError(
                message, file=launch.file, key=flag, value=launch.arguments.get(flag, launch.environment)
            )


def parse_words(words: list[str], flags: Mapping[str, Takes]) -> dict[str, object]:
    """Return the words after an engine's command as flags and values (True for a switch).

    A bare first word is the model.
    """
    bare = bool(words) and not words[0].startswith("--")
    found: dict[str, object] = {"model": words[0]} if bare else {}
    position = int(bare)
    while position < len(words):
        flag = words[position].removeprefix("--")
        if flags.get(flag) == "switch":
            found[flag], position = True, position + 1
        else:
            found[flag] = words[position + 1] if position + 1 < len(words) else ""
            position += 2
    return found


def known_flags(engine: str, flags: Iterable[str], environment: Iterable[str]) -> Rule:
    """Return the rule that `engine` knows every flag and every variable of the environment."""
    names, variables = frozenset(flags), frozenset(environment)

    def rule(launch: Launch) -> Iterator[tuple[str, str]]:
        for flag in launch.arguments:
            if flag not in names:
                yield flag, f"{engine} has no such flag that we know"
        for name in launch.environment:
            if name not in variables:
                yield name, f"an environment variable that {engine} does not read"

    return rule


_TAKES: dict[str, Callable[[object], bool]] = {
    "int": lambda v: str(v).isdigit(),
    "fraction": lambda v: 0 < float(cast("Any", v)) <= 1,
    "switch": lambda v: v is True,
    "text": lambda v: bool(str(v)) and not str(v).startswith("-"),
    "json": lambda v: isinstance(v, Mapping | str),
}


def known_values(flags: Mapping[str, Takes], choices: Mapping[str, frozenset[str]]) -> Rule:
    """Return the rule that every value is of the kind its flag takes and among its choices."""

    def rule(launch: Launch) -> Iterator[tuple[str, str]]:
        for flag, value in launch.arguments.items():
            if value == "" or flag not in flags:
                continue
            if not _TAKES[flags[flag]](value):
                yield flag, f"the value must be of the kind {flags[flag]}"
            elif flag in choices and str(value) not in choices[flag]:
                yield flag, f"the value must be one of {', '.join(sorted(choices[flag]))}"

    return rule


def visible_devices(launch: Launch) -> Iterator[tuple[str, str]]:
    """Every process sees as many different devices as it has ranks."""
    visible = launch.environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        indexes = visible.split(",")
        if len(set(indexes)) != len(indexes) or len(indexes) != launch.num_devices:
            yield "CUDA_VISIBLE_DEVICES", f"the launch needs {launch.num_devices} different devices"


def layer_partition(variable: str, stages_flag: str) -> Rule:
    """Return the rule that the layers per stage in the environment `variable` are one number per stage."""

    def rule(launch: Launch) -> Iterator[tuple[str, str]]:
        text = launch.environment.get(variable)
        if text is None:
            return
        parts = text.split(",")
        if len(parts) != launch.count(stages_flag) or not all(p.isdigit() and int(p) for p in parts):
            yield variable, "there must be one positive number per stage"

    return rule
