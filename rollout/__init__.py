"""The dialogue of policy and clip: protocol, prompts, frames, conversation, environments, episodes.

Imports nothing of the other packages and no torch, Ray or transformers.
"""

from rollout.chat_format import ChatFormat
from rollout.conversation import Conversation, Reply
from rollout.environment import (
    Environment,
    environment_names,
    get_environment,
    make_environment,
    register_environment,
)
from rollout.episode import Generate, Generated, final_keyframe, replay, roll_out, scripted, seg_of_turns
from rollout.frames import PixelBudget, evenly_spaced, load_frame, load_frame_resized, load_frames, smart_size
from rollout.messages import FramePart, Message, TextPart
from rollout.protocol import ParsedTurn, clamp, format_turn, parse_turn
from rollout.types import (
    RLE,
    Action,
    Clip,
    Episode,
    Expression,
    Grounding,
    Masklets,
    Sample,
    StopReason,
    Turn,
)

__all__ = [
    "RLE",
    "Action",
    "ChatFormat",
    "Clip",
    "Conversation",
    "Environment",
    "Episode",
    "Expression",
    "FramePart",
    "Generate",
    "Generated",
    "Grounding",
    "Masklets",
    "Message",
    "ParsedTurn",
    "PixelBudget",
    "Reply",
    "Sample",
    "StopReason",
    "TextPart",
    "Turn",
    "clamp",
    "environment_names",
    "evenly_spaced",
    "final_keyframe",
    "format_turn",
    "get_environment",
    "load_frame",
    "load_frame_resized",
    "load_frames",
    "make_environment",
    "parse_turn",
    "register_environment",
    "replay",
    "roll_out",
    "scripted",
    "seg_of_turns",
    "smart_size",
]
