"""How many tokens the first message takes, and whether they fit: known from the policy's tokenizer alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.chat_format import ChatFormat
from rollout.environment import make_environment
from rollout.errors import VideosegError
from rollout.types import Clip, Expression, Sample, StopReason
from verl_ext.recipe.asking import cell_of_policy
from verl_ext.recipe.policy_processor import NOMINAL
from verl_ext.recipe.rollout_settings import environment_of

if TYPE_CHECKING:
    from rollout.chat_format import Tokenizer
    from verl_ext.recipe.schema import Recipe

MERGE = 2
FRAMES = 100
"""Of the clip that the message is about: more than are shown, and no number of three digits."""


class PlainTokenizer:
    """A policy's ``tokenizer.json`` without transformers, as far as messages are encoded."""

    def __init__(self, file: Path) -> None:
        from tokenizers import Tokenizer as Fast

        self._fast = Fast.from_file(str(file))

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        found: list[int] = self._fast.encode(text, add_special_tokens=add_special_tokens).ids
        return found

    def decode(
        self, token_ids: list[int], *, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False
    ) -> str:
        text: str = self._fast.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return text

    def get_vocab(self) -> dict[str, int]:
        found: dict[str, int] = self._fast.get_vocab(with_added_tokens=True)
        return found


def prompt_problems(recipe: Recipe, evaluation: bool = False) -> Iterator[str]:
    """Why no dialogue about a clip of usual length could begin: its first message, its question left out, is longer
    than what the recipe leaves for it. Says nothing where the folder has no tokenizer that can be read.

    ``evaluation``: of ``videoseg eval``; else of training and, if there are any, of its evaluations.
    """
    if recipe.stage != "grpo" and not evaluation:
        return  # the conversations are recorded, and looked at when they are read
    file = Path(recipe.policy.path) / "tokenizer.json"
    try:
        tokenizer = PlainTokenizer(file)
    except Exception:  # the library raises plain Exceptions; what is wrong with the folder is said by others
        return
    room, r = min(recipe.rollout.prompt_length, recipe.rollout.engine.max_model_len - 1), recipe.rollout
    ways = [True] if evaluation else [False, *([True] if recipe.trainer.eval_every else [])]
    for held_out in ways:
        tokens = prompt_tokens(recipe, tokenizer, held_out)
        if tokens > room:
            limit = "prompt_length" if r.prompt_length <= room else "engine.max_model_len"
            where = "rollout.eval" if held_out else "rollout"
            fewer = "box_frames" if recipe.method == "veason_r1" else "initial_low_res or initial_spatial"
            yield (
                f"rollout.{limit}: {room} tokens, and {'held-out' if held_out else 'training'} prompts begin with "
                f"{tokens} before their question, so that none fits: raise rollout.prompt_length (and "
                f"engine.max_model_len with it), or lower {where}.{fewer} or the size of the frames"
            )
            return


def prompt_tokens(recipe: Recipe, tokenizer: Tokenizer, evaluation: bool = False) -> int:
    """Of the first message about a clip of 480 x 854 with more frames than are shown; 0 if it cannot be made."""
    name, settings = environment_of(recipe, evaluation)
    cell = cell_of_policy(recipe.policy.path)
    chat = ChatFormat.from_tokenizer(tokenizer, patch=cell // MERGE, merge=MERGE)
    clip = Clip("clip", tuple(f"{i:05d}.jpg" for i in range(FRAMES)), *NOMINAL)
    if "sampling" in settings:  # as many frames, chosen without ground truth
        settings = settings | {"sampling": "evenly_spaced"}
    try:
        messages = make_environment(name, Sample(clip, Expression("0", "", ("0",))), settings, cell).begin()
    except VideosegError:  # an environment of the user's that wants another clip
        return 0
    if isinstance(messages, StopReason):
        return 0
    ids = [chat.encode_message(tokenizer, message) for message in messages]
    return sum(map(len, ids)) + len(chat.generation_prompt(tokenizer))
