"""The spine: the ordered phases from a spec to a checked plan, and the only module that knows them all.

spec -> frontend -> problem -> passes -> search -> passes undone -> plan -> verify
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from planner.diagnostics import Diagnostic, Diagnostics
from planner.errors import InputError, UnknownNameError, VerificationError
from planner.frontend.spec_tree import Override
from planner.frontend.specs import load_spec, read_problem
from planner.frontend.yaml_source import Document, read_document, read_text
from planner.ir.candidates import SearchResult
from planner.ir.printer import print_ir
from planner.ir.problem import Problem
from planner.ir.verifier import verify_ir
from planner.plan.schema import Plan
from planner.plan.serialize import plan_from_result
from planner.registry import Registry
from planner.report.explanation import EXPLAINERS, Effect, Explanation, Variation, effect_of, words_of
from planner.verify import VerificationReport, doubted_pools, problem_of, verify_plan

if TYPE_CHECKING:
    from planner.backends import ExportOptions
    from planner.runtime.bindings import Bindings
    from planner.runtime.engine import RunOptions
    from planner.runtime.records import RunResult

AnyProblem = Problem[Any]
Search = Callable[[AnyProblem, Diagnostics], SearchResult]
Details = Callable[[AnyProblem], dict[str, object]]
SpecSource = str | Path | Mapping[str, object] | None


class Pass(Protocol):
    """A rewriting of problems with a way back for results."""

    @property
    def name(self) -> str:
        """Name for ``--print-ir-after``."""
        ...

    def apply(self, problem: AnyProblem) -> AnyProblem:
        """Return the rewritten problem (the same object where there is nothing to do)."""
        ...

    def invert(self, problem: AnyProblem, result: SearchResult) -> SearchResult:
        """Return the result of the rewritten problem in terms of `problem`, which it was made from."""
        ...


SEARCHES: Registry[Search] = Registry(what="kind", package="planner.search.kinds", attribute="search")
"""Searches by kind of problem."""

DETAILS: Registry[Details] = Registry(what="kind", package="planner.plan.kinds", attribute="details")
"""Facts that plans of a kind state beyond the common schema."""

PASSES: tuple[Pass, ...] = ()
"""Passes in the order in which they are applied."""

FRONTEND = "frontend"
_SECOND_OPINIONS = 6
"""How often a fleet is solved again without the pools that the checker doubts."""


@dataclass(slots=True, kw_only=True)
class Run:
    """How to run the pipeline, and what it took.

    Parameters
    ----------
    diagnostics
        Collects remarks and passes progress on.
    print_after
        Phases after which the IR is shown: ``frontend``, names of passes, ``all``.
    show_ir
        Receives (phase, text) for each of them.
    verify_between
        Whether the IR is verified after every phase.
    record_time
        Whether the plan states the wall time (which makes its bytes differ from run to run).
    """

    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    print_after: Sequence[str] = ()
    show_ir: Callable[[str, str], None] | None = None
    verify_between: bool = False
    record_time: bool = False
    times_s: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Time a phase and tell that it runs."""
        self.diagnostics.progress(f"{name} ...")
        start = perf_counter()
        try:
            yield
        finally:
            self.times_s[name] = self.times_s.get(name, 0.0) + perf_counter() - start
            self.diagnostics.progress("")


def read(source: SpecSource, run: Run, changes: Sequence[Override] = ()) -> AnyProblem:
    """Return the problem that a spec states: a file, a mapping, or nothing but `changes`.

    Raises
    ------
    InputError
        If anything in the spec is wrong.
    """
    _check_phases(run.print_after)
    with run.phase(FRONTEND):
        problem = read_problem(load_spec(source, changes), run.diagnostics)
    _inspect(problem, FRONTEND, run)
    return problem


def search(problem: AnyProblem, run: Run) -> SearchResult:
    """Return the best answer to a problem: passes, search, and the passes undone.

    Raises
    ------
    InputError
        If no search knows the kind, or the search refuses the problem.
    """
    find = SEARCHES.get(problem.kind)
    steps: list[tuple[Pass, AnyProblem]] = []
    rewritten = problem
    for step in PASSES:
        with run.phase(step.name):
            steps.append((step, rewritten))
            rewritten = step.apply(rewritten)
        _inspect(rewritten, step.name, run)
    with run.phase("search"):
        result = find(rewritten, run.diagnostics)
    for step, before in reversed(steps):
        result = step.invert(before, result)
    return result


