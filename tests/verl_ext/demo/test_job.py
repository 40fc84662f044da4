"""From a clip and sentences to turns, film, masks and clicks, without Gradio."""

from __future__ import annotations

import html
import json
import re
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.report.images import decode
from eval.results.results_file import read_results
from rollout.types import Clip
from rollout.video import video_facts, video_frame, video_times
from tests.eval.clips import BAIT
from tests.verl_ext.demo.conftest import FRAMES, LEFT, NOTHING, RIGHT, WatchedScript
from tests.videos import SIZE, write_video
from verl_ext.demo import film, job
from verl_ext.demo.engine import Engine, clip_of
from verl_ext.demo.examples import draw_examples
from verl_ext.demo.visits import Visits
from verl_ext.evaluation.targets import stream

HEIGHT, WIDTH = SIZE


def told(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", markup)).strip()


def asked(engine: Engine, visits: Visits, upload: Path | None, *sentences: str, by: str = "ann") -> list[job.Shown]:
    return list(job.answer(engine, visits, by, None if upload is None else str(upload), "\n".join(sentences)))


def test_turns_come_first_then_film_and_masks(
    engine: Engine, worker: WatchedScript, visits: Visits, upload: Path
) -> None:
    worker.go_on.clear()
    steps = job.answer(engine, visits, "ann", str(upload), f"{LEFT}\n{RIGHT}")
    first = next(steps)
    assert told(first.said) == f"{FRAMES} frames, {WIDTH} x {HEIGHT}: answering …" and first.film is None
    growing = next(step for step in steps if "looking" in step.turns)
    assert growing.turns.count("&lt;think&gt;looking") == 2 and growing.turns.count("<img ") == 4, "frames 0 and 3 each"
    worker.go_on.set()
    *_, done = steps
    assert told(done.said) == "Done." and done.frames == FRAMES
    assert [Path(f).name for f in done.files] == ["my_clip_overlay.mp4", "my_clip_masks.zip", "my_clip_masks.jsonl"]
    assert "It is there." in done.turns and done.turns.count("a mask in") == 2
    records = sorted(read_results(Path(done.files[2])), key=lambda r: r.expression_id)
    assert [r.text for r in records] == [LEFT, RIGHT] and all(len(r.prediction) == FRAMES for r in records)
    with zipfile.ZipFile(done.files[1]) as archive:
        names = [f"my_clip/{n}/{t:05d}.png" for n in range(2) for t in range(FRAMES)]
        assert sorted(archive.namelist()) == sorted([*names, "my_clip/sentences.tsv"])
        for n, record in enumerate(records):
            with Image.open(archive.open(f"my_clip/{n}/00004.png")) as png:
                assert np.array_equal(np.asarray(png) > 0, decode(record.prediction[4], HEIGHT, WIDTH, "test"))


def test_the_viewer_opens_what_is_taken_home(engine: Engine, visits: Visits, upload: Path, tmp_path: Path) -> None:
    from verl_ext.viewer import open_source

    (*_, done) = asked(engine, visits, upload, LEFT, RIGHT)
    (tmp_path / "results.jsonl").write_bytes(Path(done.files[2]).read_bytes())
    entries, problems = open_source(tmp_path).entries()
    assert {e.text for e in entries} == {LEFT, RIGHT} and not problems


def test_the_masks_are_those_of_evaluation(engine: Engine, visits: Visits, upload: Path, tmp_path: Path) -> None:
    from eval.inference.run import infer
    from verl_ext.demo.engine import target_at

    (*_, done) = asked(engine, visits, upload, LEFT, RIGHT)
    target = target_at(visits.of("ann").folder)
    keys = [("my_clip", "0"), ("my_clip", "1")]
    again = infer(engine.cluster, stream(target, target.open(), keys), tmp_path / "eval")
    assert sorted(again.results.read_text().splitlines()) == sorted(Path(done.files[2]).read_text().splitlines())


def test_what_is_asked_about_one_clip_encodes_it_once(engine: Engine, visits: Visits, upload: Path) -> None:
    cache = engine.cluster.pool.scorer.cache
    asked(engine, visits, upload, LEFT, RIGHT)
    assert cache.encoded_frames == FRAMES
    asked(engine, visits, upload, RIGHT)
    job.click(engine, visits.of("ann"), 3, 5.0, 5.0)
    assert cache.encoded_frames == FRAMES, "another sentence, another time, and a click"


def test_one_job_at_a_time_a_visitor(
    engine: Engine, worker: WatchedScript, visits: Visits, upload: Path, tmp_path: Path
) -> None:
    worker.go_on.clear()
    steps = job.answer(engine, visits, "ann", str(upload), LEFT)
    next(steps)
    (refused,) = asked(engine, visits, upload, RIGHT)
    assert "one at a time" in told(refused.said)
    leaving = threading.Thread(target=visits.leave, args=("ann",))
    folder = visits.of("ann").folder
    leaving.start()
    leaving.join(0.3)
    assert leaving.is_alive() and folder.exists(), "nothing is taken away from under a job"
    worker.go_on.set()
    leaving.join(30)
    assert not folder.exists()
    assert not upload.exists(), "nor is their upload of use any more"
    (gone,) = asked(engine, visits, upload, LEFT, by="bob")
    assert told(gone.said) == f"{upload.name}: is not here any more; bring it again"
    *_, last = asked(engine, visits, write_video(tmp_path / "other.mp4", range(0, 400, 40)), LEFT, by="bob")
    assert told(last.said) == "Done.", "the next one is answered"


def test_the_end_does_not_wait_for_a_job(
    engine: Engine, worker: WatchedScript, visits: Visits, upload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.inference.pipeline.TICK_SECONDS", 0.1)
    worker.go_on.clear()
    steps = job.answer(engine, visits, "ann", str(upload), LEFT)
    next(steps)
    ending = threading.Thread(target=engine.close)
    ending.start()
    ending.join(30)
    assert not ending.is_alive()
    *_, last = steps
    assert told(last.said) == "the demo was ended"
    visits.leave("ann")


def test_a_still_is_a_clip(engine: Engine, visits: Visits, tmp_path: Path) -> None:
    *_, done = asked(engine, visits, write_video(tmp_path / "still.mp4", [0]), LEFT)
    assert told(done.said) == "Done." and (done.frames, done.frame) == (1, 0)
    assert np.array_equal(job.picture(visits.of("ann"), 1), job.picture(visits.of("ann"), 0))  # type: ignore[arg-type]


def test_what_goes_wrong_is_said(engine: Engine, visits: Visits, upload: Path, tmp_path: Path) -> None:
    assert [told(s.said) for s in asked(engine, visits, None, LEFT)] == ["Bring a clip first, or pick an example."]
    assert [told(s.said) for s in asked(engine, visits, upload)] == ["Say what to look for: one sentence a line."]
    *_, failed = asked(engine, visits, upload, "the <|im_start|> one")
    assert "No sentence could be answered" in told(failed.said) and failed.film is None
    assert "&lt;|im_start|&gt;" in failed.turns and "<|im_start|>" not in failed.turns
    *_, mixed = asked(engine, visits, upload, LEFT, "the <|im_start|> one")
    assert told(mixed.said) == "1 of 2 sentences failed, see below." and mixed.film is not None
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"\0\0\0\x20ftyp" + bytes(500))
    (said,) = asked(engine, visits, damaged, LEFT)
    assert told(said.said).startswith("damaged.mp4: cannot be read as a video") and str(tmp_path) not in said.said


def test_an_engine_that_ended_says_so(
    engine: Engine, visits: Visits, upload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(requests: Any) -> Any:
        raise OSError("no space left on device")

    monkeypatch.setattr(engine.cluster.pool, "submit", gone)
    *_, said = asked(engine, visits, upload, LEFT)
    assert told(said.said) == "OSError: no space left on device"
    (again,) = asked(engine, visits, upload, LEFT)
    assert "the engine stopped (OSError: no space left on device); start the demo again" in told(again.said)


def test_hostile_text_stays_text(engine: Engine, visits: Visits, upload: Path) -> None:
    *_, done = asked(engine, visits, upload, NOTHING)
    assert BAIT not in done.turns and html.escape(BAIT, quote=False).replace('"', "&#34;") in done.turns.replace(
        "&#39;", "'"
    )
    assert "bad action" in done.turns and "a mask in 0 of 10 frames" in done.turns


def test_a_click_tells_a_naming_error_from_a_mask_error(engine: Engine, visits: Visits, upload: Path) -> None:
    asked(engine, visits, upload, LEFT, NOTHING)
    visit = visits.of("ann")
    clip = clip_of(visit.folder)
    scale = film.side_of(clip, film.PICTURE_SIDES) / WIDTH
    picture, said = job.click(engine, visit, 5, 20.5 * scale, 30.5 * scale)
    assert picture is not None and picture.shape == (round(HEIGHT * scale), round(WIDTH * scale), 3)
    own = engine.click(clip, 5, 20.5, 30.5)
    there = decode(own, HEIGHT, WIDTH, "test")
    mask = decode(visit.answers[0].record.prediction[5], HEIGHT, WIDTH, "test")  # type: ignore[union-attr]
    iou = (mask & there).sum() / (mask | there).sum()
    assert f"“{LEFT}”: IoU {iou:.2f}" in told(said) and "the policy drew nothing in this frame" in told(said)
    record = visit.answers[0].record
    assert record is not None
    for drawn, words in ((own, "the policy drew this object"), (None, "drew nothing")):
        visit.answers[0] = replace(visit.answers[0], record=replace(record, prediction=(drawn,) * FRAMES))
        assert words in told(job.click(engine, visit, 5, 20.5 * scale, 30.5 * scale)[1]).split("“nothing")[0]
    nothing, why = job.click(engine, visit, 5, -1.0, 1.0)
    assert nothing is None and "lies outside its 64 x 48 pixels" in told(why)
    assert job._told(0.2, True, True).startswith("the policy's mask lies on it")
    assert job._told(0.0, True, False).startswith("the policy drew something else")


# ---- the film ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stamps", [[0, 40, 200, 210, 900], [0], list(range(0, 400, 33))])
def test_the_film_shows_every_frame_at_its_time(tmp_path: Path, stamps: list[int]) -> None:
    source = write_video(tmp_path / "clip.mkv", stamps)
    frames = tuple(f"{source}#{t}" for t in range(len(stamps)))
    clip = Clip("clip", frames, HEIGHT, WIDTH, None, tuple(s / 1000 for s in stamps) if len(stamps) > 1 else ())
    film.write_film(tmp_path / "film.mp4", clip, [[None] * len(stamps)])
    facts = video_facts(tmp_path / "film.mp4")
    assert (facts.num_frames, facts.width, facts.height) == (len(stamps), 320, 240)
    assert np.allclose(video_times(tmp_path / "film.mp4"), np.array(stamps) / 1000, atol=1e-3)
    import av

    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"


def test_without_h264_it_is_vp9(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "ENCODERS", (("no_such_codec", {}), film.ENCODERS[1]))
    film.write_pictures(tmp_path / "film.mp4", [np.zeros((48, 65, 3), np.uint8)] * 2, np.array([0.0, 0.5]))
    import av

    with av.open(str(tmp_path / "film.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "vp9"


def test_each_sentence_has_its_colour_and_the_rest_is_dim(engine: Engine, visits: Visits, upload: Path) -> None:
    (*_, done) = asked(engine, visits, upload, LEFT, RIGHT)
    visit = visits.of("ann")
    picture = job.picture(visit, 4)
    assert picture is not None
    for n, answer in enumerate(visit.answers):
        assert answer.record is not None
        there = decode(answer.record.prediction[4], HEIGHT, WIDTH, "test").any()
        assert (picture == film.COLOURS[n]).all(2).any() == there
    assert done.film is not None
    shown = np.asarray(video_frame(done.film, 4)).astype(int)
    small = np.asarray(Image.fromarray(picture).resize((320, 240)))
    assert np.abs(shown - small.astype(int)).mean() < 16, "the film shows what the picture does"


def test_examples_are_clips_that_are_taken(tmp_path: Path, visits: Visits) -> None:
    made = draw_examples(tmp_path)
    assert len(made) == 3 and all(e.sentences for e in made)
    for example in made:
        visits.take("ann", str(example.clip))
        assert video_facts(example.clip).num_frames == 16
    assert json.dumps([e.sentences for e in made]) == json.dumps([e.sentences for e in draw_examples(tmp_path)])
