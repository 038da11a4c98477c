"""The ``newel`` command: finds its subcommands, and turns every outcome into an exit code.

Exit codes: 0 fine, 1 a bug of ours, 2 bad input, 3 infeasible, 4 nothing found within the
time limit, 5 verification failed, 6 a plan that was run failed, 130 interrupted.
"""

from __future__ import annotations

import os
import pkgutil
import sys
import traceback
from importlib import import_module
from typing import Annotated, Protocol, TextIO, cast

import typer

from hardware_profiles.errors import ProfileError
from planner.cli.terminal import emit, say
from planner.errors import EXIT_BAD_INPUT, EXIT_BUG, EXIT_OK, NewelError

EXIT_INTERRUPTED = 130

_NOT_COMMANDS = frozenset({"main", "terminal"})

_HELP = """Plan where and how LLM systems run: the best parallelism and placement, with a proof.

A plan is made by `newel plan`, checked by `newel verify`, put into words by `newel explain` and
turned into launch files by `newel export`.
"""


class _CommandModule(Protocol):
    def register(self, app: typer.Typer) -> None: ...


def command_modules() -> tuple[str, ...]:
    """Return the names of the modules of this package that add commands, sorted."""
    paths = import_module("planner.cli").__path__
    found = (m.name for m in pkgutil.iter_modules(paths) if not m.ispkg)
    return tuple(sorted(name for name in found if name not in _NOT_COMMANDS and not name.startswith("_")))


def build_app() -> typer.Typer:
    """Return the application with every command registered."""
    app = typer.Typer(
        name="newel",
        help=_HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_global_options)
    for name in command_modules():
        module = cast("_CommandModule", import_module(f"planner.cli.{name}"))
        module.register(app)
    return app


def run() -> None:
    """Run the command line and leave the process with the outcome's exit code."""
    keep_stdout()
    sys.exit(main(sys.argv[1:]))


def keep_stdout() -> None:
    """Keep stdout for what this program writes.

    HiGHS prints a line of its own now and then, past every setting, which would end up in a plan that is
    written to stdout. From here on, native code that prints does so into nothing. Streams that were
    closed before the start lead nowhere.
    """
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process
    sys.stderr = cast("TextIO | None", sys.stderr) or nowhere
    before = cast("TextIO | None", sys.stdout)
    if before is None:
        sys.stdout = nowhere
        return
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=before.encoding, errors=before.errors, buffering=1)
    os.dup2(nowhere.fileno(), 1)


def main(arguments: list[str]) -> int:
    """Run the command line on `arguments` and return the exit code."""
    try:
        result: object = build_app()(arguments, prog_name="newel", standalone_mode=False)
        sys.stdout.flush()
        code = result if isinstance(result, int) else EXIT_OK
        if code == EXIT_INTERRUPTED:
            say("interrupted")
        return code
    except BrokenPipeError:
        # The reader of our stdout has gone (``newel ... | head``). Point stdout at nothing, so that
        # the interpreter's last flush does not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except (KeyboardInterrupt, typer.Abort):
        say("interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: whatever happens becomes an exit code
        return _exit_code(error, debug="--debug" in arguments)


def _exit_code(error: Exception, *, debug: bool) -> int:
    """Tell the user about `error` in one message and return its exit code."""
    if isinstance(error, NewelError):
        say(f"error: {error}")
        code = error.exit_code
    elif isinstance(error, ProfileError):
        say(f"error: {error}")
        code = EXIT_BAD_INPUT
    elif (format_message := getattr(error, "format_message", None)) is not None:
        # A usage error of the command line parser. Its message is the help when no command was given.
        if type(error).__name__ == "NoArgsIsHelpError":
            say(format_message())
            return EXIT_BAD_INPUT
        say(f"error: {format_message()}")
        say("Run the command with --help to see what it takes.")
        code = int(getattr(error, "exit_code", 2))
    else:
        say(f"error: this is a bug in newel: {type(error).__name__}: {error}")
        if not debug:
            say("Please report it with the input that caused it and the output of `newel --debug ...`.")
        code = EXIT_BUG
    if debug:
        say("".join(traceback.format_exception(error)).rstrip())
    return code


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        from planner import __version__

        try:
            installed = version("newel")
        except PackageNotFoundError:
            installed = __version__
        emit(f"newel {installed}")
        raise typer.Exit


def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with every error.")] = False,
) -> None:
    """Options that stand before the command; both are acted on elsewhere."""
