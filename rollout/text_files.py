"""Text as people's editors save it: UTF-8 with or without a byte order mark, UTF-16 with one."""

from __future__ import annotations

import codecs
from pathlib import Path

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def encoding_of(beginning: bytes) -> str:
    """By the first bytes of a file: ``utf-16`` or ``utf-8-sig`` (UTF-8 whose mark, if there is one, is left out)."""
    return "utf-16" if beginning.startswith(UTF16_MARKS) else "utf-8-sig"


def read_text(path: Path) -> str:
    """The file's text. Raises OSError, or ValueError that says which encoding did not fit."""
    data = path.read_bytes()
    encoding = encoding_of(data[:2])
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as e:
        raise ValueError(f"is not {encoding.removesuffix('-sig').upper()} text ({e}); save it as UTF-8") from e
    if "\0" in text[:64]:
        raise ValueError("holds zero bytes as UTF-16 without a mark does; save it as UTF-8")
    return text
