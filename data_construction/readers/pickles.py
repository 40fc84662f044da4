"""Reading the pickles that some data sets are published as, without running what is in them."""

from __future__ import annotations

import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any

from rollout.errors import DataError

ALLOWED = {
    (module, name): value
    for module in ("builtins", "__builtin__")
    for name, value in (("set", set), ("frozenset", frozenset), ("bytearray", bytearray), ("complex", complex))
}


def read_pickle(path: Path) -> Any:
    """Lists, mappings, numbers and text of a pickle; kept in memory for the next split that wants the unchanged file.

    Raises DataError if the file is missing, damaged, or wants anything else: a pickle can run any program.
    """
    try:
        stat = path.stat()
    except OSError as e:
        raise DataError(f"{path}: missing; check the data set's root folder and split") from e
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2)
def _read(path: Path, _mtime_ns: int, _size: int) -> Any:
    try:
        with path.open("rb") as file:
            return _Plain(file, encoding="latin1").load()
    except DataError as e:
        raise DataError(f"{path}: {e}") from e
    # A damaged pickle may raise anything, MemoryError for a length that was hit among it.
    except (pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError, KeyError, IndexError) as e:
        raise DataError(f"{path}: cannot be read as a pickle ({e}); get the file again") from e
    except (AttributeError, MemoryError, OverflowError, RecursionError, ImportError) as e:
        raise DataError(f"{path}: is damaged ({type(e).__name__}); get the file again") from e


class _Plain(pickle.Unpickler):
    """Knows no classes and no functions but a few plain containers."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # How Python 3 writes bytes in the old protocols.
            return _latin1
        if (module, name) not in ALLOWED:
            raise DataError(
                f"refused: the pickle asks for {module}.{name}, plain data does not; it may be an attack. "
                "Get the file from its publisher, or convert it to JSON"
            )
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise DataError(f"refused: the pickle asks for an outside object ({pid!r})")


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise DataError(f"refused: the pickle asks for the codec {encoding!r}")
    return text.encode("latin1")
