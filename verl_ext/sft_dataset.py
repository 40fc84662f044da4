"""Cold-start conversations: VTS-CoT traces replayed through the very environment that RL uses.

The frames of a record are re-created turn by turn from its ``cot_trace`` and ``sample_frame_indice`` (SPEC 2.6);
nothing but the assistant's replies is taken from the recorded text, so supervised data and rollouts cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch.utils.data import Dataset

from rollout.chat_format import ChatFormat
from rollout.conversation import Conversation
from rollout.environment import Environment
from rollout.environments.keyframe_exploration import ExplorationSettings, KeyframeExploration
from rollout.environments.single_turn_boxes import BoxSettings, SingleTurnBoxes
from rollout.episode import replay
from rollout.errors import DataError
from rollout.types import Sample
from verl_ext.context import active_recipe
from verl_ext.rollout_settings import conversation_limits, environment_of
from verl_ext.sources import load_traces


class SFTDataset(Dataset):  # type: ignore[misc]
    """verl's supervised data set (``data.custom_cls``): token ids, loss mask, positions, images, and the episode."""

    def __init__(
        self,
        parquet_files: Any = None,
        tokenizer: Any = None,
        config: Any = None,
        processor: Any = None,
        max_samples: int = -1,
    ) -> None:
        self.recipe = active_recipe()
        self.tokenizer, self.processor = tokenizer, processor
        held_out = list(parquet_files or []) == ["held_out"]
        self.items = load_traces(self.recipe, held_out)
        if not self.items:
            where = "val" if held_out else "data"
            raise DataError(f"no conversations: none of the recipe's {where} sources has annotations (VTS-CoT records)")
        self.chat = ChatFormat.from_processor(processor)
        self.environment, self.settings = environment_of(self.recipe)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, Any]:
        sample, record = self.items[i]
        conversation, episode = self._replay(sample, record)
        if len(episode["turns"]) < len(record.replies):
            raise DataError(
                f"trace of {sample.id}: the dialogue stopped ({episode['stop']}) after {len(episode['turns'])} of "
                f"{len(record.replies)} turns; check its JSON, or raise rollout.max_turns / response_length"
            )
        ids = torch.tensor(conversation.token_ids, dtype=torch.long)
        images = conversation.images()
        inputs = dict(self.processor.image_processor(images=images, return_tensors="pt"))
        return {
            "input_ids": ids,
            "position_ids": torch.cat([torch.arange(len(ids))[None], torch.from_numpy(conversation.position_ids())]),
            "loss_mask": torch.tensor(conversation.loss_mask, dtype=torch.long),
            "multi_modal_inputs": inputs,
            "sample": sample.to_dict(),
            "episode": episode,
        }

    def _replay(self, sample: Sample, record: Any) -> tuple[Conversation, dict[str, Any]]:
        environment = RECORDED[self.environment](sample, self.settings, self.chat.factor, record)
        conversation = Conversation(self.tokenizer, self.chat, sample.clip, **conversation_limits(self.recipe))
        episode = replay(environment, conversation, record.replies)
        return conversation, asdict(episode) | {"stop": episode.stop.value}


def _exploration(sample: Sample, settings: Mapping[str, Any], factor: int, record: Any) -> Environment:
    return KeyframeExploration(
        sample,
        ExplorationSettings.from_dict(settings),
        factor,
        spatial_frames=record.sample_frame_indice,
        trace=record.selections,
    )


def _boxes(sample: Sample, settings: Mapping[str, Any], factor: int, record: Any) -> Environment:
    return SingleTurnBoxes(sample, BoxSettings.from_dict(settings), factor, frames=record.sample_frame_indice or None)


RECORDED: dict[str, Callable[..., Environment]] = {"keyframe_exploration": _exploration, "single_turn_boxes": _boxes}
"""By environment: the one that shows what a record says was shown."""
