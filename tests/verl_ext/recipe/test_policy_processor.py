"""A processor that cannot be loaded or would resize frames, and a prompt without room, are known before the start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rollout.chat_format import ChatFormat
from rollout.environment import make_environment
from rollout.errors import RecipeError
from rollout.types import Clip, Expression, Sample
from verl_ext.evaluation.settings import refuse_unfit
from verl_ext.recipe import Recipe, check_ready
from verl_ext.recipe.prompt_room import PlainTokenizer, prompt_tokens
from verl_ext.recipe.rollout_settings import environment_of

BoxRecipe = Callable[..., Recipe]
NEW, OLD = ("untied", "processor_config.json"), ("published", "preprocessor_config.json")


@pytest.fixture
def changed(tiny_box_policies: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a policy with other values in one of them; a key with points is nested."""

    def change(policy: str, file: str, **values: Any) -> Path:
        folder = tmp_path / "policy"
        shutil.copytree(tiny_box_policies[policy], folder)
        found = json.loads((folder / file).read_text())
        for key, value in values.items():
            *outer, last = key.split("__")
            inside = found
            for name in outer:
                inside = inside[name]
            inside.pop(last, None)
            inside |= {} if value is None else {last: value}
        (folder / file).write_text(json.dumps(found))
        return folder

    return change


def problems(make: BoxRecipe, folder: Path, *more: str) -> list[str]:
    return [p for p in check_ready(make("grpo", f"policy.path={folder}", *more)) if str(folder) in p]


def loads(folder: Path) -> bool:
    from transformers import AutoProcessor

    try:
        ChatFormat.from_processor(AutoProcessor.from_pretrained(folder))
    except Exception:
        return False
    return True


@pytest.mark.parametrize("policy", ["untied", "published"])
def test_sound_folders_have_no_problem(tiny_box_recipe: BoxRecipe, policy: str) -> None:
    assert check_ready(tiny_box_recipe("grpo", policy=policy)) == []


@pytest.mark.parametrize(
    ("place", "key", "value", "right"),
    [
        (OLD, "image_processor_type", "Qwen2_5_VLImageProcessor", "Qwen2VLImageProcessor"),
        (NEW, "image_processor__image_processor_type", "Qwen2_5_VLImageProcessor", "Qwen2VLImageProcessor"),
        (NEW, "video_processor__video_processor_type", "Qwen2_5_VLVideoProcessor", "Qwen2VLVideoProcessor"),
        (OLD, "processor_class", "Qwen2_5_VLProcessorOld", "Qwen2_5_VLProcessor"),
        (NEW, "processor_class", "Qwen9VLProcessor", "Qwen2_5_VLProcessor"),
    ],
)
def test_classes_that_transformers_does_not_have_are_named(
    tiny_box_recipe: BoxRecipe, changed: Callable[..., Path], place: tuple[str, str], key: str, value: str, right: str
) -> None:
    """And what is said is the truth: the folder does not load as it is, and does with what is to be written."""
    folder = changed(*place, **{key: value})
    assert not loads(folder)
    (said,) = problems(tiny_box_recipe, folder)
    name = key.replace("__", ".")
    assert said.startswith(f'policy.path: {folder / place[1]}: {name} is "{value}", a class that transformers 5')
    assert said.endswith(f'write "{right}" there')
    shutil.rmtree(folder)
    folder = changed(*place, **{key: right})
    assert loads(folder) and problems(tiny_box_recipe, folder) == []


@pytest.mark.parametrize("value", ["Qwen2VLImageProcessorFast", "Qwen2VLImageProcessor", "ViTImageProcessor", None])
def test_classes_that_there_are_pass(tiny_box_recipe: BoxRecipe, changed: Callable[..., Path], value: str) -> None:
    assert problems(tiny_box_recipe, changed(*OLD, image_processor_type=value)) == []


SMALL = {"shortest_edge": 3136, "longest_edge": 12543}


@pytest.mark.parametrize(
    ("place", "values", "key", "has"),
    [
        (OLD, {"max_pixels": 12543}, "max_pixels", 12543),
        (OLD, {"max_pixels": 12543, "size": SMALL | {"longest_edge": 10**7}}, "max_pixels", 12543),
        (OLD, {"max_pixels": 12543, "size": {"min_pixels": 784, "max_pixels": 10**7}}, "max_pixels", 12543),
        (OLD, {"min_pixels": 12545}, "min_pixels", 12545),
        (NEW, {"image_processor__size": SMALL}, "image_processor.size.longest_edge", 12543),
        (NEW, {"image_processor__max_pixels": 12543}, "image_processor.max_pixels", 12543),
    ],
)
def test_frames_that_would_be_resized_again_are_known_beforehand(
    tiny_box_recipe: BoxRecipe, changed: Callable[..., Path], place: tuple[str, str], values: Any, key: str, has: int
) -> None:
    """112 x 112 pixels are 12544. The limits are those that transformers takes of the same file."""
    from transformers import AutoProcessor

    folder = changed(*place, **values)
    chat = ChatFormat.from_processor(AutoProcessor.from_pretrained(folder))
    assert has in (chat.min_pixels, chat.max_pixels)
    (said,) = problems(tiny_box_recipe, folder)
    assert said.startswith("rollout.box_side: frames of 112 x 112 are 12544 pixels, and ")
    assert f"{folder / place[1]} has {key} {has}: write 12544 or " in said
    if has < 12544:
        assert "rollout.box_side=84" in said
        assert problems(tiny_box_recipe, folder, "rollout.box_side=84") == []
    with pytest.raises(RecipeError, match="12544 pixels"):
        refuse_unfit(tiny_box_recipe("sft", f"policy.path={folder}"))


