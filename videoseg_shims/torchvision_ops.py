"""Let torchvision's CUDA-linked wheel import next to a CPU-only torch.

Why: PyPI serves torchvision (0.28.0, for torch 2.13.0) only as a CUDA build. Its ``_C.so`` cannot be
loaded by CPU torch, so the C++ operators are never declared, and ``torchvision/_meta_registrations.py``
then fails with "operator torchvision::nms does not exist". transformers (5.10.4) takes that for "no
torchvision" and verl (0.9.1) silently treats a vision-language model as text. Declaring the two
schemas that the file registers without a guard is enough to import; ``nms`` also gets a kernel.

Nothing happens where torch is built for CUDA or ROCm, or where ``_C.so`` loads.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder

TYPE_CHECKING = False  # typing's own costs 12 ms at every interpreter start; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType
    from typing import Any

    import torch

_OPS = ("nms", "qnms")
_kept: list[Any] = []
"""The torch ``Library`` of our schemas: they are undeclared again when it is collected."""


class TorchvisionHook:
    """Meta-path finder that declares the missing schemas just before torchvision's own code runs."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find torchvision as usual, with `declare_ops` put in front of its execution; None for others."""
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        run: Callable[[ModuleType], None] = spec.loader.exec_module
        locations = list(spec.submodule_search_locations or ())

        def exec_module(module: ModuleType) -> None:
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            declare_ops(locations)
            run(module)

        # On the instance, not a wrapper class: whoever inspects the loader still meets the stock one.
        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def declare_ops(locations: Sequence[str]) -> bool:
    """Declare torchvision's schemas if its C++ part cannot; True if that was needed.

    Args:
        locations: torchvision's package folders, where ``_C*.so`` is looked for.
    """
    import torch

    if _kept or torch.version.cuda is not None or getattr(torch.version, "hip", None) is not None:
        return False
    if _loads(locations):
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")
    for op in _OPS:
        library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", nms, "CPU")
    _kept.append(library)
    return True


def _loads(locations: Sequence[str]) -> bool:
    """Whether torchvision's C++ part loads; loading it twice is harmless, torchvision does so again."""
    import glob
    import os

    import torch

    for folder in locations:
        for pattern in ("_C*.so", "_C*.pyd"):
            for library in glob.glob(os.path.join(folder, pattern)):
                try:
                    torch.ops.load_library(library)
                except (ImportError, OSError):
                    continue
                return True
    return False


def nms(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Greedy non-maximum suppression, as ``torchvision::nms`` on the CPU.

    Args:
        dets: (N, 4) float boxes x1, y1, x2, y2.
        scores: (N,) float.
        iou_threshold: boxes that overlap a kept one by more than this IoU are dropped.

    Returns:
        (K,) int64 indices of the kept boxes, best score first.
    """
    import torch

    order = scores.argsort(descending=True, stable=True)
    x1, y1, x2, y2 = dets.unbind(1)
    area = (x2 - x1) * (y2 - y1)
    keep = []
    while order.numel():
        best, rest = order[0], order[1:]
        keep.append(best)
        width = (torch.minimum(x2[best], x2[rest]) - torch.maximum(x1[best], x1[rest])).clamp(min=0)
        height = (torch.minimum(y2[best], y2[rest]) - torch.maximum(y1[best], y1[rest])).clamp(min=0)
        inter = width * height
        order = rest[~(inter / (area[best] + area[rest] - inter) > iou_threshold)]
    return torch.stack(keep) if keep else torch.empty(0, dtype=torch.long)
