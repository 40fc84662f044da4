"""Tensors by name out of a checkpoint's files, one in memory at a time, whatever the checkpoint's size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards.model_files import safetensors_header
from rewards.torch_files import read_torch_file
from rollout.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
CONTAINERS = ("state_dict", "model")
"""Keys under which training frameworks put the weights of a torch file."""
WRAPPER = "module."


def weight_files(path: Path) -> list[Path]:
    """The checkpoint's files: safetensors if there are any, else torch files; ``path`` itself if it is one."""
    if path.is_file():
        return [path] if path.suffix in (".safetensors", *TORCH_SUFFIXES) else []
    shards = sorted(path.glob("*.safetensors"))
    return shards or sorted(p for p in path.glob("*") if p.suffix in TORCH_SUFFIXES and p.name != "training_args.bin")


class TensorFiles:
    """All tensors of some files.

    Raises:
        DataError: no files, an unreadable one, a name in two of them, or a torch file that holds more than tensors
            (nothing but tensors is ever unpickled).
    """

    def __init__(self, files: list[Path]) -> None:
        if not files:
            raise DataError("no .safetensors, .pth, .pt or .bin file with weights there")
        self._homes: dict[str, Path] = {}
        self._loaded: dict[Path, Mapping[str, Any]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        """By name."""
        for file in files:
            found = self._shapes_of(file)
            if twice := sorted(found.keys() & self.shapes.keys()):
                raise DataError(f"{file}: {twice[0]} is already in {self._homes[twice[0]]}; remove one of the files")
            self.shapes |= found
            self._homes |= dict.fromkeys(found, file)

    def get(self, name: str) -> Tensor:
        """A copy of the tensor, on the CPU."""
        file = self._homes[name]
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(str(file), "pt") as opened:
                return opened.get_tensor(name).contiguous()  # type: ignore[no-any-return]
        return self._loaded[file][name].detach().contiguous().clone()  # type: ignore[no-any-return]

    def _shapes_of(self, file: Path) -> dict[str, tuple[int, ...]]:
        if file.suffix == ".safetensors":
            return {name: tuple(entry["shape"]) for name, entry in safetensors_header(file).items()}
        self._loaded[file] = weights = _torch_weights(file)
        return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def _torch_weights(file: Path) -> dict[str, Any]:
    import torch

    content = read_torch_file(file)
    for key in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise DataError(f"{file}: holds a {type(content).__name__}, not weights by name")
    weights = {str(name): tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}
    if weights and all(name.startswith(WRAPPER) for name in weights):
        weights = {name.removeprefix(WRAPPER): tensor for name, tensor in weights.items()}
    return weights
