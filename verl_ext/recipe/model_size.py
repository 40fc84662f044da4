"""How large a policy is, read from its folder without loading it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.model_files import check_file, safetensors_header
from rollout.errors import DataError

HEAD_FOLDER = "segmentation_head"


@dataclass(frozen=True)
class ModelSize:
    """Parameter counts and the shapes that activations depend on; None where nothing is known."""

    parameters: int | None = None
    """Language and vision model."""
    head_parameters: int = 0
    """SAM 2 and projection."""
    hidden: int | None = None
    layers: int | None = None
    vocabulary: int | None = None
    source: str = "unknown"
    """Where the numbers come from."""


def model_size(path: str | Path) -> ModelSize:
    """Counted from safetensors headers and ``config.json``; else guessed from a name such as ``Qwen3-VL-2B``.

    Raises:
        DataError: a file of the folder is there but cannot be read.
    """
    folder = Path(path)
    text: dict[str, Any] = {}
    config = folder / "config.json"
    if config.is_file():
        check_file(config)
        text = _json(config.read_text(encoding="utf-8"), config)
        text = text.get("text_config", text)
    counted = sum(_count(f) for f in sorted(folder.glob("*.safetensors")))
    nominal = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z0-9])", str(path))
    if counted:
        parameters, source = counted, "counted in its files"
    elif nominal:
        parameters, source = round(float(nominal[1]) * 1e9), "guessed from its name"
    else:
        return ModelSize()
    return ModelSize(
        parameters=parameters,
        head_parameters=sum(_count(f) for f in sorted((folder / HEAD_FOLDER).glob("*.safetensors"))),
        hidden=text.get("hidden_size"),
        layers=text.get("num_hidden_layers"),
        vocabulary=text.get("vocab_size"),
        source=source,
    )


def _count(file: Path) -> int:
    return sum(math.prod(tensor["shape"]) for tensor in safetensors_header(file, whole=False).values())


def _json(text: str, file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as e:
        raise DataError(f"{file}: cannot be read as JSON ({e}); copy the policy again") from e
