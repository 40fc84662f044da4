"""Options that several commands share: a dataclass of them stands in a command's signature as one parameter."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints


def with_shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Show typer the fields of each dataclass parameter in its place, and give the command the dataclass.

    A field is written as typer's own parameters are, ``Annotated[type, typer.Option(help=...)]``, with its default.
    """
    hints = get_type_hints(command, include_extras=True)
    shared: dict[str, type[Any]] = {}
    shown: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(hints[name]):
            shared[name] = hints[name]  # type: ignore[assignment]
            shown += _parameters(hints[name])
        else:
            shown.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def called(**given: Any) -> Any:
        taken = {n: kind(**{f.name: given.pop(f.name) for f in fields(kind)}) for n, kind in shared.items()}
        return command(**taken, **given)

    called.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in shown}
    return called


def _parameters(kind: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]
