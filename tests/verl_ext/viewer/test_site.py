"""Pages without a browser: what is refused, what is damaged, evaluations, traces, and the command's errors."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.viewer_runs import write_run
from data_construction.layouts import write_layout
from eval.benchmarks import load_benchmark
from eval.scores.benchmark import score_benchmark
from eval.scores.files import write_scores
from rollout.errors import DataError
from rollout.types import Sample
from tests.eval.answers import disturbed, write_results
from tests.verl_ext.viewer.conftest import STEPS, served
from verl_ext.cli.main import app
from verl_ext.rollout_log import step_files
from verl_ext.viewer import Site, open_source
from verl_ext.viewer.model import Curve
from verl_ext.viewer.pages import thinned


def text(site: Site, name: str, status: int = 200) -> str:
    response = site.respond(name)
    page = response.body.decode()
    assert response.status == status, page[-2000:]
    assert "Traceback" not in page
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.partition("</style>")[2]))


def index(site: Site) -> dict[str, Any]:
    return json.loads(site.respond("index.json").body)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd", "/etc/passwd", "rollouts/step_000001.jsonl", "group-a-../x.html", "group-c-1-0.html",
        "group-a-999-0.html", "group-a-1-99.html", "group-a-1.html", "group-b-1-0.html", "pair-1-0-and-1-0.html",
        "f-a-1-0-99999-96.jpg", "f-a-1-0-0-4000.jpg", "m-a-1-0-9-9-0-96.png", "t-a-1-0-0-97.png", "x-a-1-0-77-0-96.png",
        "group-a-1-0.html\n", "group-a-99999999999999999999-0.html",
    ],
)  # fmt: skip
def test_only_what_the_run_holds_is_served(runs: tuple[Path, Path], name: str) -> None:
    page = text(Site([open_source(runs[0])]), name, 404)
    assert "Not shown" in page and "root:" not in page


def test_a_server_on_loopback_answers_to_no_other_name(runs: tuple[Path, Path]) -> None:
    import httpx

    with served(runs[0]) as address:
        assert httpx.get(address).status_code == 200
        assert httpx.get(address, headers={"host": "evil.example"}).status_code == 400
        found = httpx.get(f"{address}..%2f..%2f..%2fetc/passwd")
        assert found.status_code == 404 and "root:" not in found.text
        assert httpx.get(address).headers["x-content-type-options"] == "nosniff"
        assert httpx.post(address).status_code == 405


def test_every_picture_of_a_group_is_there(runs: tuple[Path, Path]) -> None:
    site = Site([open_source(runs[0])])
    page = site.respond("group-a-30-0.html").body.decode()
    names = set(re.findall(r'src="([^"]+)"', page))
    assert {n[0] for n in names} == {"f", "m", "t"}
    for name in names:
        response = site.respond(name)
        assert response.status == 200 and response.keeps, name
        kind = {"f": b"\xff\xd8", "m": b"\x89PNG", "t": b"\x89PNG"}[name[0]]
        assert response.body.startswith(kind), name


def test_masks_lie_where_they_were_decoded(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """The clear part of a layer is the mask, the dim part the rest."""
    import io

    import numpy as np

    from rollout.types import decode_rle

    site = Site([open_source(runs[0])])
    group = site.group("a", "30-0")
    assert group.clip is not None
    turn = group.dialogues[0].turns[0]
    frame, rle = next((t, r) for t, r in turn.masks.items() if r is not None and decode_rle(r).any())
    layer = Image.open(io.BytesIO(site.respond(f"m-a-30-0-0-0-{frame}-320.png").body)).convert("RGBA")
    alpha = np.asarray(layer.resize((group.clip.width, group.clip.height), Image.Resampling.NEAREST))[..., 3]
    mask = decode_rle(rle)
    agrees = (alpha == 130) == ~mask
    assert agrees.mean() > 0.97


def test_damaged_files_say_so_and_the_rest_stays(tmp_path: Path, viewer_samples: list[Sample]) -> None:
    run = tmp_path / "run"
    write_run(run, viewer_samples, 4, 2, 2)
    site = Site([open_source(run)])
    assert len(index(site)["sides"]["a"]["key"]) == 8
    files = [f.path for f in step_files(run)]
    files[0].write_bytes(files[0].read_bytes()[:-400])  # a copy that was cut off: its last group is torn
    files[1].write_text("")
    files[2].unlink()
    files[2].symlink_to("/etc/passwd")
    with (run / "metrics.jsonl").open("a") as f:
        f.write('{"step": 5, "da')
    (run / "held_out.jsonl").write_text('{"step": 0, "val/jf": 30.0}\n{"st')
    found = index(site)
    assert found["sides"]["a"]["key"] == ["4-0", "4-1", "1-0", "1-1"]
    problems = " ".join(found["problems"])
    assert "step_000002.jsonl: its first line cannot be read" in problems and "the file is empty" in problems
    assert "step_000003.jsonl: refused, it is a link that leads out of" in problems and "root:" not in problems
    time.sleep(0.6)  # pages may be half a second old
    assert "the line of group 1 is cut off" in text(site, "group-a-1-1.html", 404)
    assert "refused" in text(site, "group-a-3-0.html", 404)
    assert "dialogues, side by side" in site.respond("group-a-1-0.html").body.decode()
    assert "held-out J&F" in site.respond("curves.html").body.decode().replace("&amp;", "&")


def test_a_folder_of_rubbish_is_said_in_words(tmp_path: Path, viewer_samples: list[Sample]) -> None:
    """Lines and files of every wrong shape: the page comes, and what is whole is on it."""
    run = tmp_path / "run"
    write_run(run, viewer_samples, 2, 1, 2)
    rubbish = '3\nnull\n[]\n{"step": "x", "data": {}}\n{"step": 7}\n{"step": 8, "data": {"reward/mean": "NaN"}}\n\xff\n'
    for name in ("metrics.jsonl", "held_out.jsonl"):
        with (run / name).open("ab") as f:
            f.write(rubbish.encode("latin-1") + b'{"step": 9, "data": {"reward/mean": NaN}}\n')
    (run / "resolved.yaml").write_text("name: [half")
    (run / "result.json").write_text("[]")
    (run / "rollouts" / "step_000003.jsonl").mkdir()
    (run / "rollouts" / "step_000004.jsonl").write_bytes(b"\xff\xfe\n")
    (run / "rollouts" / "notes.txt").write_text("x")
    site = Site([open_source(run)])
    found = index(site)
    assert found["sides"]["a"]["key"] == ["2-0", "1-0"] and found["sides"]["a"]["title"] == "run"
    assert len(found["problems"]) == 2 and all(f"step_00000{n}" in found["problems"][4 - n] for n in (3, 4))
    assert "reward" in text(site, "index.html") and b"reward" in site.respond("curves.html").body


def test_frames_that_moved_or_changed(tmp_path: Path, tiny_data: Path) -> None:
    import shutil

    from data_construction.readers import open_dataset

    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    found = [s for s in open_dataset("revos", data, "train").samples() if s.expression.anno_ids][:1]
    write_run(tmp_path / "run", found, 1, 1, 1)
    moved = tmp_path / "moved"
    shutil.move(data, moved)
    source = open_source(tmp_path / "run")
    page = text(Site([source]), "group-a-1-0.html")
    assert "frames are not where the run saw them" in page and str(data) in page
    again = Site([source], moved={str(data): str(moved)})
    assert "not where" not in text(again, "group-a-1-0.html")
    group = again.group("a", "1-0")
    assert group.clip is not None
    plain = again.respond("f-a-1-0-0-96.jpg").body
    Image.new("RGB", (300, 100)).save(group.clip.frames[0])  # another frame of the same name
    assert again.respond("f-a-1-0-0-96.jpg").body != plain
    Path(group.clip.frames[0]).write_text("no picture")
    assert again.respond("f-a-1-0-0-96.jpg").status == 200


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("eval")
    write_layout("revos", base / "ReVOS", clips=3)
    benchmark = load_benchmark("revos")
    every = list(benchmark.samples(base / "ReVOS"))
    results = write_results(base / "runs/revos", every[1:], disturbed)
    write_scores(score_benchmark(results, benchmark, base / "ReVOS", workers=1), results.parent)
    return results.parent, base / "ReVOS"


def test_an_evaluation_opens(evaluation: tuple[Path, Path]) -> None:
    folder, root = evaluation
    site = Site([open_source(folder, (str(root),))])
    columns = index(site)["sides"]["a"]
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert columns["score"] == "J&F" and len(columns["key"]) == len(lines)
    assert columns["stops"] == [[line["stop"]] for line in lines]
    assert columns["turns"] == [[len(line["turns"])] for line in lines]
    assert columns["text"] == [line["text"] for line in lines] and columns["kind"] == [line["kind"] for line in lines]
    rows = json.loads((folder / "scores.json").read_text())["expressions"]
    scores = {(r["clip"], r["expression_id"]): r["jf"] for r in rows}
    wanted = [[round(scores[line["clip"], line["expression_id"]], 4)] for line in lines]
    assert columns["scores"] == wanted
    page = site.respond("group-a-1.html").body.decode()
    assert "masks of the whole clip" in page and 'src="m-a-1-0-answer-' in page and "No pictures" not in page
    for name in re.findall(r'src="([^"]+)"', page):
        assert site.respond(name).status == 200, name
    assert "No pictures: give --root" in text(Site([open_source(folder)]), "group-a-1.html")


def test_an_evaluation_that_is_being_written(evaluation: tuple[Path, Path], tmp_path: Path) -> None:
    whole = (evaluation[0] / "results.jsonl").read_text()
    (tmp_path / "results.jsonl").write_text(whole[:-30])
    source = open_source(tmp_path)
    site = Site([source])
    found = index(site)
    assert "half written" in " ".join(found["problems"]) and source.state() == "running"
    assert len(found["sides"]["a"]["key"]) == len(whole.splitlines()) - 1
    before = site.respond("stamp.json").body
    (tmp_path / "results.jsonl").write_text(whole)
    source._again_at = 0.0  # type: ignore[attr-defined]  # however long reading took
    assert site.respond("stamp.json").body != before and not index(site)["problems"]


def test_traces_open(tiny_data: Path, tmp_path: Path) -> None:
    records = tiny_data / "vts_cot_train.json"
    from data_construction.traces import Sources
    from verl_ext.viewer.trace_files import TraceSource

    site = Site([TraceSource(records, Sources.parse([str(tiny_data)], "revos", "train"))])
    columns = index(site)["sides"]["a"]
    assert columns["score"] == "" and len(columns["key"]) == len(json.loads(records.read_text()))
    page = site.respond(f"group-a-{columns['key'][0]}.html").body.decode()
    assert 'class="action answer"' in page and 'src="f-a-' in page and "Step 1" in page
    assert "No pictures" in text(Site([open_source(records)]), f"group-a-{columns['key'][0]}.html")


def test_a_folder_of_several_names_them(tmp_path: Path, viewer_samples: list[Sample]) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / name, viewer_samples, 1, 1, 1)
    with pytest.raises(DataError, match="holds several; give one of them: one, two"):
        open_source(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="nothing to view"):
        open_source(tmp_path / "empty")
    with pytest.raises(DataError, match="is not there"):
        open_source(tmp_path / "nowhere")
    import shutil

    shutil.rmtree(tmp_path / "two" / "rollouts")
    assert open_source(tmp_path).title == "rl"  # the one that keeps rollouts


def test_a_long_run_has_curves_of_few_points() -> None:
    curve = Curve("x", [float(i) for i in range(10_000)], [1.0] * 9_999 + [float("nan")])
    steps, values = thinned(curve)
    assert len(steps) <= 400 and values == [1.0] * len(values)


def test_the_command(runs: tuple[Path, Path], tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(app, ["view", str(runs[0]), "--static", str(tmp_path / "pages"), "--limit", "3"])
    assert done.exit_code == 0 and "3 groups" in done.output, done.output
    names = {p.name for p in (tmp_path / "pages").iterdir()}
    assert "index.html" in names and f"group-a-{STEPS}-0.html" in names
    for page in (tmp_path / "pages").glob("*.html"):
        for name in re.findall(r'(?:src|href)="([^"#]+)"', page.read_text()):
            assert name in names or name.startswith("data:"), (page.name, name)
    for arguments, words in (
        ([str(runs[0]), "--static", str(tmp_path / "pages")], "already exists"),
        ([str(runs[0]), "--moved", "a"], "--moved a: wants OLD=NEW"),
        ([str(tmp_path / "nowhere")], "is not there"),
        ([str(runs[0]), "--host", "192.0.2.1"], "--host 192.0.2.1"),
    ):
        done = run(app, ["view", *arguments])
        assert done.exit_code != 0 and words in " ".join(done.output.split()), done.output


def test_the_address_answers_as_soon_as_it_is_printed(runs: tuple[Path, Path]) -> None:
    """And Ctrl-C ends it."""
    import os
    import signal
    import subprocess
    import sys

    import httpx

    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "verl_ext.cli.main", "view", str(runs[0]), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        assert httpx.get(address, timeout=60).status_code == 200
        taken = CliRunner().invoke(app, ["view", str(runs[0]), "--port", address.strip("/").rpartition(":")[2]])
        assert taken.exit_code != 0 and "give another --port" in " ".join(taken.output.split())
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) in (0, 130, -signal.SIGINT)


def test_a_box_answer_is_drawn_on_its_keyframe(tmp_path: Path, viewer_samples: list[Sample]) -> None:
    import io

    import numpy as np

    from rollout.types import StopReason
    from verl_ext.rollout_log import KeptGroup, KeptRollout, KeptTurn, LogProbs, write_step

    sample = viewer_samples[0]
    reply = '<think>x</think><answer>{"keyframe_timestamp": 1, "bbox_2d_list": [[28, 28, 84, 84]]}</answer>'
    turn = KeptTurn(reply, None, None, 1, (0, 1, 2), {})
    rollout = KeptRollout(StopReason.ANSWERED, (turn,), {"total": 1.0}, {}, 0.0, LogProbs(3), (0, 0))
    write_step(tmp_path, 1, [KeptGroup(sample.id, "x", "", sample.clip, (0, 1, 2), (), {}, (rollout,), 112)])
    site = Site([open_source(tmp_path)])
    page = site.respond("group-a-1-0.html").body.decode()
    (name,) = re.findall(r'src="(x-[^"]+)"', page)
    layer = np.asarray(Image.open(io.BytesIO(site.respond(name).body)).convert("RGBA"))
    rows, columns = np.nonzero(layer[..., 3])
    height, width = layer.shape[:2]
    corners = [columns.min() / width, rows.min() / height, columns.max() / width, rows.max() / height]
    assert corners == pytest.approx([0.25, 0.25, 0.75, 0.75], abs=0.02) and "1 box" in page
