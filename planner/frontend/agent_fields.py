"""Typed access to a mapping of a document: every wrong key or value is an error with its line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from planner.errors import InputError, nearest
from planner.frontend.yaml_source import Document, KeyPath, dotted
from planner.ir.agent_graph import Latency, Tokens

W = TypeVar("W", bound=str)
_MISSING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """A value of a document and where it stands."""

    data: object
    path: KeyPath
    lines: dict[KeyPath, int]
    file: str

    @staticmethod
    def at(document: Document, path: KeyPath, *, file: str) -> Fields:
        """Return the mapping at `path`.

        Raises
        ------
        InputError
            If no mapping stands there.
        """
        data = document.data
        for part in path:
            data = cast("dict[str | int, object]", data)[part]
        fields = Fields(data=data, path=path, lines=document.lines, file=file)
        fields.mapping()
        return fields

    def error(self, message: str, *, key: str | None = None, **details: object) -> InputError:
        """Return an error at this value, or at one of its keys."""
        path = self.path if key is None else (*self.path, key)
        line = self.lines.get(path) or self.lines.get(self.path)
        value = details.get("value", ...)
        allowed, hint = cast("str | None", details.get("allowed")), cast("str | None", details.get("hint"))
        return InputError(
            message,
            file=self.file,
            line=line,
            key=dotted(path) or None,
            value=value,
            allowed=allowed,
            hint=hint,
        )

    def mapping(self) -> dict[str, object]:
        """Return the mapping that this value is."""
        if not isinstance(self.data, dict):
            raise self.error("a mapping is expected here", value=self.data)
        return cast("dict[str, object]", self.data)

    @property
    def is_text(self) -> bool:
        """Whether the value is one word or line."""
        return isinstance(self.data, str)

    def own_text(self) -> str:
        """Return the value as text."""
        return str(self.data)

    def only(self, keys: Sequence[str]) -> None:
        """Refuse any other key."""
        for key in self.mapping():
            if key not in keys:
                close = nearest(key, keys)
                raise self.error(
                    "unknown key",
                    key=key,
                    allowed=", ".join(keys),
                    hint=f"Did you mean {close!r}?" if close else None,
                )

    def has(self, key: str) -> bool:
        """Whether the key is there with a value."""
        return self.mapping().get(key) is not None

    def child(self, key: str) -> Fields:
        """Return the value under a key that must be there."""
        value = self.mapping().get(key, _MISSING)
        if value is _MISSING:
            raise self.error(f"{key} is missing")
        return Fields(data=value, path=(*self.path, key), lines=self.lines, file=self.file)

    def children(self, key: str) -> Iterator[tuple[str, Fields]]:
        """Yield the named mappings under a key; none if the key is absent."""
        if not self.has(key):
            return
        inner = self.child(key)
        for name, value in inner.mapping().items():
            part = Fields(data=value, path=(*inner.path, name), lines=self.lines, file=self.file)
            part.mapping()
            yield name, part

    def rows(self, key: str) -> Iterator[Fields]:
        """Yield the entries of a list under a key; none if the key is absent."""
        if not self.has(key):
            return
        value = self.mapping()[key]
        if not isinstance(value, list):
            raise self.error("a list is expected here", key=key, value=value)
        for i, item in enumerate(cast("list[object]", value)):
            part = Fields(data=item, path=(*self.path, key, i), lines=self.lines, file=self.file)
            if not part.is_text:
                part.mapping()
            yield part

    def text(self, key: str, default: str | None = None) -> str:
        """Return a word or line."""
        value = self.mapping().get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.error("a word is expected", key=key, value=value)
        return str(value)

    def words(self, key: str, allowed: Sequence[str] | None = None) -> list[str]:
        """Return a list of words (or the one word); empty if the key is absent."""
        if not self.has(key):
            return []
        value = self.mapping()[key]
        items = cast("list[object]", value) if isinstance(value, list) else [value]
        for item in items:
            if not isinstance(item, str) or (allowed is not None and item not in allowed):
                raise self.error(
                    "not one of the words known here", key=key, value=item, allowed=", ".join(allowed or ())
                )
        return [str(item) for item in items]

    def choice(self, key: str, allowed: Sequence[W], default: W) -> W:
        """Return one of the allowed words."""
        value = self.mapping().get(key)
        if value is None:
            return default
        for word in allowed:
            if value == word:
                return word
        close = nearest(str(value), allowed)
        raise self.error(
            "unknown word",
            key=key,
            value=value,
            allowed=", ".join(allowed),
            hint=f"Did you mean {close!r}?" if close else None,
        )

    def number(self, key: str, *, least: float | None = None, above: float | None = None) -> float | None:
        """Return a finite number within its limits, None if the key is absent."""
        value = self.mapping().get(key)
        if value is None:
            return None
        fits = not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < 1e15
        if not fits or not math.isfinite(cast("float", value)):
            raise self.error("not a number", key=key, value=value)
        number = float(cast("float", value))
        if (least is not None and number < least) or (above is not None and number <= above):
            limit = f"at least {least:g}" if least is not None else f"more than {above:g}"
            raise self.error("out of range", key=key, value=value, allowed=limit)
        return number

    def required(self, key: str, *, least: float | None = None, above: float | None = None) -> float:
        """Return a number that must be there."""
        value = self.number(key, least=least, above=above)
        if value is None:
            raise self.error(f"{key} is missing")
        return value

    def count(self, key: str, *, least: int = 1) -> int | None:
        """Return a whole number of at least `least`, None if the key is absent."""
        value = self.mapping().get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 10**9:
            raise self.error("not a whole number in range", key=key, value=value, allowed=f"{least} or more")
        return value

    def whole(self, key: str) -> int:
        """Return a whole number of either sign, 0 if the key is absent."""
        value = self.mapping().get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 10**9:
            raise self.error("not a whole number in range", key=key, value=value, allowed="within 10^9 of 0")
        return value

    def flag(self, key: str) -> bool:
        """Return a yes or no; no if the key is absent."""
        value = self.mapping().get(key, False)
        if not isinstance(value, bool):
            raise self.error("true or false is expected", key=key, value=value)
        return value

    def tokens(self, key: str) -> Tokens | None:
        """Return a number of tokens: a number, or {mean, sigma_log, limit, guessed}."""
        if not self.has(key):
            return None
        if not isinstance(self.mapping()[key], dict):
            return Tokens(mean=self.required(key, least=0.0))
        inner = self.child(key)
        inner.only(("mean", "sigma_log", "limit", "guessed"))
        return Tokens(
            mean=inner.required("mean", least=0.0),
            sigma_log=inner.number("sigma_log", least=0.0) or 0.0,
            limit=inner.count("limit"),
            guessed=inner.flag("guessed"),
        )

    def latency(self, key: str) -> Latency | None:
        """Return a duration: seconds, or {mean_s, sigma_log, guessed}."""
        if not self.has(key):
            return None
        if not isinstance(self.mapping()[key], dict):
            return Latency(mean_s=self.required(key, least=0.0))
        inner = self.child(key)
        inner.only(("mean_s", "sigma_log", "guessed"))
        return Latency(
            mean_s=inner.required("mean_s", least=0.0),
            sigma_log=inner.number("sigma_log", least=0.0) or 0.0,
            guessed=inner.flag("guessed"),
        )
