"""The CPU as a verl 0.9.1 platform, so that laptops run the same trainer as clusters.

verl registers accelerators only; its platform registry is the documented extension point. Logical "GPU" resources
stand for processes (``ray.init(num_gpus=processes)``), gloo for NCCL. Active when ``VERL_PLATFORM=cpu``.
"""

from __future__ import annotations

import os
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry


class _DeviceId(str):
    """``tensor.to(id)`` means "cpu", while ``f"cpu:{id}"`` means "cpu:0": verl uses both on what it calls a device."""

    def __new__(cls) -> _DeviceId:
        return str.__new__(cls, "cpu")

    def __format__(self, spec: str) -> str:
        return "0"


class _CpuDeviceModule(types.ModuleType):
    """``torch.cpu`` with the memory and RNG calls that ``torch.cuda`` has."""

    def __eq__(self, other: object) -> bool:
        return other is self or other is torch.cpu

    def __hash__(self) -> int:
        return hash(self.__name__)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        return None

    empty_cache = ipc_collect = synchronize = set_device = _nothing
    manual_seed = manual_seed_all = _nothing
    reset_peak_memory_stats = reset_accumulated_memory_stats = _nothing

    def is_available(self) -> bool:
        return False  # "no accelerator": verl then skips its allocator settings

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def get_device_name(self, *args: Any) -> str:
        return "CPU"

    def memory_allocated(self, *args: Any) -> int:
        return int(psutil.Process().memory_info().rss)

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def mem_get_info(self, *args: Any) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def get_rng_state(self, *args: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *args: Any) -> None:
        torch.set_rng_state(state)


_DEVICE_MODULE = _CpuDeviceModule("verl_ext_cpu_device")


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):  # type: ignore[misc]
    """See the module's docstring."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _DEVICE_MODULE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return True

    def current_device(self) -> str:
        return _DeviceId()

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False  # weight sync then goes through shared memory

    def cudart(self) -> None:
        return None

    def rollout_env_vars(self) -> dict[str, str]:
        return {
            "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
            "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        }
