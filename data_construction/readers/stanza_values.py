"""What stands in a stanza's YAML, checked before anything is read by it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from rollout.errors import DataError
from rollout.text_files import read_text


def read_yaml(path: Path) -> Any:
    """The file's content. Raises DataError with the path if it is no YAML."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(OmegaConf.load(io.StringIO(read_text(path))))
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as e:
        raise DataError(f"{path}: cannot be read as YAML ({' '.join(str(e).split())})") from e


def typed(value: Any, kind: Any, where: str) -> Any:
    """``value`` if it is of that kind: a class, ``tuple[str, ...]``, ``dict[...]`` or ``X | None``.

    Raises DataError. YAML is free with types: ``fps: "6"`` is text, and text is always true.
    """
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if value is None and type(None) in kinds:
        return value
    wanted = get_origin(kinds[0]) or kinds[0]
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    fits = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    if fits and wanted is tuple:
        fits = all(isinstance(item, str) for item in value)
    if not fits:
        name = (
            "patterns"
            if wanted is tuple
            else {str: "text", float: "a number", int: "a whole number", bool: "true or false"}.get(wanted)
        )
        raise DataError(f"{where}: found {value!r}; wants {name or 'a mapping'}")
    return value


def check_places(patterns: Sequence[Any], places: Mapping[str, Any], where: str) -> None:
    """Raise DataError for a pattern with a place that nothing is known to be put into."""
    for pattern in patterns:
        try:
            str(pattern).format(**places)
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as e:
            known = " ".join(f"{{{name}}}" for name in places)
            raise DataError(
                f"{where}: {pattern!r} has a wrong place ({type(e).__name__}: {e}); known are {known}"
            ) from e
