"""The rollout section: the dialogue, what may be spent on it, and the engine that decodes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Budgets:
    """The most pixels a frame may have, in units of 28 x 28 (SPEC 2.1)."""

    low_res: int = 32
    """Temporal frames: the initial ones, and those of a chosen interval."""
    spatial: int = 128
    """Initial spatial frames."""
    keyframe: int = 256
    """The frame that a turn asked to see closely."""


@dataclass
class EvalRollout:
    """What evaluation shows instead."""

    initial_low_res: int = 20
    """Temporal frames in the first message."""
    initial_spatial: int = 8
    """Spatial frames in the first message."""
    budgets: Budgets = field(default_factory=lambda: Budgets(low_res=32, spatial=256, keyframe=512))
    """Pixels a frame."""
    turn_length: int | None = None
    """New tokens of one turn in ``videoseg eval`` (released: 1024); null takes rollout.turn_length."""
    response_length: int | None = None
    """As rollout.response_length, in ``videoseg eval``; null takes that."""
    box_frames: int | None = None
    """Veason-R1: frames in the prompt (released: 8); null takes rollout.box_frames."""
    box_unseen_seconds: bool = True
    """Veason-R1: boxes at a second that was not shown are drawn there, as the released evaluator does; false counts
    such an answer as unreadable."""


@dataclass
class EngineRecipe:
    """vLLM."""

    max_model_len: int = 16384
    """Tokens that one sequence can hold; in the supervised stages the longest conversation."""
    gpu_memory_utilization: float = 0.5
    """Share of a GPU's memory for weights and KV cache (it shares the GPU with the actor, and sleeps meanwhile)."""
    tensor_parallel: int = 1
    """GPUs that one replica spans."""
    max_num_seqs: int = 64
    """Sequences that a replica decodes at the same time."""
    max_num_batched_tokens: int = 16384
    """Tokens in one forward pass; never less than max_model_len is used."""
    enforce_eager: bool = False
    """No CUDA graphs: starts faster, decodes slower."""
    loop_workers: int = 1
    """Processes that serve dialogues (frames, tokens, turns), for each FSDP process: more than one where a small policy
    answers faster than a thread serves. A CPU has one in all."""
    kv_cache_gib: int | None = None
    """Whole GiB of KV cache of a replica. Null: 1 on a CPU, what gpu_memory_utilization leaves on a GPU. Say it where
    several runs start on one GPU: vLLM takes for its own what the others allocate while it measures."""
    vision_attention: Literal["auto", "flash", "sdpa", "triton"] = "auto"
    """vLLM's attention in the policy's vision tower; ``auto`` leaves it to vLLM. Say ``sdpa`` (PyTorch's own) or
    ``triton`` where vLLM's flash attention lacks the tower's head size, as 80 of Qwen2.5-VL: its engine then dies
    while it measures memory."""


@dataclass
class RolloutRecipe:
    """Episodes, in frames and tokens."""

    environment: str | None = None
    """A name registered in ``rollout/environments``, which gets the settings here; null takes the method's own."""
    max_turns: int = 3
    """Assistant messages, at most."""
    initial_low_res: int = 10
    """Temporal frames in the first message (20 in the cold start)."""
    initial_spatial: int = 5
    """Spatial frames in the first message."""
    frames_per_turn: int = 5
    """Low-resolution frames of the chosen interval in each later message, at most."""
    budgets: Budgets = field(default_factory=Budgets)
    """Pixels a frame in training."""
    box_frames: int = 6
    """Veason-R1: sampled frames n of a prompt."""
    box_side: int = 560
    """Veason-R1: side of the square frames, in pixels."""
    box_units: Literal["pixels", "thousandths"] = "pixels"
    """Veason-R1: what boxes are in, asked, read and rewarded: ``pixels`` of those frames, or ``thousandths`` of their
    sides, as an untrained Qwen3-VL answers (``videoseg eval`` of one takes these by itself)."""
    verify_frames: int = 3
    """In environments that show the policy its own masks: frames beside the keyframe."""
    box_no_target: bool = False
    """Veason-R1: also train on expressions without a target, which the paper leaves out; no box answers them."""
    prompt_length: int = 8192
    """Tokens of the first prompt, at most."""
    response_length: int = 3072
    """Tokens of everything after the first prompt, at most: all turns and the user messages between them."""
    turn_length: int = 512
    """New tokens of one turn, at most."""
    group_size: int = 4
    """n: rollouts of one prompt, over which GRPO normalises."""
    temperature: float = 1.0
    """Of sampling in training; evaluation is greedy."""
    top_p: float = 0.9
    """Nucleus of sampling in training."""
    eval: EvalRollout = field(default_factory=EvalRollout)
    """Frames and budgets of evaluation."""
    engine: EngineRecipe = field(default_factory=EngineRecipe)
    """vLLM."""
