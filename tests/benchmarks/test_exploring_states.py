"""What each form can move in the benchmark of ``[SEG]`` states, on SAM 2 modules that were never trained."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmarks import exploring_states
from benchmarks.exploring_states import DISCS, FORMS, WORDS, Policy, Scenes, measure, reinforce
from rewards.segmenter import Segmenter, SegmenterConfig


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    torch.manual_seed(0)
    segmenter = Segmenter(SegmenterConfig(image_size=64))
    with torch.no_grad():
        features = segmenter.encode(torch.randn(3, 3, 64, 64))
    masks = torch.zeros(DISCS, 3, 16, 16, dtype=torch.bool)
    for k in range(DISCS):
        masks[k, :, 8 * (k // 2) : 8 * (k // 2) + 8, 8 * (k % 2) : 8 * (k % 2) + 8] = True
    return Scenes(segmenter, features, masks)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploring_states, "PROMPTS", 2)
    monkeypatch.setattr(exploring_states, "GROUP", 4)


@pytest.mark.parametrize("name", FORMS)
def test_a_state_moves_by_what_reaches_it_alone(name: str, scenes: Scenes, small: None) -> None:
    torch.manual_seed(1)
    policy, segmenter = Policy(scenes.segmenter.prompt_width), copy.deepcopy(scenes.segmenter)
    used = Scenes(segmenter, scenes.features, scenes.masks)
    before = {n: p.clone() for n, p in policy.state_dict().items()}
    told = reinforce(policy, used, FORMS[name], 2, seed=0)
    moved = {n for n, p in policy.state_dict().items() if not torch.equal(p, before[n])}
    state = {n for n in moved if n != "text.weight"}
    assert bool(state) == (name != "none") == bool(told["state_step"])
    assert ("text.weight" in moved) <= (name != "auxiliary")
    same_decoder = all(
        torch.equal(a, b)
        for a, b in zip(
            segmenter.decoder_state_dict().values(), scenes.segmenter.decoder_state_dict().values(), strict=True
        )
    )
    assert same_decoder == (name == "none" or name.startswith("states"))


def test_a_policy_knows_disc_and_word_and_is_measured_on_every_disc(scenes: Scenes) -> None:
    torch.manual_seed(1)
    policy = Policy(scenes.segmenter.prompt_width)
    disc, word = torch.arange(DISCS).repeat_interleave(WORDS), torch.arange(WORDS).repeat(DISCS)
    states = policy.states(disc, word)
    assert len({tuple(s.tolist()) for s in states}) == DISCS * WORDS
    found = measure(policy, scenes)
    assert set(found) == {"right", "twin"} and all(0 <= v <= 100 for v in found.values())
