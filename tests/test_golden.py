"""The golden files agree, and the checker can tell when they do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import golden
from tests.golden_checks import CHECKS
from tests.golden_checks.report import Case, Check, check_file

FILES = Path(__file__).parent / "golden_files"
O3, VEASON, CALIBRATION = "videoseg_o3_rewards.json", "veason_r1_rewards.json", "videoseg_o3_seg_calibration.json"
CASES = {O3: 160, VEASON: 160, CALIBRATION: 9, "jf_davis.json": 45}


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_vendored_file_agrees(name: str) -> None:
    report = check_file(FILES / name, CHECKS[name])
    assert report.passed, "\n".join([str(report), *report.details[:10]])
    assert report.cases >= CASES.get(name, 1)


def _copy_with(folder: Path, name: str, edit: Any) -> Path:
    data = json.loads((FILES / name).read_text())
    edit(data)
    (folder / name).write_text(json.dumps(data))
    return folder


def _shift(case: dict[str, Any], key: str, by: float) -> None:
    case["expected"][key] += by


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        (O3, lambda d: _shift(d[7], "lr_maskiou_dense", 2e-5)),
        (O3, lambda d: d[7]["expected"].pop("termination")),
        (O3, lambda d: d[3]["per_round_keyframe_ious"].__setitem__(-1, 0.0)),
        (VEASON, lambda d: _shift(d[1], "spatial_plus_consistency", -2e-5)),
        (VEASON, lambda d: d[1]["matched_boxes_passed_to_sam2"].pop()),
        (CALIBRATION, lambda d: _shift(d[0], "loss", 1e-3)),
        (CALIBRATION, lambda d: d[2]["seg_token_index"][0].append(3)),
        (O3, lambda d: d.clear()),
    ],
)
def test_perturbed_file_is_a_mismatch(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, edit: Any) -> None:
    assert golden.main([str(_copy_with(tmp_path, name, edit))]) == 1
    out = capsys.readouterr().out
    assert f"{name}: " in out and "FAILED" in out and " 1 mismatches" in out


def test_report_line_counts_cases_and_deviation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(FILES / O3, tmp_path)
    assert golden.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"{O3}: 160 cases, 0 mismatches, largest deviation ")
    _copy_with(tmp_path, O3, lambda d: _shift(d[0], "step_format_cot", 0.25))
    assert golden.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "1 mismatches, largest deviation 0.25 " in out
    assert "case 0.step_format_cot: expected 1.0, found 0.75" in out


def test_garbage_and_empty_folders_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main([str(tmp_path)]) == 1
    assert "holds no golden file" in capsys.readouterr().out
    (tmp_path / O3).write_text("{")
    assert golden.main([str(tmp_path)]) == 1


def _not_built(data: Any) -> list[Case]:
    import rewards.not_built_yet  # noqa: F401

    raise AssertionError("unreachable")


def test_missing_feature_is_not_a_pass(tmp_path: Path) -> None:
    shutil.copy(FILES / O3, tmp_path)
    report = check_file(tmp_path / O3, Check(O3, 1e-5, _not_built))
    assert not report.passed and not report.failed
    assert str(report).startswith(f"{O3}: not implemented (")
    assert golden.exit_status([report]) == 3


def test_nan_and_type_changes_are_mismatches(tmp_path: Path) -> None:
    (tmp_path / O3).write_text("[]")

    def run(expected: Any, found: Any) -> int:
        return check_file(tmp_path / O3, Check(O3, 1e-5, lambda _: [Case("x", expected, lambda: found)])).mismatches

    assert run(0.5, float("nan")) == 1
    assert run([0.5], [0.5, 0.5]) == 1
    assert run(None, 0.0) == 1
    assert run(True, 1.0) == 1
    assert run({"a": 1.0}, {"a": 1.0, "b": 1.0}) == 1
    assert run({"a": [1, None]}, {"a": (1.000001, None)}) == 0
