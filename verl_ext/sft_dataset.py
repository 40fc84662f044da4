"""Cold-start conversations: VTS-CoT traces replayed through the very environment that RL uses.

The frames of a record are re-created turn by turn from its ``cot_trace`` and ``sample_frame_indice`` (SPEC 2.6);
nothing but the assistant's replies is taken from the recorded text, so supervised data and rollouts cannot drift apart.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from rollout.chat_format import ChatFormat
from rollout.conversation import Conversation
from rollout.episode import replay
from rollout.errors import DataError
from rollout.types import Expression, Sample
from verl_ext.context import active_recipe
from verl_ext.rollout_settings import conversation_limits, environment_of


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
        held_out = str(parquet_files) == "held_out" or parquet_files == ["held_out"]
        self.items = load_traces(self.recipe.val if held_out else self.recipe.data)
        if not self.items:
            raise DataError("no conversations: none of the recipe's sources has annotations (VTS-CoT records)")
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
        from rollout.environments.keyframe_exploration import ExplorationSettings, KeyframeExploration

        if self.environment == "keyframe_exploration":
            environment: Any = KeyframeExploration(
                sample,
                ExplorationSettings.from_dict(self.settings),
                self.chat.factor,
                spatial_frames=record.sample_frame_indice,
                trace=record.selections,
            )
        else:
            from rollout.environment import make_environment

            environment = make_environment(self.environment, sample, self.settings, self.chat.factor)
        conversation = Conversation(self.tokenizer, self.chat, sample.clip, **conversation_limits(self.recipe))
        episode = replay(environment, conversation, record.replies)
        return conversation, asdict(episode) | {"stop": episode.stop.value}


def load_traces(sources: list[Any]) -> list[tuple[Sample, Any]]:
    """(sample, VTS-CoT record) of every source; a record whose clip or expression is unknown is an error."""
    from data_construction.readers import open_dataset, read_vts_cot

    out = []
    for source in sources:
        if not source.annotations:
            continue
        dataset = open_dataset(source.dataset, Path(source.root), source.split)
        for record in read_vts_cot(Path(source.annotations)):
            if not source.kinds or record.kind in source.kinds:
                out.append((sample_of(dataset, record), record))
        if source.max_samples:
            out = out[: source.max_samples]
    return out


def sample_of(dataset: Any, record: Any) -> Sample:
    """The record's clip, question and ground truth; raises DataError if the data set does not know the clip."""
    clip = record.video_name
    known = [e for e in dataset.expressions(clip) if e.text == record.exp and e.anno_ids == record.anno_id]
    expression = known[0] if known else Expression("trace", record.exp, record.anno_id)
    return Sample(dataset.clip(clip), expression, dataset.masklets(clip, record.anno_id))