def solve(problem: AnyProblem, run: Run) -> Plan:
    """Return the checked plan for a problem; an infeasible problem has a plan that says so.

    Raises
    ------
    UnsupportedError
        If the plan shall be refined by simulation, and its kind serves no requests.
    NothingFoundError
        If the time limit passed before anything was found.
    VerificationError
        If the plan does not pass the independent checker, which is a bug of ours.
    """
    if problem.options.refine:
        from planner.refining import check_refinable

        check_refinable(problem)
    start, asked = perf_counter(), tuple(run.diagnostics.entries)
    result = search(problem, run)
    wall_time_s = perf_counter() - start if run.record_time else None
    plan, report = _checked(problem, result, run, wall_time_s)
    if problem.kind == "fleet" and "load" in report.failed_rules:
        plan, report = _reconsidered(problem, result, (plan, report), run)
    if not report.passed:
        raise VerificationError(_wrong(report))
    return _refined(problem, plan, run, asked, start) if problem.options.refine else plan


def _refined(problem: AnyProblem, plan: Plan, run: Run, asked: Sequence[Diagnostic], start: float) -> Plan:
    """Return a plan that simulations bear out, as far as one is found; `asked` are remarks on the spec."""
    from planner.refining import Refinement, with_bound

    def again(tightened: AnyProblem) -> Plan | None:
        own = replace(run, diagnostics=replace(run.diagnostics, entries=[*asked]))
        result = search(tightened, own)
        if not result.pools:
            return None
        time_s = perf_counter() - start if run.record_time else None
        found, report = _checked(problem, with_bound(result, plan), own, time_s)
        return found if report.passed else None

    with run.phase("refine"):
        found = Refinement(problem=problem, search=again, diagnostics=run.diagnostics).refined(plan)
        report = verify_plan(found, problem)
    if not report.passed:
        raise VerificationError(_wrong(report))
    return found


def _wrong(report: VerificationReport) -> str:
    found = "; ".join(f"{f.rule}: {f.message}" for f in report.findings if f.outcome == "failed")
    return (
        f"the plan that was found does not pass the checker, so it is not written ({found}). "
        "This is a bug in newel: please report it with the spec."
    )


def _reconsidered(
    problem: AnyProblem, result: SearchResult, first: tuple[Plan, VerificationReport], run: Run
) -> tuple[Plan, VerificationReport]:
    """Return a plan without the pools that the checker doubts, as far as a few rounds get."""
    from planner.search.fleet_refine import without_pools

    plan, report = first
    for _ in range(_SECOND_OPINIONS):
        doubted = doubted_pools(plan, problem)
        with run.phase("search"):
            again = without_pools(problem, result, doubted, run.diagnostics) if doubted else None
        if again is None:
            break
        result = again
        plan, report = _checked(problem, result, run, None)
        if "load" not in report.failed_rules:
            break
    return plan, report


def _checked(
    problem: AnyProblem, result: SearchResult, run: Run, wall_time_s: float | None
) -> tuple[Plan, VerificationReport]:
    """Return the plan of a result with what the checker says about it."""
    details = DETAILS.get(problem.kind)(problem)
    details["objective_robust"] = problem.objective.robust
    plan = plan_from_result(problem, result, run.diagnostics, details=details, wall_time_s=wall_time_s)
    with run.phase("verify"):
        return plan, verify_plan(plan, problem)


def make_plan(source: SpecSource, run: Run, changes: Sequence[Override] = ()) -> Plan:
    """Return the checked plan for a spec (see `read` and `solve`)."""
    return solve(read(source, run, changes), run)


def check(plan: Plan, *, file: str | None = None) -> VerificationReport:
    """Return what the independent checker says about a plan.

    Raises
    ------
    InputError
        If the plan carries no problem that can be read.
    """
    return verify_plan(plan, problem_of(plan, file))


