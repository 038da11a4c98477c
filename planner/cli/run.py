"""``newel run``: run the plan of an agent graph against real endpoints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.terminal import emit, emit_json, say
from planner.errors import EXIT_RUN_FAILED, InputError

if TYPE_CHECKING:
    from planner.runtime.execution import Event
    from planner.runtime.records import RunResult

_MAX_INPUT_BYTES = 16 * 1024 * 1024


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


def run(  # noqa: PLR0913, PLR0917 - one parameter per option of the command
    plan: Annotated[Path, typer.Argument(help="The plan of an agent graph, a JSON file.")],
    endpoints: Annotated[
        Path | None, typer.Option("--endpoints", "-e", help="Endpoints by model and tools by name, YAML.")
    ] = None,
    question: Annotated[
        Path | None, typer.Option("--input", "-i", help="The input, a text file; - is stdin.")
    ] = None,
    text: Annotated[str | None, typer.Option("--text", "-t", help="The input itself.")] = None,
    journal: Annotated[
        Path | None, typer.Option("--journal", help="File to write finished calls to and to go on from.")
    ] = None,
    sync: Annotated[str, typer.Option("--sync", help="Syncing of the journal: batch, each, none.")] = "batch",
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Folder for the record of the run (for plan --observed).")
    ] = None,
    spans: Annotated[bool, typer.Option("--spans", help="Send OpenTelemetry spans.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of drawn branches.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print answer and times as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No time line.")] = False,
) -> None:
    """Run a plan: the answer streams to stdout, the time line follows on stderr."""
    from planner.pipeline import read_bindings, run_plan
    from planner.plan.serialize import read_plan
    from planner.runtime.bindings import Bindings
    from planner.runtime.engine import RunOptions
    from planner.runtime.failures import RunFailedError
    from planner.runtime.journal import SYNCS

    if sync not in SYNCS:
        raise InputError("unknown policy", key="--sync", value=sync, allowed=", ".join(SYNCS))
    bindings = read_bindings(endpoints) if endpoints is not None else Bindings()
    printer = _Printer()
    options = RunOptions(journal=journal, sync=sync, seed=seed, on_event=None if as_json else printer.take)
    words = _input(question, text)
    failed = False
    try:
        result = run_plan(read_plan(plan), words, bindings, options, runs=runs, spans=spans)
    except RunFailedError as error:
        failed, result = True, error.result
        printer.end()
        say(f"error: {error}")
    if as_json:
        emit_json(result.as_dict())
    else:
        printer.finish(result)
    if not quiet:
        _show(result)
    if failed:
        raise typer.Exit(EXIT_RUN_FAILED)


class _Printer:
    """Writes the answer as it comes. Of several final calls the first to speak is streamed, others follow."""

    def __init__(self) -> None:
        self._speaker = ""
        self._written = ""

    def take(self, event: Event) -> None:
        """Write a piece of text if it is the speaker's."""
        if event.kind != "text":
            return
        self._speaker = self._speaker or event.call
        if event.call != self._speaker:
            return
        if event.restart:
            self.end()
            say("the stream broke and the answer came out differently; here it is again from its beginning")
            self._written = ""
        self._written += event.text
        sys.stdout.write(event.text)
        sys.stdout.flush()

    def end(self) -> None:
        """End the line that is being written."""
        if self._written and not self._written.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()

    def finish(self, result: RunResult) -> None:
        """Write what has not been streamed."""
        rest = dict(result.answers)
        spoken = rest.pop(self._speaker, None)
        if spoken is not None and spoken.startswith(self._written):
            sys.stdout.write(spoken[len(self._written) :])
            self._written = spoken
        self.end()
        for i, answer in enumerate(rest.values()):
            emit(("\n" if i or spoken is not None else "") + answer)


def _input(question: Path | None, text: str | None) -> str:
    if (question is None) == (text is None):
        raise InputError("name the input once", key="--input", allowed="--input FILE or --text WORDS")
    if text is not None:
        return text
    if str(question) == "-":
        data = sys.stdin.read(_MAX_INPUT_BYTES + 1)
        if len(data) > _MAX_INPUT_BYTES:
            raise InputError("too long", key="--input", allowed=f"{_MAX_INPUT_BYTES} bytes")
        return data
    from planner.pipeline import read_input

    return read_input(question or Path(), max_bytes=_MAX_INPUT_BYTES)


def _show(result: RunResult) -> None:
    from planner.report.timeline import timeline_lines

    say("")
    for line in timeline_lines(result.as_dict()):
        say(line)
    for note in result.notes:
        say(f"note: {note}")
