"""The adapter between verl and a dialogue: what verl gets from good, over-long and unreadable rows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rewards.compose import VIDEOSEG_O3_REWARDS
from rewards.segmenter.types import PropagateRequest
from rewards.truth import truth
from rollout.environments.single_turn_boxes import BoxSettings, SingleTurnBoxes
from rollout.errors import DataError
from rollout.types import Sample, StopReason
from tests.verl_ext.batches import ANSWER, SELECT
from tests.verl_ext.dialogues import answer
from verl_ext.inference.seg_hidden import KEY, asked_in
from verl_ext.inference.turn_states import DRAWN_STATE
from verl_ext.policy.pictures import pictures_of
from verl_ext.recipe import Recipe
from verl_ext.recipe.rollout_settings import environment_of
from verl_ext.scoring.boxes import frame_truth

SETTINGS = ("rollout.turn_length=160", "rollout.response_length=640", "rollout.engine.max_model_len=1024")
Run = Callable[..., Any]


class Servers:
    """verl's server manager, with a script; ``version`` is that of the weights."""

    def __init__(self, tokenizer: Any, replies: Sequence[str], versions: Sequence[int | None] = (6, 7)) -> None:
        self.tokenizer, self.replies, self.versions = tokenizer, list(replies), list(versions)
        self.requests: list[dict[str, Any]] = []

    async def generate(self, **request: Any) -> Any:
        version = self.versions[len(self.requests)]
        ids = self.tokenizer.encode(self.replies[len(self.requests)], add_special_tokens=False)
        self.requests.append(request)
        ids = [*ids, self.tokenizer.convert_tokens_to_ids("<|im_end|>")][: request["sampling_params"]["max_tokens"]]
        steps = {"min_global_steps": version, "max_global_steps": version, "num_cached_tokens": 16}
        return SimpleNamespace(token_ids=ids, log_probs=[-0.5] * len(ids), stop_reason="completed", extra_fields=steps)


