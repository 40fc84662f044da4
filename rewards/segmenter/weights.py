"""Reading a file of weights, and filling a model from it so that no tensor stays as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from rewards.torch_files import read_torch_file
from rollout.errors import DataError

NAMED = 4
"""Tensors that a message names, of each kind."""


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Name -> tensor of a ``.safetensors`` or ``.pt`` file; of a folder, of all its safetensors files.

    Raises:
        DataError: a ``.pt`` file holds something else.
    """
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        return {name: tensor for file in files for name, tensor in read_weights(file).items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    content = read_torch_file(path)
    content = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no weights by name; save the model's state dict")
    return content


def fill(model: nn.Module, weights: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Load ``weights``, all of them and nothing less: a tensor left at its random start costs points in silence.

    ``what`` is the model's name in words.

    Raises:
        DataError: tensors are missing, unknown or of another shape; names them.
    """
    expected = model.state_dict()
    kinds = {
        "missing": sorted(set(expected) - set(weights)),
        "unknown": sorted(set(weights) - set(expected)),
        "of another shape": sorted(k for k in set(expected) & set(weights) if expected[k].shape != weights[k].shape),
    }
    if any(kinds.values()):
        found = "; ".join(f"{len(names)} {kind}: {_few(names)}" for kind, names in kinds.items() if names)
        raise DataError(f"{path}: not the weights of this {what}: tensors {found}; check preset and sizes")
    model.load_state_dict(weights)


def _few(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
