"""Classes by name. A file of the registry's package that uses its decorator is found by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from rollout.errors import DataError
from rollout.plugins import import_files_of

T = TypeVar("T")


class Registry(Generic[T]):
    """``what`` names a member in messages, ``package`` is where its files lie."""

    def __init__(self, what: str, package: str) -> None:
        self._what, self._package = what, package
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator. Raises DataError for a name that is taken."""

        def decorate(cls: type[T]) -> type[T]:
            known = self._classes.setdefault(name, cls)
            if known is not cls:
                raise DataError(f"{self._what} {name!r} is registered in {known.__module__} and in {cls.__module__}")
            return cls

        return decorate

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        import_files_of(self._package)
        return sorted(self._classes)

    def get(self, name: str) -> T:
        """An instance of the class called ``name``. Raises DataError that lists the known names."""
        if name not in self.names():
            raise DataError(f"no {self._what} called {name!r}; there are {', '.join(self.names())}")
        return self._classes[name]()
