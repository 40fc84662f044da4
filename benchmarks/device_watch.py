"""How busy the devices are while something is measured: a sample every fifth of a second, from nvidia-smi or psutil."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from statistics import fmean
from types import TracebackType
from typing import Any

EVERY_S = 0.2
QUERY = "--query-gpu=utilization.gpu,memory.used"


class DeviceWatch:
    """Samples from entering on; :meth:`figures` tells of those since :meth:`mark`.

    A GPU is busy, as nvidia-smi counts it, while any kernel runs; on a CPU all cores count alike. Idle is the rest.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._samples: list[tuple[float, float, float]] = []
        """(time, busy share, MiB of a GPU in use), one a device and moment."""
        self._since = time.monotonic()
        self._over = threading.Event()
        self._smi: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._follow_gpus if device == "cuda" else self._follow_cpu, daemon=True)

    def __enter__(self) -> DeviceWatch:
        if self._device == "cuda":
            every = f"{1000 * EVERY_S:.0f}"
            command = ["nvidia-smi", QUERY, "--format=csv,noheader,nounits", "-lms", every]
            try:
                self._smi = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            except OSError as error:
                print(f"share of idle: not measured, {error}", file=sys.stderr, flush=True)
                return self
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        if self._smi is not None:
            self._smi.terminate()
            self._smi.wait()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def mark(self) -> None:
        """What came before counts no more."""
        self._since = time.monotonic()

    def figures(self) -> dict[str, Any]:
        """``idle_share`` (0 to 1, mean of devices and moments) and ``device_peak_gib`` (of the fullest GPU, by whoever
        holds it); empty where nothing could be sampled."""
        counted = [sample for sample in self._samples if sample[0] >= self._since]
        if not counted:
            return {}
        out = {"idle_share": round(1 - fmean(busy for _, busy, _ in counted), 3)}
        if self._device == "cuda":
            out["device_peak_gib"] = round(max(used for _, _, used in counted) / 1024, 2)
        return out

    def _follow_gpus(self) -> None:
        assert self._smi is not None and self._smi.stdout is not None
        for line in self._smi.stdout:
            cells = line.split(",")
            try:
                busy, used = float(cells[0]), float(cells[1])
            except (ValueError, IndexError):  # "[N/A]", or words of the driver's
                continue
            self._samples.append((time.monotonic(), busy / 100, used))

    def _follow_cpu(self) -> None:
        import psutil

        psutil.cpu_percent()
        while not self._over.wait(EVERY_S):
            self._samples.append((time.monotonic(), psutil.cpu_percent() / 100, 0.0))
