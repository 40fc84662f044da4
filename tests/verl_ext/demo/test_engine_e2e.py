"""The demo's engine with Ray, vLLM and a pool: what no scripted policy can show."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollout.types import decode_rle
from tests.videos import SIZE, write_video
from verl_ext.demo.engine import VIDEOS, Engine, clip_of, target_at
from verl_ext.evaluation.request import Request

FRAMES = 12
SENTENCES = ("the red circle", "the one that leaves")


@pytest.mark.e2e
def test_turns_grow_and_a_clip_is_encoded_once(
    tmp_path: Path, tiny_policy: Path, tiny_recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verl_ext.demo.engine.PAUSE_S", 0.02)  # a tiny policy answers within one look of the usual ones
    (tmp_path / VIDEOS).mkdir()
    write_video(tmp_path / VIDEOS / "mine.mp4", [40 * t for t in range(FRAMES)])
    asked = ("stage=grpo", f"data=[{{dataset: generic, root: {tmp_path}, split: all}}]", "rollout.max_turns=1")
    engine = Engine.start(Request(tiny_policy, (target_at(tmp_path),), tiny_recipe_file, asked))
    try:
        job = engine.ask(tmp_path, SENTENCES)
        told = list(job)
        answers = job.answers()
        assert [a.sentence for a in answers] == list(SENTENCES)
        for n, a in enumerate(answers):
            assert a.record is not None and len(a.record.prediction) == FRAMES, a.problem
            texts = [turns[n][0].text for turns in told if turns[n]]
            assert len(set(texts)) > 1 and not texts[0].startswith(texts[-1]), "a reply is told while it grows"
            assert told[-1][n][0].shown == a.record.turns[0].frames_shown
        before = engine.cluster.pool.encoded_frames()
        again = engine.ask(tmp_path, SENTENCES[:1])
        assert list(again) is not None and again.answers()[0].record == answers[0].record, "greedy: the same once more"
        mask = decode_rle(engine.click(clip_of(tmp_path), 3, 10.0, 10.0))
        assert mask.shape == SIZE
        assert engine.cluster.pool.encoded_frames() == max(before, 1)
    finally:
        engine.close()
