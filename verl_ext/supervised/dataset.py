"""Cold-start conversations: VTS-CoT traces replayed through the very environment that RL uses.

The frames of a record are re-created turn by turn from its ``cot_trace`` and ``sample_frame_indice`` (SPEC 2.6);
nothing but the assistant's replies is taken from the recorded text, so supervised data and rollouts cannot drift apart.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch.utils.data import Dataset

from rollout.box_protocol import parse_box_turn
from rollout.chat_format import ChatFormat
from rollout.conversation import Conversation
from rollout.environment import Environment
from rollout.environments.combined_answers import CombinedAnswers, CombinedSettings, as_combined
from rollout.environments.keyframe_exploration import ExplorationSettings, KeyframeExploration
from rollout.environments.single_turn_boxes import BoxSettings, SingleTurnBoxes
from rollout.episode import replay
from rollout.errors import DataError
from rollout.orphans import die_with_loader
from rollout.types import Sample, StopReason
from verl_ext.policy.pictures import picture_inputs
from verl_ext.recipe.context import active_recipe
from verl_ext.recipe.rollout_settings import conversation_limits, environment_of
from verl_ext.run.sources import load_traces
from verl_ext.supervised.unreadable import FrameCheck, check_held_out, stand_in

CHECKED = 1000
"""Traces that are replayed before training, a few seconds' work; the longest ones, where there are more."""
FRAMES_OF_A_TURN = 1000
"""Characters that would take about as many tokens."""
REMEDIES = {
    StopReason.ANSWERED: "a reply before the last one answers: correct the trace, `videoseg data verify` finds such",
    StopReason.BAD_ACTION: "the last one that was taken is no <select> or <answer> of the protocol: correct the trace, "
    "`videoseg data verify` finds such",
    StopReason.BAD_INTERVAL: "the last one that was taken chooses an interval that ends before it starts: correct the "
    "trace, `videoseg data verify` finds such",
    StopReason.REFUSED_CLIP: "the clip has no frames",
}


class SFTDataset(Dataset):  # type: ignore[misc]
    """verl's supervised data set (``data.custom_cls``): token ids, mask, positions, pictures by reference, episode."""

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
        self._held_out = held_out = list(parquet_files or []) == ["held_out"]
        self._frames, self._lost = FrameCheck(), set[int]()
        self.items = load_traces(self.recipe, held_out)
        if not self.items:
            where = "val" if held_out else "data"
            raise DataError(f"no conversations: none of the recipe's {where} sources has annotations (VTS-CoT records)")
        self.chat = ChatFormat.from_processor(processor)
        self.environment, self.settings = environment_of(self.recipe)
        self._check_the_longest()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """A conversation; where its frames cannot be read, what stands for it (`verl_ext.supervised.unreadable`).

        Raises:
            DataError: a trace that does not fit, or held-out frames of too many conversations.
        """
        die_with_loader()
        sample, record = self.items[i]
        conversation, episode = self._replay(sample, record)
        try:
            self._frames.look(sample.clip, conversation.frames, episode)
        except DataError as e:
            if self._held_out:
                self._lost.add(i)
                check_held_out(len(self._lost), len(self), e)
            return stand_in(sample, e, self.chat.im_end)
        ids = torch.tensor(conversation.token_ids, dtype=torch.long)
        return {
            "input_ids": ids,
            "position_ids": torch.cat([torch.arange(len(ids))[None], torch.from_numpy(conversation.position_ids())]),
            "loss_mask": torch.tensor(conversation.loss_mask, dtype=torch.long),
            "multi_modal_inputs": self._shown(conversation),
            "sample": sample.to_dict(),
            "episode": episode,
        }

    def _shown(self, conversation: Conversation) -> dict[str, Any]:
        """As arrays where rows are made of them: a loader's process hands over each tensor in a file of its own, which
        takes a millisecond."""
        found = picture_inputs(conversation.frames, self.chat)
        return found if self.recipe.policy.packing == "none" else {k: v.numpy() for k, v in found.items()}

    def _check_the_longest(self) -> None:
        """Replay the traces that are likeliest not to fit, without their images: hours into a run is late to learn it.

        Processes share them; every other trace is replayed when its turn comes.
        """
        distinct = {id(record): (sample, record) for sample, record in self.items}
        longest = sorted(distinct.values(), key=lambda item: -_length(item[1]))[:CHECKED]
        rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        for sample, record in longest[rank::processes]:
            self._replay(sample, record)

    def _replay(self, sample: Sample, record: Any) -> tuple[Conversation, dict[str, Any]]:
        """The dialogue and its episode as a plain dict; loads no frame.

        Raises:
            DataError: it stops before the trace's last reply, or that cannot be used; says why and what to do.
        """
        environment = RECORDED[self.environment](sample, self.settings, self.chat.factor, record)
        conversation = Conversation(self.tokenizer, self.chat, sample.clip, **conversation_limits(self.recipe))
        replies = self._replies(record)
        episode = replay(environment, conversation, replies)
        taken, there = len(episode.turns), len(replies)
        if taken < there:
            raise DataError(
                f"trace of {sample.id}: the dialogue stopped ({episode.stop.value}) after {taken} of {there} turns; "
                f"{self._remedy(episode.stop, there)}"
            )
        if episode.stop is StopReason.BAD_ACTION and self.recipe.has_boxes:
            problem = parse_box_turn(replies[-1]).problem
            what = f"cannot be read ({problem})" if problem else "names a second that the clip does not have"
            raise DataError(f"trace of {sample.id}: its answer {what}; correct it, or leave it out")
        return conversation, asdict(episode) | {"stop": episode.stop.value}

    def _replies(self, record: Any) -> list[str]:
        """The record's; Veason-R1's, which hold boxes alone, with the mask where the policy is to answer both."""
        if self.environment != "combined_answers":
            return list(record.replies)
        settings = CombinedSettings.from_dict(self.settings)
        return [as_combined(reply, settings, record.shown.get("side")) for reply in record.replies]

    def _remedy(self, stop: StopReason, turns: int) -> str:
        r = self.recipe.rollout
        if stop is StopReason.CONTEXT_FULL:
            return (
                f"the next one does not fit into rollout.prompt_length {r.prompt_length}, response_length "
                f"{r.response_length} and engine.max_model_len {r.engine.max_model_len}: raise what is too small, or "
                "show fewer or smaller frames"
            )
        if stop is StopReason.TURN_LIMIT:
            return f"rollout.max_turns is {r.max_turns}: raise it to {turns}, or leave such traces out"
        return REMEDIES.get(stop, "correct the trace, or leave it out")


def _length(record: Any) -> int:
    """Grows with the tokens of a trace: its text, and a fixed number of characters for the frames of each turn."""
    return sum(len(reply) for reply in record.replies) + len(record.exp) + FRAMES_OF_A_TURN * len(record.replies)


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


def _both(sample: Sample, settings: Mapping[str, Any], factor: int, record: Any) -> Environment:
    return CombinedAnswers(
        sample, CombinedSettings.from_dict(settings), factor, frames=record.sample_frame_indice or None
    )


RECORDED: dict[str, Callable[..., Environment]] = {
    "keyframe_exploration": _exploration,
    "single_turn_boxes": _boxes,
    "combined_answers": _both,
}
"""By environment: the one that shows what a record says was shown."""
