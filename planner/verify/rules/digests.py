"""The plan rests on the inputs that its problem names, by digest."""

from __future__ import annotations

import re
from collections.abc import Iterator

from planner.verify.report import Violation
from planner.verify.rule import Case, Rule

_SHA256 = re.compile(r"[0-9a-f]{64}")


def _check(case: Case) -> Iterator[Violation]:
    claimed = sorted((i.role, i.name, i.sha256) for i in case.plan.inputs)
    known = sorted((i.role, i.name, i.sha256) for i in case.problem.inputs)
    for role, name, digest in claimed:
        if not _SHA256.fullmatch(digest):
            yield Violation(message=f"{role} {name!r} has no SHA-256 digest")
    if claimed != known:
        odd = sorted({f"{role} {name!r}" for role, name, _ in set(claimed) ^ set(known)})
        yield Violation(message=f"plan and problem disagree about {', '.join(odd)}")


RULE = Rule(says="plan and problem rest on the same inputs", check=_check, with_pools=False)
