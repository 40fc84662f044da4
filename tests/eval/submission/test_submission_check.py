"""A submission looked through again: everything that is wrong with it by name, tricks refused, bombs not unpacked."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from data_construction.layouts import write_layout
from eval.submission import check_submission
from rollout.errors import DataError
from tests.eval.submissions import Mevis, png, rezip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts") / "mevis"
    write_layout("mevis", folder, clips=2)
    return folder


@pytest.fixture
def mevis(root: Path, tmp_path: Path) -> Mevis:
    return Mevis(root, tmp_path)


def test_check_finds_what_is_wrong(mevis: Mevis) -> None:
    mevis.write()
    with zipfile.ZipFile(mevis.out) as archive:
        names = archive.namelist()
    height, width = mevis.samples[0].clip.height, mevis.samples[0].clip.width
    grey = Image.new("L", (width, height), 1)
    wrong: dict[str, tuple[bytes | None, str]] = {
        names[0]: (None, "missing"),
        names[1]: (png(grey), "values other than 0 and 255, such as 1"),
        names[2]: (png(Image.new("L", (height + 1, width))), "is .* the clip is"),
        names[3]: (png(Image.new("P", (width, height))), "mode P"),
        names[4]: (png(Image.new("1", (width, height))), "mode 1"),
        names[5]: (png(Image.new("RGB", (width, height))), "mode RGB"),
        names[6]: (png(grey, "JPEG"), "cannot be read as a PNG"),
        names[7]: (b"", "cannot be read as a PNG"),
        "readme.txt": (b"hello", "is not a file of benchmark mevis_valid"),
    }
    rezip(mevis.out, {name: content for name, (content, _) in wrong.items()})
    problems = check_submission(mevis.out, mevis.benchmark, mevis.root)
    assert len(problems) == len(wrong)
    for name, (_, says) in wrong.items():
        (found,) = [p for p in problems if p.startswith(f"{name}: ")]
        assert re.search(says, found), found


def test_damaged_compression_is_one_message(mevis: Mevis) -> None:
    mevis.write()
    rezip(mevis.out, {"notes.txt": bytes(5000)})  # now all of it is compressed
    with zipfile.ZipFile(mevis.out) as archive:
        first = archive.infolist()[0]
        begin = first.header_offset + 30 + len(first.filename)
    content = bytearray(mevis.out.read_bytes())
    content[begin : begin + 4] = b"\xff" * 4
    mevis.out.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(first.filename) + " cannot be read .*pack it again"):
        check_submission(mevis.out, mevis.benchmark, mevis.root)


def test_check_refuses_tricks(mevis: Mevis, tmp_path: Path) -> None:
    for name in ("../../evil.png", "/evil.png", "a/../../evil.png", "a\\b.png"):
        path = tmp_path / "trick.zip"
        with zipfile.ZipFile(path, "w") as archive:
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, b"x")
        with pytest.raises(DataError, match="could point outside"):
            check_submission(path, mevis.benchmark, mevis.root)
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="a link"):
        check_submission(tmp_path / "link.zip", mevis.benchmark, mevis.root)
    (tmp_path / "no.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="cannot be read as a zip"):
        check_submission(tmp_path / "no.zip", mevis.benchmark, mevis.root)
    with pytest.raises(DataError, match="no submission there"):
        check_submission(tmp_path / "nothing", mevis.benchmark, mevis.root)


def test_a_bomb_is_not_unpacked(mevis: Mevis, monkeypatch: pytest.MonkeyPatch) -> None:
    from eval.packagers.png_folders import PngFolders

    mevis.write()
    with zipfile.ZipFile(mevis.out) as archive:
        name = archive.namelist()[0]
    rezip(mevis.out, {name: bytes(1 << 22)})
    monkeypatch.setattr(PngFolders, "largest", 1 << 20)
    assert check_submission(mevis.out, mevis.benchmark, mevis.root) == [
        f"{name}: has {1 << 22} bytes, which no such file has"
    ]