def test_a_size_by_its_old_keys_alone_is_refused(tiny_box_recipe: BoxRecipe, changed: Callable[..., Path]) -> None:
    size = {"min_pixels": 3136, "max_pixels": 12845056}
    folder = changed(*OLD, min_pixels=None, max_pixels=None, size=size)
    assert not loads(folder)
    (said,) = problems(tiny_box_recipe, folder)
    right = {"shortest_edge": 3136, "longest_edge": 12845056}
    assert "without shortest_edge and longest_edge" in said and said.endswith(f"write {json.dumps(right)}")
    shutil.rmtree(folder)
    folder = changed(*OLD, min_pixels=None, max_pixels=None, size=right)
    assert loads(folder) and problems(tiny_box_recipe, folder) == []


def test_masks_policies_are_looked_at_by_their_budgets(
    tiny_recipe: Callable[..., Recipe], tiny_policy: Path, tmp_path: Path
) -> None:
    """Budgets of 12 units are up to 9408 pixels, of 4 up to 3136."""
    folder = shutil.copytree(tiny_policy, tmp_path / "policy")
    recipe = tiny_recipe("grpo", f"policy.path={folder}")
    assert check_ready(recipe) == []
    values = json.loads((folder / "processor_config.json").read_text())
    values["image_processor"]["size"]["longest_edge"] = 5000
    (folder / "processor_config.json").write_text(json.dumps(values))
    spatial, keyframe = check_ready(recipe)
    assert spatial.startswith("rollout.budgets.spatial: frames of ") and "size.longest_edge 5000" in spatial
    assert keyframe.startswith("rollout.budgets.keyframe: frames of ")


def test_the_prompt_is_counted_as_it_is_asked(tiny_box_recipe: BoxRecipe, tiny_box_policies: dict[str, Path]) -> None:
    """By transformers' own tokenizer, for a clip of the same length."""
    from transformers import AutoProcessor

    for policy, folder in tiny_box_policies.items():
        recipe = tiny_box_recipe("grpo", policy=policy)
        processor = AutoProcessor.from_pretrained(folder)
        name, settings = environment_of(recipe)
        sample = Sample(Clip("c", tuple(map(str, range(100))), 480, 854), Expression("0", "", ("0",)))
        asked: Any = make_environment(name, sample, settings | {"sampling": "evenly_spaced"}, 28).begin()
        chat = ChatFormat.from_processor(processor)
        wanted = sum(len(chat.encode_message(processor.tokenizer, m)) for m in asked)
        wanted += len(chat.generation_prompt(processor.tokenizer))
        assert abs(prompt_tokens(recipe, PlainTokenizer(folder / "tokenizer.json")) - wanted) <= 3  # other seconds


def test_a_prompt_length_that_no_prompt_fits_is_refused(tiny_box_recipe: BoxRecipe) -> None:
    recipe = tiny_box_recipe("grpo")
    tokens = prompt_tokens(recipe, PlainTokenizer(Path(recipe.policy.path) / "tokenizer.json"))
    held_out = prompt_tokens(recipe, PlainTokenizer(Path(recipe.policy.path) / "tokenizer.json"), evaluation=True)
    assert held_out > tokens > 3 * 16
    assert check_ready(tiny_box_recipe("grpo", f"rollout.prompt_length={tokens}")) == []
    (said,) = check_ready(tiny_box_recipe("grpo", f"rollout.prompt_length={tokens - 1}"))
    assert said.startswith(f"rollout.prompt_length: {tokens - 1} tokens, and training prompts begin with {tokens} ")
    assert "lower rollout.box_frames" in said
    (said,) = check_ready(tiny_box_recipe("grpo", f"rollout.prompt_length={tokens}", "trainer.eval_every=5"))
    assert f"held-out prompts begin with {held_out} " in said and "lower rollout.eval.box_frames" in said
    with pytest.raises(RecipeError, match="held-out prompts begin with"):
        refuse_unfit(tiny_box_recipe("grpo", f"rollout.prompt_length={tokens}"))