def explain(
    plan: Plan, run: Run, *, why_not: Sequence[Mapping[str, object]] = (), vary: bool = True
) -> Explanation:
    """Return why a plan is what it is: facts, bottlenecks, effects of changes (found by solving again).

    Parameters
    ----------
    plan
        A plan that carries its problem.
    run
        How to run; the remarks of re-solving are not kept.
    why_not
        Choices to fix instead, e.g. ``{"tp": 8}``, one answer each.
    vary
        Whether limits and hardware are varied too.

    Raises
    ------
    InputError
        If the plan carries no readable problem, or a choice does not exist.
    """
    problem = problem_of(plan)
    explainer = EXPLAINERS.get(problem.kind)
    asked = [
        Variation(sort="why_not", change=words_of(choices), problem=explainer.fixed(problem, choices))
        for choices in why_not
    ]
    varied = explainer.variations(problem, plan) if vary else []
    effects: list[Effect] = []
    for variation in (*varied, *asked):
        with run.phase(variation.change):
            result = search(variation.problem, Run())
        effects.append(effect_of(plan, variation, result))
    return Explanation(
        plan=plan,
        facts=tuple(explainer.facts(problem, plan)),
        bottlenecks=tuple(explainer.bottlenecks(problem, plan)),
        effects=tuple(effects),
    )


def export_plan(
    plan: Plan, backend: str, out: Path, options: ExportOptions, *, force: bool = False
) -> list[Path]:
    """Write the files that launch a plan on a runtime; return their paths.

    Raises
    ------
    InputError
        If there is no such backend, it cannot express the plan, or the folder cannot be written.
    """
    from planner.backends import BACKENDS, export_files, write_folder

    files = export_files(BACKENDS.get(backend), plan, options)
    write_folder(out, files, force=force)
    return [out / file.path for file in files]


def read_input(path: Path, *, max_bytes: int) -> str:
    """Return the text of a file that a plan is to be run on.

    Raises
    ------
    InputError
        If it cannot be read or is too large.
    """
    return read_text(path, max_bytes=max_bytes)


def read_bindings(path: Path) -> Bindings:
    """Return the endpoints and tools that a file names; Python tools are looked for beside it too.

    Raises
    ------
    InputError
        If anything in it is wrong; the line is named.
    """
    import sys

    from planner.runtime.bindings import bindings_of

    document = read_document(path)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return bindings_of(document.data)
    except InputError as error:
        raise error.located(file=str(path), line=_line_of(document, error.key)) from None


def _line_of(document: Document, key: str | None) -> int | None:
    lines = {".".join(map(str, path)): line for path, line in document.lines.items()}
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key or "")


def run_plan(
    plan: Plan,
    question: str,
    bindings: Bindings,
    options: RunOptions,
    *,
    runs: Path | None = None,
    spans: bool = False,
) -> RunResult:
    """Run a plan once and return what came of it; its record goes into the folder `runs`.

    Raises
    ------
    RunFailedError
        If there is no answer; it holds what there is.
    InputError
        If the plan cannot run, or a model, tool or branch has nothing behind it.
    """
    import asyncio

    from planner.runtime.engine import Runtime
    from planner.runtime.failures import RunFailedError
    from planner.runtime.run_files import write_run

    runtime = Runtime(plan, bindings, spans=spans)

    async def once() -> RunResult:
        async with runtime:
            return await runtime.run(question, options)

    try:
        result = asyncio.run(once())
    except RunFailedError as error:
        if runs is not None:
            write_run(runs, runtime.plan, error.result)
        raise
    if runs is not None:
        write_run(runs, runtime.plan, result)
    return result


def _check_phases(names: Sequence[str]) -> None:
    known = [FRONTEND, *(step.name for step in PASSES), "all"]
    for name in names:
        if name not in known:
            raise UnknownNameError("phase", name, known)


def _inspect(problem: AnyProblem, phase: str, run: Run) -> None:
    """Verify and show the IR after a phase, where that is asked for."""
    if run.verify_between:
        problems = verify_ir(problem)
        if problems:
            raise RuntimeError(f"the IR is broken after {phase}: {'; '.join(problems[:5])}")
    if run.show_ir is not None and ({phase, "all"} & set(run.print_after)):
        run.show_ir(phase, print_ir(problem))