@pytest.fixture
def run(
    tiny_policy: Path, activate: Callable[[Recipe], Recipe], tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> Run:
    """``run(sample, replies, *overrides)`` -> (what verl gets, the servers)."""
    from transformers import AutoProcessor

    from verl_ext.inference.agent_loop import VideosegAgentLoop

    processor = AutoProcessor.from_pretrained(tiny_policy)

    def roll(
        sample: Sample, replies: Sequence[str], *overrides: str, more: Any = None, **given: Any
    ) -> tuple[Any, Servers]:
        activate(tiny_recipe("grpo", f"output_dir={tmp_path}", *SETTINGS, *overrides))
        loop = VideosegAgentLoop.__new__(VideosegAgentLoop)  # verl's own start is not of interest
        loop.processor, loop.tokenizer = processor, processor.tokenizer
        loop.server_manager = servers = Servers(processor.tokenizer, replies, **given)
        row = {"sample": sample.to_dict(), "held_out": False, "greedy": False, "global_steps": 8, "session_id": 0}
        row |= more or {}
        return asyncio.run(loop.run({"temperature": 1.0}, **row)), servers

    return roll


def test_a_dialogue_keeps_its_replica_and_tells_which_weights_spoke(run: Run, sample: Sample) -> None:
    output, servers = run(sample, [SELECT, ANSWER])
    assert output.extra_fields["episode"]["stop"] == "answered" and output.num_turns == 4
    assert len({r["request_id"] for r in servers.requests}) == 1  # verl sends a request id to one replica
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (6, 7)
    assert servers.requests[1]["prompt_ids"][: len(output.prompt_ids)] == output.prompt_ids
    shown = output.extra_fields["picture_inputs"]["pictures"].tolist()
    sizes = [[image.height, image.width] for image in servers.requests[1]["image_data"]]
    assert [size for _, *size in shown] == sizes and not output.multi_modal_data, "no pixel goes back to verl"
    assert [frame for frame, *_ in shown] == [f for t in output.extra_fields["episode"]["turns"] for f in t["shown"]]
    traffic = output.extra_fields["traffic"]
    assert traffic["cached_tokens"] == 32 and traffic["pictures"] == len(shown)
    assert traffic["prompt_tokens"] == sum(len(r["prompt_ids"]) for r in servers.requests)
    assert 0 < traffic["generate_seconds"] <= traffic["seconds"]
    assert not any("extra_args" in r["sampling_params"] for r in servers.requests), "no state is kept for nobody"
    sampled = sum(output.response_mask)
    assert sum(p for p in output.response_logprobs) == pytest.approx(-0.5 * sampled)
    assert run(sample, [ANSWER])[1].requests[0]["request_id"] != servers.requests[0]["request_id"]


def test_a_reply_cut_at_its_limit_is_known_though_verl_calls_every_end_completed(run: Run, sample: Sample) -> None:
    output, servers = run(sample, ["<think>" + "on and on " * 200])
    limit = servers.requests[0]["sampling_params"]["max_tokens"]
    assert limit == 160 and sum(output.response_mask) == limit
    assert output.extra_fields["episode"]["stop"] == "length"


def test_held_out_draws_are_the_same_at_every_evaluation(run: Run, sample: Sample) -> None:
    def seeds(**more: Any) -> list[int | None]:
        _, servers = run(sample, [SELECT, ANSWER], more=more)
        return [request["sampling_params"].get("seed") for request in servers.requests]

    first, other = seeds(held_out=True, session_id=0), seeds(held_out=True, session_id=1)
    assert seeds(held_out=True, session_id=0) == first
    assert len({*first, *other}) == 4 and all(s is not None and 0 <= s < 2**31 for s in [*first, *other])
    assert seeds() == [None, None], "training explores"
    assert seeds(held_out=True, greedy=True) == [None, None]


@pytest.mark.parametrize("versions", [(), (None,)])
def test_every_dialogue_has_numbers_where_verl_counts_weights(
    run: Run, sample: Sample, versions: tuple[int | None, ...]
) -> None:
    """verl puts them into an integer array: a None there ends the run."""
    overrides = [] if versions else ["rollout.prompt_length=16"]  # too little for the first message
    output, servers = run(sample, [ANSWER], *overrides, versions=versions)
    assert len(servers.requests) == len(versions)
    for key in ("min_global_steps", "max_global_steps"):
        assert np.array([output.extra_fields[key]], dtype=int).tolist() == [7]  # step 8 is rolled out by weights 7


def test_a_first_message_that_does_not_fit_is_one_token_that_no_loss_sees(run: Run, sample: Sample) -> None:
    output, _ = run(sample, [], "rollout.prompt_length=16")
    assert output.extra_fields["episode"] == {
        "turns": [], "stop": StopReason.CONTEXT_FULL.value, "spatial_frames": (0, 11), "num_frames": 12,
    }  # fmt: skip
    assert output.response_mask == [0] and len(output.prompt_ids) == len(output.response_ids) == 1
    assert not output.multi_modal_data and output.extra_fields["picture_inputs"] == {}
    json.dumps(output.extra_fields)  # it travels


def test_an_unreadable_frame_stops_the_dialogue_with_its_name(run: Run, sample: Sample, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    frames = (str(broken), *sample.clip.frames[1:])
    with pytest.raises(DataError, match=f"clip {sample.clip.name}, frame 0, file {broken}"):
        run(replace(sample, clip=replace(sample.clip, frames=frames)), [ANSWER])
    with pytest.raises(DataError, match="0 frames, there is nothing to show"):
        run(replace(sample, clip=replace(sample.clip, frames=())), [ANSWER])


def test_a_verified_dialogue_waits_for_its_own_masks(
    run: Run, sample: Sample, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come from the trainer's pool, asked without ground truth, and travel on with the dialogue's pictures."""
    asked: list[Any] = []

    async def ask(request: Any) -> Any:
        asked.append(request)
        return pool.score([request])[0]

    desk = SimpleNamespace(ask=SimpleNamespace(remote=ask))
    monkeypatch.setattr("verl_ext.inference.agent_loop.find_desk", lambda: desk)
    box = '<think>a</think><answer>{"keyframe_timestamp": 0, "bbox_2d_list": [[9, 9, 90, 90]]}</answer>'
    keys = ["method=veason_r1", "rollout.environment=verified_boxes", "rollout.max_turns=1", "rollout.box_side=224"]
    keys += ["rollout.verify_frames=1", "rollout.box_frames=2", "rollout.prompt_length=1024", "pool.checkpoint=sam2.pt"]
    keys += ["rollout.engine.max_model_len=2048", "objective.aux_coef=0", "objective.calibration.enabled=false"]
    keys += [f"rewards.weights.{name}=0" for name in VIDEOSEG_O3_REWARDS] + ["rewards.weights.verification_change=1"]
    output, servers = run(sample, [box, "<answer>confirm</answer>"], *keys)
    (request,) = asked
    assert request.masklets is None and request.with_masks and request.keyframe == 0
    episode = output.extra_fields["episode"]
    assert episode["verdict"] == "confirmed" and len(episode["turns"]) == 2 and len(servers.requests) == 2
    first, second = (len(request["image_data"]) for request in servers.requests)
    drawn = [p.drawn for p in pictures_of(sample, output.extra_fields["picture_inputs"])]
    assert first < second == len(drawn) and not any(drawn[:first]) and any(drawn[first:])
    assert output.response_mask.count(1) < len(output.response_mask), "the message between is not the policy's"


def test_a_seg_dialogue_waits_for_masks_of_the_states_that_vllm_kept(
    run: Run, sample: Sample, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They travel to the desk as vLLM had them, each of its own generation; nothing of the truth goes with them."""
    asked: list[Any] = []

    async def ask(request: Any) -> Any:
        asked.append(request)
        return pool.score([replace(request, state=request.state[:32])])[0]

    desk = SimpleNamespace(ask=SimpleNamespace(remote=ask))
    monkeypatch.setattr("verl_ext.inference.agent_loop.find_desk", lambda: desk)
    kept: list[np.ndarray[Any, Any]] = []
    plain = Servers.generate

    async def generate(self: Servers, **request: Any) -> Any:
        out = await plain(self, **request)
        wanted = asked_in(request["sampling_params"])
        assert wanted is not None and self.tokenizer.convert_ids_to_tokens(wanted["token"]) == "[SEG]"
        places = [len(request["prompt_ids"]) + i for i, t in enumerate(out.token_ids) if t == wanted["token"]]
        if places:
            kept.append(np.random.default_rng(len(kept)).normal(size=(2, 64)).astype(np.float32))
            out.extra_fields[KEY] = (len(places), [places[0], places[-1]], kept[-1].tobytes())
        return out

    monkeypatch.setattr(Servers, "generate", generate)
    keys = ["rollout.environment=verified_masks", "rollout.verify_frames=1", "rewards.weights.verification_change=1"]
    keys += ["rollout.response_length=900", "rollout.engine.max_model_len=1400", "rollout.turn_length=160"]
    said = [SELECT, ANSWER.replace("</answer>", " [SEG] </answer>"), "<answer>confirm</answer>"]
    output, servers = run(sample, said, *keys, versions=(6, 6, 6))
    (request,) = asked
    assert isinstance(request, PropagateRequest) and request.masklets is None and request.with_masks
    assert np.array_equal(request.state, kept[1][1]), "the newest of the answering turn"  # type: ignore[arg-type]
    assert np.array_equal(output.extra_fields[DRAWN_STATE], kept[1][1])
    episode = output.extra_fields["episode"]
    assert episode["verdict"] == "confirmed" and len(episode["turns"]) == len(servers.requests) == 3
    generations = [asked_in(r["sampling_params"]) for r in servers.requests]
    assert len({g["key"] for g in generations if g is not None}) == 3


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
@pytest.mark.parametrize("broken", [False, True])
def test_boxes_are_scored_as_their_dialogue_ends_where_rollouts_run_ahead(
    run: Run,
    sample: Sample,
    pool: Any,
    tiny_recipe: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    broken: bool,
) -> None:
    """Not so held-out ones; and what cannot be scored then is left to the step, which says what is wrong."""
    asked: list[Any] = []

    async def judge(request: Any) -> Any:
        asked.append(request)
        if broken:
            raise DataError("clip x, frame 3: cannot be read")
        return pool.score([request])[0]

    desk = SimpleNamespace(judge=SimpleNamespace(remote=judge))
    monkeypatch.setattr("verl_ext.inference.judging.find_desk", lambda: desk)
    keys = ["method=veason_r1", "rollout.max_turns=1", "rollout.box_side=224", "rollout.box_frames=2"]
    keys += ["objective.aux_coef=0", "objective.calibration.enabled=false", "pool.checkpoint=sam2.pt"]
    keys += [f"rewards.weights.{name}=0" for name in VIDEOSEG_O3_REWARDS]
    keys += [f"trainer.mode={mode}", "rewards.weights.veason_consistency=1"]
    shown = SingleTurnBoxes(sample, BoxSettings.from_dict(environment_of(tiny_recipe("grpo", *SETTINGS, *keys))[1]), 32)
    shown.begin()
    boxes, _ = frame_truth(truth(sample), shown.frames[:1], 224)
    box = answer(shown.timestamps[0], [b for b in boxes[0] if any(b)])
    judged = run(sample, [box], *keys)[0].extra_fields.get("judged", {})
    assert len(asked) == (mode == "colocate_async")
    assert set(judged) == ({"decoded"} if asked and not broken else set())
    if judged:
        (request,) = asked
        assert request.masklets is not None and judged["decoded"].ious == pool.score([request])[0].ious
    run(sample, [box], *keys, more={"held_out": True})
    assert len(asked) == (mode == "colocate_async")
