"""Checks by name. A new check is one file in ``checks``: a function under ``@register_check``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_construction.traces.trace import METHODS
from data_construction.verify.case import Case, VerifySettings
from rollout.errors import DataError, RecipeError
from rollout.plugins import import_files_of

Check = Callable[[Case], str | None]
"""What is wrong with the trace, in words; None if nothing is."""


@dataclass(frozen=True)
class Failure:
    """A check that the trace did not pass."""

    check: str
    reason: str


@dataclass(frozen=True)
class _Entry:
    name: str
    check: Check
    methods: tuple[str, ...]
    about: str


_CHECKS: dict[str, _Entry] = {}


def register_check(name: str, methods: Sequence[str] = METHODS) -> Callable[[Check], Check]:
    """Register a check for the traces of ``methods``. Raises RecipeError for a name that is taken."""

    def register(check: Check) -> Check:
        if name in _CHECKS:
            raise RecipeError(f"a check named {name!r} is already registered")
        _CHECKS[name] = _Entry(name, check, tuple(methods), (check.__doc__ or "").strip().splitlines()[0])
        return check

    return register


def check_names() -> dict[str, str]:
    """Names, and what each looks at."""
    _load()
    return {name: entry.about for name, entry in _CHECKS.items()}


def check_skipped(settings: VerifySettings) -> None:
    """Raises RecipeError if they skip a check there is not."""
    _load()
    for name in settings.skip:
        if name not in _CHECKS:
            raise RecipeError(f"no check {name!r} to skip; there are {', '.join(_CHECKS)}")


def run_checks(case: Case) -> list[Failure]:
    """Every registered check of the trace's method. Raises RecipeError if settings skip a check there is not."""
    check_skipped(case.settings)
    failures = []
    for entry in _CHECKS.values():
        if case.trace.method in entry.methods and entry.name not in case.settings.skip:
            try:
                reason = entry.check(case)
            except DataError as e:
                reason = str(e)
            if reason:
                failures.append(Failure(entry.name, reason))
    return failures


def _load() -> None:
    import_files_of("data_construction.verify.checks")
