"""LLMCompiler: the plan text that its planner writes, one action per line.

A line is ``number. tool(arguments)``; ``$k`` or ``${k}`` in the arguments is the output of action k; the
last action is ``join()``, which reads everything before it. Thoughts, comments and markers are skipped,
and arguments are never parsed: shipped plans hold unbalanced brackets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

from planner.errors import InputError
from planner.frontend.agent_draft import Draft
from planner.ir.agent_graph import AgentGraph

_ACTION = re.compile(r"^\s*(\d{1,9})\s*[.)]\s*([A-Za-z_][\w.-]*)\s*\((.*)$")
_REFERENCE = re.compile(r"\$\{?(\d{1,9})\}?")
_JOIN_NAMES = frozenset({"join", "join_finish", "join_replan", "finish"})


@dataclass(frozen=True, slots=True)
class _LlmCompiler:
    """Reader of plans."""

    def accepts(self, text: str) -> bool:
        """Whether a line is an action and none opens a JSON document."""
        return text.lstrip()[:1] not in ("{", "[") and any(_ACTION.match(line) for line in text.splitlines())

    def read(self, text: str, *, file: str, companion: str = "") -> AgentGraph:
        """Return tools in parallel and the joiner as a model call."""
        del companion
        draft = Draft(name=PurePath(file).stem, file=file)
        nodes: dict[int, str] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            action = _ACTION.match(line)
            if action is None:
                continue
            index, tool, arguments = int(action[1]), action[2], action[3]
            if index in nodes:
                raise InputError("the number of an action stands twice", file=file, line=number, value=index)
            needed = sorted({int(k) for k in _REFERENCE.findall(arguments)})
            for k in needed:
                if k not in nodes:
                    raise InputError(
                        "a reference to an action that does not come before",
                        file=file,
                        line=number,
                        value=f"${k}",
                    )
            if tool.lower() in _JOIN_NAMES:
                added = draft.add_call(tool, prompt=None)
                needed = sorted(nodes)
            else:
                words = _REFERENCE.sub(lambda m: f"${{{nodes[int(m[1])]}}}", arguments.rpartition(")")[0])
                added = draft.add_tool(f"{index}.{tool}", tool=tool, arguments=words)
            nodes[index] = added
            for k in needed:
                draft.connect(nodes[k], added)
        if not nodes:
            raise InputError("no action of the form 1. tool(...)", file=file, line=1)
        draft.feed_prompts()
        return draft.graph()


IMPORTER = _LlmCompiler()
