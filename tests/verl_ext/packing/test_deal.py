"""Which sequences share a row and a process, and what is refused."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rollout.errors import DataError, RecipeError
from tests.verl_ext.packing.random_groups import dialogue, group, never_began, padding, said, tiny_model
from verl_ext.packing.deal import deal_rows, fewest_rows, fitting_units, order_by_group, unit_tokens
from verl_ext.packing.dialogue import find_groups
from verl_ext.packing.prepare import obstacle
from verl_ext.packing.work import operations


def test_groups_are_found_in_any_order_and_other_pictures_are_another_group() -> None:
    rng = random.Random(0)
    words, pictures = said(rng, 6, [(4, 4)])
    other = [(grid, pixels + 1) for grid, pixels in pictures]
    first = [dialogue((words, pictures), [(*said(rng, 3), True)], "a") for _ in range(3)]
    second = [dialogue((words, other), [(*said(rng, 3), True)], "b") for _ in range(2)]
    mixed = [first[0], second[0], never_began(), first[1], padding(), second[1], padding(), first[2]]
    assert find_groups(mixed, 2) == [[0, 3, 7], [1, 5], [2], [4, 6]]


def test_a_group_whose_pictures_differ_is_refused_by_name() -> None:
    rng = random.Random(0)
    words, pictures = said(rng, 6, [(4, 4)])
    other = [(grid, pixels + 1) for grid, pixels in pictures]
    pair = [dialogue((words, shown), [(*said(rng, 3), True)], "prompt 7") for shown in (pictures, other)]
    with pytest.raises(DataError, match=r"prompt 7: rollouts 0 and 1 .* other pictures.*policy.packing=packed"):
        find_groups(pair, 2)


def test_a_cut_picture_is_refused() -> None:
    rng = random.Random(0)
    whole = dialogue(said(rng, 6, [(4, 4)]), [(*said(rng, 3), True)])
    with pytest.raises(DataError, match="one of them is cut"):
        replace(whole, prompt=5, prompt_tokens=2).prompt_pictures(2)


def test_a_row_shorter_than_a_sequence_is_refused_with_both_numbers() -> None:
    dialogues = group(random.Random(1), 3)
    longest = max(len(d) for d in dialogues)
    with pytest.raises(RecipeError, match=f"policy.row_tokens {longest - 1} is less than the {longest} tokens"):
        fitting_units([[0, 1, 2]], dialogues, longest - 1)


@pytest.mark.parametrize("seed", range(20))
def test_rows_keep_the_budget_and_lose_no_sequence(seed: int) -> None:
    rng = random.Random(seed)
    dialogues = [d for _ in range(rng.randint(1, 5)) for d in group(rng, rng.randint(1, 8))]
    most = max(len(d) for d in dialogues) + rng.randint(0, 300)
    units = fitting_units(find_groups(dialogues, 2), dialogues, most)
    fewest = fewest_rows(units, dialogues, most)
    for rows in range(fewest, len(dialogues) + 1):  # another process may need more rows
        dealt = deal_rows(units, dialogues, rows)
        assert len(dealt) == rows and all(dealt)
        assert sorted(i for row in dealt for u in row for i in u) == list(range(len(dialogues)))
        if rows == fewest:
            assert all(sum(unit_tokens(u, dialogues) for u in row) <= most for row in dealt)


def test_processes_get_whole_groups_of_like_cost_and_padding_fills_up() -> None:
    names = ["a", "b", "c", "d", "a", "b", "c", "d", "a", "b", "c", "", "", "d", "", ""]  # four groups of 3, 4 copies
    own = [{"a": 9.0, "b": 1.0, "c": 8.0, "d": 2.0, "": 1.0}[n] for n in names]
    order = order_by_group(names, own, [0.0] * len(names), 2)
    assert sorted(order) == list(range(16))
    shares = [[names[i] for i in order[:8]], [names[i] for i in order[8:]]]
    for share in shares:
        assert sorted(share.count(n) for n in "abcd") == [0, 0, 3, 3] and share.count("") == 2
    assert sorted("".join(sorted(set(s))) for s in shares) in (["ab", "cd"], ["ad", "bc"])


def test_groups_that_fit_no_process_are_cut() -> None:
    order = order_by_group(["a"] * 6 + ["b"] * 2, [1.0] * 8, [5.0] * 8, 2)
    assert sorted(order) == list(range(8)) and len(order) == 8


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_5_vl"])
def test_what_the_attention_cannot_do_is_said(kind: str) -> None:
    config = tiny_model(kind).config
    assert obstacle(config, half=False, device="cpu") == "" and obstacle(config, half=True, device="cuda") == ""
    assert "policy.dtype is float32" in obstacle(config, half=False, device="cuda")
    config.text_config.attention_dropout = 0.1
    assert "language model has attention_dropout 0.1" in obstacle(config, half=True, device="cuda")
    assert "is a llama" in obstacle(SimpleNamespace(model_type="llama"), half=True, device="cuda")


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_5_vl"])
def test_work_is_what_torch_counts(kind: str) -> None:
    """Against PyTorch's own counter on a forward of one sequence; it counts full attention, ours half of it."""
    from torch.utils.flop_counter import FlopCounterMode

    model, (d,) = tiny_model(kind), group(random.Random(5), 1)
    assert d.pixels is not None and d.grids is not None
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(
            input_ids=d.ids[None], position_ids=d.positions[:, None], pixel_values=d.pixels, image_grid_thw=d.grids,
            use_cache=False,
        )  # fmt: skip
    text = model.config.text_config
    other_half = 2 * text.num_hidden_layers * text.hidden_size * len(d) ** 2
    ours = operations([[0]], [d], model.config, every_logit=True)
    assert ours.forward + other_half == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_sharing_saves_prompts_and_frozen_parts_save_their_backward() -> None:
    config, dialogues = tiny_model("qwen3_vl").config, group(random.Random(3), 8)
    shared = operations([list(range(8))], dialogues, config)
    apart = operations([[i] for i in range(8)], dialogues, config)
    assert shared.head == apart.head and shared.vision < apart.vision and shared.language < apart.language
    assert shared.update(False, False) == pytest.approx(3 * shared.forward)
    assert shared.update(True, True) == pytest.approx(2 * shared.language + 3 * shared.head + shared.vision)
