"""Prompt sets for keyframe exploration: what the system and user messages say around the frames (SPEC 2.1).

``full`` explains the whole task and suits a pretrained model. ``brief`` is a few words: a tiny model with a
word-level vocabulary learns the protocol from examples, and every word costs it a token. A new set is one
`register_prompts` call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rollout.errors import RecipeError
from rollout.messages import FramePart, Message, Part, TextPart


@dataclass(frozen=True)
class PromptSet:
    """Templates with the fields ``{frames}`` (indices), ``{query}``, ``{num_frames}`` and ``{last}``."""

    name: str
    system: str
    temporal: str
    spatial: str
    question: str
    interval: str
    keyframe: str
    reminder: str
    index_separator: str = ", "

    def system_message(self) -> Message:
        """The task and the tags."""
        return Message.text("system", self.system)

    def first_user_parts(
        self, temporal: Sequence[FramePart], spatial: Sequence[FramePart], query: str, num_frames: int
    ) -> list[Part]:
        """Low-resolution frames and their indices, spatial frames and theirs, then the question."""
        asked = self.question.format(query=query, num_frames=num_frames, last=num_frames - 1)
        return [*self._shown(temporal, self.temporal), *self._shown(spatial, self.spatial), TextPart(asked)]

    def follow_up_parts(
        self, interval: Sequence[FramePart], keyframe: FramePart, query: str, num_frames: int
    ) -> list[Part]:
        """Low-resolution frames of the interval and their indices, the keyframe and its index, the query again."""
        asked = self.reminder.format(query=query, num_frames=num_frames, last=num_frames - 1)
        return [*self._shown(interval, self.interval), *self._shown([keyframe], self.keyframe), TextPart(asked)]

    def _shown(self, frames: Sequence[FramePart], template: str) -> list[Part]:
        if not frames:
            return []
        indices = self.index_separator.join(str(f.frame) for f in frames)
        return [*frames, TextPart(template.format(frames=indices))]


_PROMPTS: dict[str, PromptSet] = {}


def register_prompts(prompts: PromptSet) -> PromptSet:
    """Makes a set available by its name."""
    if _PROMPTS.setdefault(prompts.name, prompts) is not prompts:
        raise RecipeError(f"a prompt set named {prompts.name!r} is already registered")
    return prompts


def get_prompts(name: str) -> PromptSet:
    """The set of that name; raises `RecipeError` listing those there are."""
    if name not in _PROMPTS:
        raise RecipeError(f"no prompt set {name!r}; there are {', '.join(prompt_names())}")
    return _PROMPTS[name]


def prompt_names() -> list[str]:
    return sorted(_PROMPTS)


register_prompts(
    PromptSet(
        name="full",
        system=(
            "You find and segment the object or objects that a text query describes in a video. You see only some "
            "of its frames, each known by its index, and you may ask for a closer look before you commit.\n\n"
            "Write every reply in two parts: your reasoning, then exactly one action.\n\n"
            "Reasoning goes between <think> and </think>, in this order:\n"
            "Step 1: temporal dynamics. What moves, appears, leaves or changes, and in which frames.\n"
            "Step 2: spatial details. Where the candidates are in the sharper frames, how they look and how they "
            "differ from what surrounds them.\n"
            "Step 3: expression analysis. What the query demands, word by word, and which candidates meet it.\n"
            "Action: say whether to look again, and where, or that the target is confirmed.\n\n"
            "The action is one of:\n"
            "<select>…</select> when the evidence is not enough yet. You will then be shown frames of the interval "
            "you name and its keyframe at a higher resolution.\n"
            "<answer>…</answer> when you are sure. It ends the dialogue.\n\n"
            "Either action holds the same two fields:\n"
            '<VTG>{"start": s, "end": e, "keyframe": k}</VTG> <RefSeg> [SEG] </RefSeg>\n'
            "s and e are the indices of the first and the last frame in which the target is of interest, k is the "
            "index of the one frame that shows it best, with s not greater than e. The body of VTG must be valid "
            "JSON with integer values. [SEG] stands for the mask of the target as you understand it now, so write "
            "it in every reply, even when you ask for more. If nothing in the video fits the query, answer "
            "all the same; the mask is then empty.\n\n"
            "Example of the form (not of the content):\n"
            "<think>Step 1: … Step 2: … Step 3: … Action: …</think>"
            '<select><VTG>{"start": 4, "end": 19, "keyframe": 12}</VTG> <RefSeg> [SEG] </RefSeg></select>'
        ),
        temporal="\nThe images above are low-resolution frames that cover the whole video. Their indices: {frames}.\n",
        spatial="\nThe images above are higher-resolution frames for spatial detail. Their indices: {frames}.\n",
        question=(
            "The video has {num_frames} frames, numbered 0 to {last}. Query: {query}\n"
            "Segment what the query describes. Think first, then select or answer."
        ),
        interval="\nThe images above are low-resolution frames of your interval. Their indices: {frames}.\n",
        keyframe="\nThe image above is your keyframe at a higher resolution. Its index: {frames}.\n",
        reminder="Query: {query}\nThink first, then select again or answer.",
    )
)

register_prompts(
    PromptSet(
        name="brief",
        system="segment",
        temporal=" low {frames}",
        spatial=" high {frames}",
        question=" of {num_frames} find {query}",
        interval=" low {frames}",
        keyframe=" key {frames}",
        reminder=" find {query}",
        index_separator=" ",
    )
)
