"""How errors reach the user: one clear message, no traceback (unless ``--debug``), exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from rollout.errors import VideosegError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
DEBUG = "--debug"


class VideosegGroup(TyperGroup):
    """Catches this project's errors around every command."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """``--debug`` is taken wherever it stands: users add it to the end of the line that failed."""
        given = list(sys.argv[1:] if args is None else args)
        if DEBUG in given:
            given = [DEBUG, *(a for a in given if a != DEBUG)]
        return super().main(given, *rest, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises typer.Exit with 2 for our own errors, 130 for Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as e:
            if ctx.params.get("debug"):
                raise
            typer.secho("Interrupted. The same command with --resume continues from the newest checkpoint.", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from e
        except VideosegError as e:
            if ctx.params.get("debug"):
                raise
            typer.secho(f"{_title(e)}: ", fg=typer.colors.RED, bold=True, nl=False, err=True)
            typer.secho(message_of(e), err=True)
            raise typer.Exit(EXIT_ERROR) from e


def message_of(error: BaseException) -> str:
    """The sentence of an error. Ray wraps what a worker raised: its text is a traceback, its ``cause`` the error."""
    cause = getattr(error, "cause", None)
    return str(cause if isinstance(cause, BaseException) else error)


def _title(error: BaseException) -> str:
    cause = getattr(error, "cause", None)
    name = type(cause if isinstance(cause, BaseException) else error).__name__
    return {
        "DataError": "Data",
        "RecipeError": "Recipe",
        "EnvironmentMismatchError": "Environment",
        "WorkerError": "Worker",
    }.get(name, "Error")
