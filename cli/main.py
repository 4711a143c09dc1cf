"""The `lost` command: its sub-commands, error messages and exit codes.

0 success, 1 failure, 2 wrong input, 75 try again later, 130 interrupted (143 by SIGTERM, 129 by SIGHUP). With --json an
error is an object on standard output, as an answer is, beside what is known of that all the same; its message stays on
standard error.
"""

import io
import json
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import typer
from typer.core import TyperGroup

from lost.cli.commands import chat, convert, evaluate, fetch, generate, prepare, sweep, teach, train, verify
from lost.cli.commands.afterwards import fit, inspect, merge, plot, report
from lost.cli.commands.beforehand import bench, config, doctor, plan
from lost.cli.options import json_asked
from lost.cli.render.folding import folded
from lost.cli.render.streams import tolerant_output
from lost.distributed.launcher import leave, leave_with_launcher
from lost.errors import CompilerError, GpuStoppedError, InterruptedAtOnceError, LostError, OutOfMemoryError
from lost.utils.machine import allow_open_files, rank
from lost.utils.printable import printable
from lost.utils.threads import shorten_spinning

_UsageError: Any = typer.BadParameter.__base__  # whatever typer refuses; it has no public name


class _Commands(TyperGroup):
    """The commands. Whatever ends one reaches `_run`; typer would take some of it for an end without a word."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for.

        Raises:
            InterruptedAtOnceError: Ctrl-C was pressed, and the command hasn't said itself what that means.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise InterruptedAtOnceError(
                "interrupted; what was there before is intact; run the same command again"
            ) from None
        except (EOFError, BrokenPipeError) as error:  # of a file or a worker: standard streams raise neither
            raise _CarriedError from error


class _CarriedError(Exception):
    """An error, its cause, on the way through typer."""


app = typer.Typer(
    cls=_Commands,
    help="Pre-train language models with LOST layers (low-rank plus sparse, arXiv 2508.02668).",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("prepare")(prepare.prepare)
app.command("train")(train.train)
app.command("fetch")(fetch.fetch)
app.command("teach")(teach.teach)
app.command("sweep")(sweep.sweep)
app.command("eval")(evaluate.evaluate)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("inspect")(inspect.inspect)
app.command("verify")(verify.verify)
app.command("fit")(fit.fit)
app.command("report")(report.report)
app.command("plot")(plot.plot)
app.command("convert")(convert.convert)
app.command("merge")(merge.merge)
app.command("config")(config.config)
app.command("plan")(plan.plan)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from lost import __version__

        typer.echo(f"lost {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks. May be given anywhere on the line."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Accept options before the command; `main` reads --debug itself."""


def main() -> None:
    """Run the command line and exit."""
    with tolerant_output():
        _run()


def _run() -> None:
    leave_with_launcher()
    shorten_spinning()
    allow_open_files()
    debug, as_json = "--debug" in sys.argv, json_asked()
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        code = app(standalone_mode=False)  # otherwise typer shows arguments that it refuses as they are
    except (Exception, InterruptedAtOnceError) as error:
        failure = _failure(error)
        failure.report(traceback.format_exc() if debug and not failure.usage else "", as_json)
        leave(failure.exit_code)
    sys.exit(code)


def _failure(error: BaseException) -> "_Failure":
    if isinstance(error, _CarriedError) and error.__cause__:
        return _failure(error.__cause__)
    if isinstance(error, LostError):
        return _Failure(type(error).__name__, str(error), error.exit_code, known=error.known)
    if isinstance(error, InterruptedAtOnceError):
        return _Failure(type(error).__name__, str(error), error.exit_code)
    if isinstance(error, _UsageError):
        usage = io.StringIO()
        error.show(usage)
        return _Failure("UserError", error.format_message(), error.exit_code, usage.getvalue().rstrip())
    if OutOfMemoryError.caused(error):
        return _failure(OutOfMemoryError(error))
    if GpuStoppedError.caused(error):
        return _failure(GpuStoppedError(error))
    if CompilerError.caused(error):
        return _failure(CompilerError(error))
    if isinstance(error, OSError) and error.filename is not None:  # a name too long, a folder closed to this user
        reason = f"{error.filename!s:.400}: {error.strerror}; expected a path that can be used; check it"
        return _Failure("UserError", reason, 2)
    defect = f"{type(error).__name__}: {error} (this is a defect in lost; add --debug for the traceback)"
    return _Failure(type(error).__name__, defect, 1)  # reported in one line, with how to see more


@dataclass(frozen=True)
class _Failure:
    """Why the command failed.

    Attributes:
        kind: the name of the error's class.
        message: the error's.
        exit_code: of the command.
        usage: what is shown of arguments that were refused; "": the message.
        known: fields of the answer that are known all the same.
    """

    kind: str
    message: str
    exit_code: int
    usage: str = ""
    known: Mapping[str, Any] = field(default_factory=dict)

    def report(self, trace: str, as_json: bool) -> None:
        """Print it, with a traceback if there is one; as JSON too, where an answer would have been."""
        shown = self.usage or f"lost: {self.message}"
        print(*([printable(trace)] if trace else []), folded(shown, sys.stderr), sep="\n", file=sys.stderr)
        if as_json and rank() == "0":  # of several workers one answers
            from lost.utils.parsing import finite

            error = {"kind": self.kind, "message": self.message, "exit_code": self.exit_code}
            print(json.dumps(finite({**self.known, "error": error}), indent=2, allow_nan=False))
