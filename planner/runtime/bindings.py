"""What a run is connected to: an endpoint per model, a program per tool, predicates of branches.

The same things are written as a mapping (a file of endpoints) or made in Python.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from planner.errors import InputError, nearest

ANY_MODEL = "*"
Hints = Literal["", "dynamo", "vllm", "sglang"]
HINTS: tuple[Hints, ...] = ("", "dynamo", "vllm", "sglang")
Continuation = Literal["turns", "prefill"]
Routes = Literal["strict", "sample"]
_URL_STARTS = ("http://", "https://")
_MAX_SECONDS = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where calls to a model go: an OpenAI-compatible server, or several that serve the same.

    Parameters
    ----------
    urls
        Base addresses up to and with ``/v1``.
    model
        Name that the server knows the model by; empty: the plan's name.
    concurrency, calls_per_minute, tokens_per_minute
        Limits over all runs of a runtime; None: what the plan says.
    connect_s, first_token_s, stall_s
        Longest wait in seconds for a connection, for the first and for the next piece of an answer.
    num_retries, backoff_s, max_backoff_s
        Attempts after the first, and the seconds between them, which double.
    hints
        ``dynamo`` sends priority and expected output length the way NVIDIA Dynamo takes them; ``vllm`` and
        ``sglang`` send `priority`, of which vLLM serves smaller and SGLang larger numbers first.
    continuation
        How a half-written answer goes on: as a further turn, or as a prefilled assistant message
        (``continue_final_message``, which vLLM and SGLang know).
    stream
        Whether answers are asked for piece by piece.
    """

    urls: tuple[str, ...]
    model: str = ""
    api_key: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Mapping[str, object] = field(default_factory=dict[str, object])
    concurrency: int | None = None
    calls_per_minute: int | None = None
    tokens_per_minute: int | None = None
    connect_s: float = 10.0
    first_token_s: float = 300.0
    stall_s: float = 60.0
    num_retries: int = 5
    backoff_s: float = 0.5
    max_backoff_s: float = 30.0
    hints: Hints = ""
    continuation: Continuation = "turns"
    stream: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRequest:
    """What a tool is asked: its arguments, the run's input, and what each producer wrote, by node."""

    tool: str
    node: str
    arguments: str
    input: str
    inputs: Mapping[str, str]


