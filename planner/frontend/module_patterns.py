"""Which modules of a checkpoint a list of names, globs and regular expressions means.

Names of modules carry different prefixes in different releases (``model.layers.3``,
``language_model.model.layers.3``, ``backbone.layers.3``); both sides are compared from
``layers`` on. The lists are untrusted: expressions that could run long are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from planner.errors import InputError

_TEXT_PREFIX = re.compile(r"^(?:(?:model|language_model|backbone|transformer|decoder|text_model|llm)\.)+")
_FULL_PREFIXES = ("", "model.", "language_model.model.", "model.language_model.", "backbone.")
_MAX_WILDCARDS = 4
_MAX_GLOBS = 8192
_MAX_EXPRESSIONS = 64
_MAX_CHARS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ModulePatterns:
    """A set of module names given exactly, by glob and by regular expression."""

    exact: frozenset[str]
    globs: re.Pattern[str] | None
    expressions: tuple[re.Pattern[str], ...]

    def matches(self, name: str) -> bool:
        """Return whether `name` or a module that contains it is meant.

        An exact entry may name any run of components, so ``gate`` means every module called gate
        and ``mlp.gate`` every gate of an mlp, but neither means ``gate_proj``.
        """
        parts = name.split(".")
        runs = (".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1))
        if self.exact and any(run in self.exact for run in runs):
            return True
        globs = self.globs
        if globs is not None and any(globs.fullmatch(".".join(parts[:j])) for j in range(1, len(parts) + 1)):
            return True
        return any(
            expression.match(prefix + name) for expression in self.expressions for prefix in _FULL_PREFIXES
        )


NO_MODULES = ModulePatterns(exact=frozenset(), globs=None, expressions=())


def short_name(name: str) -> str:
    """Return a module name without the prefixes that differ between releases."""
    return _TEXT_PREFIX.sub("", name)


def module_patterns(entries: Iterable[str], *, file: str, key: str) -> ModulePatterns:
    """Return the patterns for a list as found in a config; ``re:`` marks an expression.

    Raises
    ------
    InputError
        If an expression is malformed or could take very long.
    """
    exact: set[str] = set()
    globs: list[str] = []
    expressions: list[re.Pattern[str]] = []
    for entry in entries:
        if len(entry) > _MAX_CHARS:
            raise InputError("holds a name that is too long", file=file, key=key, value=entry)
        if entry.startswith("re:"):
            expressions.append(_compiled(entry[3:], file=file, key=key))
        elif "*" in entry:
            if entry.count("*") > _MAX_WILDCARDS:
                raise InputError("holds a glob with too many wildcards", file=file, key=key, value=entry)
            globs.append(".*".join(re.escape(part) for part in short_name(entry).split("*")))
        else:
            exact.add(short_name(entry))
    if len(globs) > _MAX_GLOBS or len(expressions) > _MAX_EXPRESSIONS:
        raise InputError("holds too many patterns", file=file, key=key, value=len(globs) + len(expressions))
    return ModulePatterns(
        exact=frozenset(exact),
        globs=re.compile("|".join(globs)) if globs else None,
        expressions=tuple(expressions),
    )


def _compiled(pattern: str, *, file: str, key: str) -> re.Pattern[str]:
    plain = re.sub(r"\\.", "_", pattern)
    quantifiers = len(re.findall(r"[*+?{]", re.sub(r"\(\?[:=!]", "(", plain)))
    if re.search(r"\)\s*[*+{]", plain) or "(?" in plain.replace("(?:", "") or quantifiers > _MAX_WILDCARDS:
        raise InputError(
            "holds an expression that could take very long",
            file=file,
            key=key,
            value=pattern,
            allowed=f"no repeated groups and at most {_MAX_WILDCARDS} repetitions",
        )
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(
            "holds a malformed expression", file=file, key=key, value=pattern, hint=f"{error}."
        ) from error
