"""Is a folder a released checkpoint, and its conversion on first use."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from rewards.model_files import check_folder, safetensors_header
from verl_ext.policy.tensor_files import TORCH_SUFFIXES, weight_files

RELEASED_PREFIXES = ("grounding_encoder.", "text_hidden_fcs.")
HEAD_FOLDER = "segmentation_head"


def is_released(path: Path) -> bool:
    """Whether weights lie there under released names. Neither our own folders nor plain Qwen-VL folders are.

    Reads headers only; a folder with nothing but torch files counts as a release, as we write none.
    Raises DataError for what only looks like a model (see `rewards.model_files`).
    """
    check_folder(path)
    if (path / HEAD_FOLDER).is_dir():
        return False
    files = weight_files(path)
    if files and files[0].suffix in TORCH_SUFFIXES:
        return path.is_file() or not any(f.name.startswith("pytorch_model") for f in files)
    return any(name.startswith(RELEASED_PREFIXES) for file in files for name in safetensors_header(file))


def convert_once(source: Path, cache: Path, base: Path | None, say: Callable[[str], None]) -> Path:
    """The converted folder of ``source`` under ``cache``, made if it is not there yet; says what it does.

    Its name has a mark of the source's files (names, sizes, times), so that changed files are converted again.
    """
    files = weight_files(source)
    facts = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files] + [str(base)]
    mark = hashlib.blake2b(repr(facts).encode(), digest_size=4).hexdigest()
    out = cache / f"{source.stem if source.is_file() else source.resolve().name}-{mark}"
    if (out / "config.json").is_file():
        say(f"{source} is a released checkpoint; using its conversion in {out}")
        return out
    from verl_ext.policy.convert import convert_released

    say(f"{source} is a released checkpoint; converting it, once, into {out}")
    return convert_released(source, out, base)
