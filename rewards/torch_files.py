"""What torch.save wrote, read as tensors and nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from rewards.model_files import check_file
from rollout.errors import DataError


def read_torch_file(file: Path) -> Any:
    """The content, on the CPU; memory-mapped, so that a tensor is read when it is used.

    Raises:
        DataError: it is no file of torch's, or holds more than tensors.
    """
    import torch

    check_file(file)
    try:
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(file, map_location="cpu", weights_only=True)  # the format before torch 1.6
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{file}: is no file of tensors alone, and nothing else is loaded from it; save its state dict by itself "
            f"({_first_sentence(error)})"
        ) from error
    except (OSError, RuntimeError, EOFError) as error:
        raise DataError(f"{file}: is not a torch file ({_first_sentence(error)}); copy it again") from error


def _first_sentence(error: Exception) -> str:
    """Without torch's advice to load it unsafely."""
    return str(error).partition("\n")[0].partition(". ")[0]
