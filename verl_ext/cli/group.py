"""How errors reach the user: one clear message, no traceback (unless ``--debug``), exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from rollout.errors import VideosegError

EXIT_ERROR = 2
EXIT_INCOMPLETE = 3
"""Everything that could be done was, but some expressions failed or have unusable annotations; they are listed."""
EXIT_INTERRUPTED = 130
DEBUG = "--debug"
RESUMES = "The same command with --resume continues from the newest checkpoint."
GOES_ON = "The same command goes on where it stopped."
AFTER_CTRL_C = {"train": RESUMES, "quickstart": GOES_ON, "eval": GOES_ON, "data cot": GOES_ON, "data verify": GOES_ON}
"""By command: what to do after Ctrl-C. The others are done again from their beginning."""


class VideosegGroup(TyperGroup):
    """Catches this project's errors around every command."""

    _after_ctrl_c = ""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """``--debug`` is taken wherever it stands: users add it to the end of the line that failed."""
        given = list(sys.argv[1:] if args is None else args)
        words = [a for a in given if a != DEBUG]
        self._after_ctrl_c = next((AFTER_CTRL_C[c] for n in (1, 2) if (c := " ".join(words[:n])) in AFTER_CTRL_C), "")
        if DEBUG in given:
            given = [DEBUG, *words]
        return super().main(given, *rest, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises typer.Exit with 130 for Ctrl-C, for our own errors with their ``exit_code`` or 2."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as e:
            if ctx.params.get("debug"):
                raise
            typer.secho(f"Interrupted. {self._after_ctrl_c}".strip(), err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from e
        except VideosegError as e:
            if ctx.params.get("debug"):
                raise
            typer.secho(f"{_title(e)}: ", fg=typer.colors.RED, bold=True, nl=False, err=True)
            typer.secho(message_of(e), err=True)
            raise typer.Exit(getattr(e, "exit_code", EXIT_ERROR)) from e


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
        "StoppedError": "Stopped",
    }.get(name, "Error")
