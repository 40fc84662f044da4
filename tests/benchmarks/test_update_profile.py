"""An update under the profiler, on the tiny policy."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import update_profile
from benchmarks.update_profile import covered, host_times, profiled, summed

CPU, GPU = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA


@dataclass
class Event:
    """As kineto's; fields that a test does not name are those of an ordinary call."""

    what: str
    begin: int
    length: int
    device: object = CPU
    thread: int = 1
    number: int = 0
    caller: int = 0
    annotation: bool = False

    def name(self) -> str:
        return self.what

    def start_ns(self) -> int:
        return self.begin

    def duration_ns(self) -> int:
        return self.length

    def device_type(self) -> object:
        return self.device

    def is_user_annotation(self) -> bool:
        return self.annotation

    def is_async(self) -> bool:
        return False

    def start_thread_id(self) -> int:
        return self.thread

    def end_thread_id(self) -> int:
        return self.thread

    def correlation_id(self) -> int:
        return self.number

    def linked_correlation_id(self) -> int:
        return self.caller


@pytest.mark.parametrize(
    ("spans", "length"), [([], 0.0), ([(0, 2), (1, 3), (5, 6)], 4.0), ([(5, 6), (0, 10), (2, 3)], 10.0)]
)
def test_overlapping_kernels_count_once(spans: list[tuple[float, float]], length: float) -> None:
    assert covered(spans) == length


def test_kernels_and_calls_of_raw_events() -> None:
    """Kernels of two streams overlap; the step's annotation is none; a launch lies in the operation that it names,
    whatever its thread, and one outside any operation has a number that an operation has too."""
    ms = 1_000_000
    events = [
        Event("Optimizer.step", 0, 90 * ms, GPU, annotation=True),
        Event("gemm", 0, 10 * ms, GPU),
        Event("gemm", 20 * ms, 10 * ms, GPU),
        Event("copy", 25 * ms, 15 * ms, GPU),
        Event("aten::mm", 0, 8 * ms, number=7),
        Event("cudaLaunchKernel", 2 * ms, 5 * ms, thread=99, number=1234, caller=7),
        Event("cudaDeviceSynchronize", 50 * ms, 30 * ms, thread=2, number=7),
        Event("aten::item", 1 * ms, 3 * ms, thread=3, number=8),
        Event("aten::_local_scalar_dense", 1 * ms, 2 * ms, thread=3, number=9),
    ]
    found = summed(events, GPU, wall=0.1)
    assert found["device_busy_share"] == 0.3
    assert found["most_time"] == [
        {"name": "gemm", "calls": 2, "ms": 20.0},
        {"name": "copy", "calls": 1, "ms": 15.0},
    ]
    assert found["calls"] == {
        "cudaDeviceSynchronize": {"calls": 1, "ms": 30.0},
        "aten::item": {"calls": 1, "ms": 1.0},
        "aten::_local_scalar_dense": {"calls": 1, "ms": 2.0},
        "cudaLaunchKernel": {"calls": 1, "ms": 5.0},
    }
    inside = host_times([(1, 0, -8, "aten::mm", 0), (99, 2, -5, "cudaLaunchKernel", 7)], {7: 1})
    assert inside == {"aten::mm": [1, 3], "cudaLaunchKernel": [1, 5]}


def test_raw_events_sum_to_what_torch_reports() -> None:
    """And the profiler builds no list of its own when it ends, which is what would take minutes."""
    a = torch.randn(64, 64, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        with record_function("ours"):
            (torch.nn.functional.linear(a, a).relu() @ a).sum().backward()
        a.grad[0, 0].item()
    assert seen.profiler._function_events is None
    host, threads = [], {}
    for e in seen.profiler.kineto_results.events():
        threads[e.correlation_id()] = e.start_thread_id()
        host.append((e.start_thread_id(), e.start_ns(), -e.duration_ns(), e.name(), e.linked_correlation_id()))
    found = host_times(host, threads)
    reported = {e.key: e.self_cpu_time_total for e in seen.key_averages()}
    assert {"ours", "aten::mm", "aten::item"} < reported.keys() <= found.keys()
    for name, microseconds in reported.items():
        assert found[name][1] / 1000 == pytest.approx(microseconds, abs=0.01), name


def test_the_profiled_run_is_told_by_its_raw_events(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("torch's own lists were built")

    monkeypatch.setattr(torch.autograd.profiler.profile, "_parse_kineto_results", refuse)
    a = torch.randn(512, 512)
    found = profiled(lambda: [(a @ a).sum().item() for _ in range(20)], "cpu", None)
    assert found["most_time"][0]["name"] == "aten::mm" and found["most_time"][0]["calls"] == 20
    assert found["calls"]["aten::item"]["calls"] == 20 and found["device_busy_share"] == 0
    assert 0 < sum(row["ms"] for row in found["most_time"]) <= found["wall_seconds"] * 1000
    assert set(found["calls"]) <= set(update_profile.WAITS)


def test_an_update_is_profiled(tmp_path: Path) -> None:
    """In a process of its own, which becomes a group of one."""
    command = [sys.executable, "-m", "benchmarks.update_profile", "--groups", "2", "--rollouts", "2", "--repeats", "1"]
    command += [
        "--work",
        str(tmp_path),
        "--json",
        str(tmp_path / "found.json"),
        "--trace",
        str(tmp_path / "trace.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["seconds"]) == {"first_update", "log_probs", "update", "optimiser"}
    assert all(s > 0 for s in found["seconds"].values()) and found["seconds"]["optimiser"] < found["seconds"]["update"]
    assert found["update_mfu"] > 0 and found["forward_tflop"] > 0 and found["tokens"] > 100
    assert any(row["name"] == "videoseg::attend_backward" for row in found["profile"]["most_time"])
    assert found["profile"]["of"]["groups"] == 1 and 0 < found["profile"]["of"]["tokens"] < found["tokens"]
    assert found["memory"] == {}  # there is no CUDA
    assert (tmp_path / "trace.json").stat().st_size > 1000