ToolFunction = Callable[[ToolRequest], str | Awaitable[str]]
Predicate = Callable[[str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolBinding:
    """How a tool runs: a function, a command (no shell) or an address; cut after `timeout_s` seconds."""

    function: ToolFunction | None = None
    command: tuple[str, ...] = ()
    url: str = ""
    timeout_s: float = 60.0
    num_retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bindings:
    """Endpoints by model, tools by name, predicates by ``source -> target``.

    `routes` says what happens at a branch that has probabilities but no predicate: strict refuses the plan,
    sample draws.
    """

    endpoints: Mapping[str, Endpoint] = field(default_factory=dict[str, Endpoint])
    tools: Mapping[str, ToolBinding] = field(default_factory=dict[str, ToolBinding])
    predicates: Mapping[str, Predicate] = field(default_factory=dict[str, Predicate])
    routes: Routes = "strict"

    def endpoint(self, model: str) -> Endpoint | None:
        """Return the endpoint of a model, that of any model, or None."""
        return self.endpoints.get(model) or self.endpoints.get(ANY_MODEL)


def bindings_of(data: object) -> Bindings:
    """Return the bindings that plain data states.

    Raises
    ------
    InputError
        If anything in it is wrong; the key is named.
    """
    top = _Reader(data, "")
    top.only("endpoints", "tools", "routes")
    endpoints = {name: _endpoint(top.inner("endpoints", name)) for name in top.names("endpoints")}
    tools = {name: _tool(top.inner("tools", name)) for name in top.names("tools")}
    return Bindings(
        endpoints=endpoints,
        tools=tools,
        routes=cast("Routes", top.word("routes", ("strict", "sample"))),
    )


def endpoint_of(data: object, key: str = "endpoint") -> Endpoint:
    """Return the endpoint that an address or a mapping states.

    Raises
    ------
    InputError
        If anything in it is wrong.
    """
    return _endpoint(_Reader(data, key))


def tool_of(data: object, key: str = "tool") -> ToolBinding:
    """Return the binding that a function, a binding or a mapping states.

    Raises
    ------
    InputError
        If anything in it is wrong.
    """
    if isinstance(data, ToolBinding):
        return data
    return ToolBinding(function=cast("ToolFunction", data)) if callable(data) else _tool(_Reader(data, key))


class _Reader:
    """Plain data at a key."""

    def __init__(self, data: object, key: str) -> None:
        self.key = key
        self.data = {"url": data} if isinstance(data, str) and key else data
        if not isinstance(self.data, Mapping):
            raise InputError("a mapping is expected here", key=key or None, value=data)
        self.fields = cast("Mapping[str, object]", self.data)

    def error(self, name: str, message: str, **more: Any) -> InputError:
        key = f"{self.key}.{name}" if self.key else name
        return InputError(message, key=key, value=self.fields.get(name, ...), **more)

    def only(self, *names: str) -> None:
        for name in self.fields:
            if name not in names:
                close = nearest(str(name), names)
                hint = f"Did you mean {close!r}?" if close else None
                raise self.error(str(name), "unknown key", allowed=", ".join(names), hint=hint)

    def names(self, name: str) -> list[str]:
        value: object = self.fields.get(name) or dict[str, object]()
        if not isinstance(value, Mapping):
            raise self.error(name, "a mapping of names is expected")
        return [str(key) for key in cast("Mapping[object, object]", value)]

    def inner(self, name: str, child: str) -> _Reader:
        return _Reader(cast("Mapping[str, object]", self.fields[name])[child], f"{name}.{child}")

    def text(self, name: str) -> str:
        value = self.fields.get(name, "")
        if not isinstance(value, str):
            raise self.error(name, "a text is expected")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.fields.get(name, ())
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(i, str) and i for i in items):  # pyright: ignore[reportUnknownVariableType] - plain data
            raise self.error(name, "a text or a list of texts is expected")
        return tuple(cast("list[str]", items))

    def word(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self.fields.get(name, allowed[0])
        if value not in allowed:
            raise self.error(name, "unknown word", allowed=", ".join(a for a in allowed if a))
        return str(value)

    def seconds(self, name: str, default: float) -> float:
        value = self.fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MAX_SECONDS:
            raise self.error(name, "seconds are expected", allowed=f"more than 0, up to {_MAX_SECONDS:g}")
        return float(value)

    def count(self, name: str, default: int | None, least: int = 1) -> int | None:
        value = self.fields.get(name, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 10**6:
            raise self.error(name, "not a whole number in range", allowed=f"{least} to 1000000")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.fields.get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false is expected")
        return value

    def mapping(self, name: str) -> dict[str, object]:
        value = self.fields.get(name, {})
        if not isinstance(value, Mapping):
            raise self.error(name, "a mapping is expected")
        return {str(k): v for k, v in cast("Mapping[object, object]", value).items()}

    def urls(self, name: str) -> tuple[str, ...]:
        urls = tuple(url.rstrip("/") for url in self.texts(name))
        for url in urls:
            if not url.startswith(_URL_STARTS) or any(c.isspace() for c in url):
                raise self.error(name, "not an address", allowed="http://... or https://...")
        return urls


def _endpoint(reader: _Reader) -> Endpoint:
    reader.only(
        *("url", "model", "api_key_env", "headers", "body", "concurrency", "calls_per_minute"),
        "tokens_per_minute",
        *("connect_s", "first_token_s", "stall_s", "retries", "backoff_s", "max_backoff_s"),
        *("hints", "continuation", "stream"),
    )
    urls = reader.urls("url")
    if not urls:
        raise reader.error("url", "url is missing", hint="Name the server: url: http://127.0.0.1:8000/v1")
    headers = reader.mapping("headers")
    for value in headers.values():
        if not isinstance(value, str) or any(ord(c) < 32 for c in value):
            raise reader.error("headers", "a header is one line of text")
    return Endpoint(
        urls=urls,
        model=reader.text("model"),
        api_key=_api_key(reader),
        headers=cast("dict[str, str]", headers),
        body=reader.mapping("body"),
        concurrency=reader.count("concurrency", None),
        calls_per_minute=reader.count("calls_per_minute", None),
        tokens_per_minute=reader.count("tokens_per_minute", None),
        connect_s=reader.seconds("connect_s", 10.0),
        first_token_s=reader.seconds("first_token_s", 300.0),
        stall_s=reader.seconds("stall_s", 60.0),
        num_retries=reader.count("retries", 5, least=0) or 0,
        backoff_s=reader.seconds("backoff_s", 0.5),
        max_backoff_s=reader.seconds("max_backoff_s", 30.0),
        hints=cast("Hints", reader.word("hints", HINTS)),
        continuation=cast("Continuation", reader.word("continuation", ("turns", "prefill"))),
        stream=reader.flag("stream", default=True),
    )


def _api_key(reader: _Reader) -> str:
    name = reader.text("api_key_env")
    if name and name not in os.environ:
        raise reader.error("api_key_env", "there is no such environment variable")
    return os.environ[name] if name else ""


def _tool(reader: _Reader) -> ToolBinding:
    reader.only("python", "command", "url", "timeout_s", "retries")
    stated = [name for name in ("python", "command", "url") if reader.fields.get(name)]
    if len(stated) != 1:
        raise InputError(
            "a tool is one of python, command and url", key=reader.key, value=stated or dict(reader.fields)
        )
    url = reader.urls("url")
    python = reader.text("python")
    return ToolBinding(
        function=_function(reader, python) if python else None,
        command=reader.texts("command"),
        url=url[0] if url else "",
        timeout_s=reader.seconds("timeout_s", 60.0),
        num_retries=reader.count("retries", 0, least=0) or 0,
    )


def _function(reader: _Reader, text: str) -> ToolFunction:
    """Return the function that ``module:function`` names."""
    from importlib import import_module

    module_name, mark, name = text.partition(":")
    if not mark or not all(part.isidentifier() for part in (*module_name.split("."), *name.split("."))):
        raise reader.error("python", "not a function", allowed="module:function")
    try:
        found: object = import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise reader.error("python", f"cannot be loaded ({type(error).__name__}: {error})") from error
    if not callable(found):
        raise reader.error("python", "not a function")
    return cast("ToolFunction", found)
