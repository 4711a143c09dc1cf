"""The `lost` command: its sub-commands, error messages and exit codes.

0 success, 1 failure, 2 wrong input, 130 interrupted (progress is saved).
"""

import io
import sys
import traceback
from typing import Any, NoReturn

import typer

from lost.cli.commands import convert, evaluate, generate, inspect, prepare, train, verify
from lost.cli.commands.beforehand import bench, config, doctor, plan
from lost.cli.render.streams import tolerant_output
from lost.distributed.launcher import leave_with_launcher
from lost.errors import InterruptedAtOnceError, LostError
from lost.utils.printable import printable
from lost.utils.threads import shorten_spinning

_UsageError: Any = typer.BadParameter.__base__  # whatever typer refuses; it has no public name

app = typer.Typer(
    help="Pre-train language models with LOST layers (low-rank plus sparse, arXiv 2508.02668).",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("prepare")(prepare.prepare)
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("generate")(generate.generate)
app.command("inspect")(inspect.inspect)
app.command("verify")(verify.verify)
app.command("convert")(convert.convert)
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
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        code = app(standalone_mode=False)  # otherwise typer shows arguments that it refuses as they are
    except (LostError, InterruptedAtOnceError) as error:
        _fail(f"lost: {error}", error.exit_code, debug)
    except _UsageError as error:
        usage = io.StringIO()
        error.show(usage)
        _fail(usage.getvalue().rstrip(), error.exit_code)
    except Exception as error:
        _fail(*_unforeseen(error), debug)
    sys.exit(code)


def _unforeseen(error: Exception) -> tuple[str, int]:
    """Return what to say of an error that isn't ours, and the exit code."""
    if isinstance(error, OSError) and error.filename is not None:  # a name too long, a folder closed to this user
        return f"lost: {error.filename!s:.400}: {error.strerror}; expected a path that can be used; check it", 2
    return f"lost: {type(error).__name__}: {error} (this is a defect in lost; add --debug for the traceback)", 1


def _fail(message: str, code: int, debug: bool = False) -> NoReturn:
    """Print why the command failed, with the traceback if it was asked for, and exit."""
    text = f"{traceback.format_exc()}\n{message}" if debug else message
    print(printable(text), file=sys.stderr)
    sys.exit(code)
