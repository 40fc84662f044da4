"""The optimiser, the segmenter pool, and how a run is laid out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Logger = Literal["console", "jsonl", "tensorboard", "wandb"]


@dataclass
class OptimRecipe:
    """AdamW."""

    lr: float = 3e-6
    """Peak learning rate of the language and vision model (VideoSEG-O3's RL; SFT 4e-5)."""
    decoder_lr: float | None = None
    """Of SAM 2's prompt encoder and mask decoder; null is ``lr``."""
    projection_lr: float | None = None
    """Of the projection from hidden states to ``[SEG]`` states; null is ``lr``."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """Decay of the two running means."""
    weight_decay: float = 0.05
    """Decoupled weight decay."""
    clip_norm: float = 1.0
    """The gradient's norm, at most."""
    warmup_ratio: float = 0.0
    """Share of the steps in which the rate rises from 0 (SFT 0.05)."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up."""


@dataclass
class PoolRecipe:
    """Ray actors that hold SAM 2 and score masks."""

    workers: int = 4
    """Actors; not used by the supervised stages."""
    cpus_per_worker: float = 1.0
    """CPU cores that Ray reserves for each."""
    gpus_per_worker: float = 1.0
    """GPUs that Ray reserves for each, beside the actor's: several share one by a fraction, with 0 they use the CPU."""
    share_gpu: bool = False
    """Hold SAM 2 on the actor's GPU (with ``gpus_per_worker: 0``): for machines with one GPU. ``[SEG]`` rewards are
    then scored in the actor's log-prob pass, which has the frames encoded; the pool propagates held-out masks."""
    cache_frames: int = 256
    """Encoded frames that an actor keeps, about 8 MiB each at 1024 x 1024."""
    preset: str = "sam2.1_hiera_l"
    """Which segmenter ``checkpoint`` is: a SAM 2.1, or ``sam3``; not read without one."""
    checkpoint: str | None = None
    """Weights of SAM 2 or SAM 3 to score with; null takes the policy's own (box policies have none)."""
    compile: bool = False
    """Compile the image encoder's blocks and the steps of propagation: an actor's first clips then take 22 to 37 s
    longer (one H200); all others took 0.7 to 0.8 of their time in one run, 0.7 to 1.3 in another. Pays from some ten
    thousand frames on; not on a CPU."""


@dataclass
class KeepRolloutsRecipe:
    """Dialogues of reinforcement that stay on disk, in output_dir/rollouts, to be looked at: ``videoseg view``."""

    every: int = 1
    """Steps from one whose dialogues are kept to the next; 0 keeps none."""
    groups: int = 2
    """Prompts of such a step that are kept, each with all its rollouts: those with the smallest hash of their name, so
    that two runs over the same data keep the same ones. About 100 kB each."""
    log_every: int = 25
    """Steps from one whose kept groups also go to W&B (a table) and TensorBoard (images), where ``loggers`` names them,
    each with its best and its worst rollout, to the next; 0 sends none."""


@dataclass
class AheadRecipe:
    """How far rollouts run ahead of training, in the asynchronous modes (``trainer.mode``)."""

    batches: float = 1.0
    """Steps' worth of prompts that are rolled out before they are needed; 0 is on-policy."""
    max_staleness: int = 1
    """By how many steps the weights of a dialogue's oldest token may lag behind those that learn from it."""
    when_stale: Literal["wait", "drop"] = "wait"
    """Before a dialogue gets older than that: ``wait`` ends it first and learns from it, ``drop`` lets it go and rolls
    out another prompt, which drops long dialogues before short ones."""


@dataclass
class TrainerRecipe:
    """Steps, batches, processes and files."""

    mode: Literal["sync", "colocate_async", "separate_async"] = "sync"
    """``sync``: roll out, then train, in turn. ``colocate_async``: the same GPUs do both in turn, but an update begins
    once enough dialogues have ended; the others go on after it with the new weights. ``separate_async``: rollout has
    GPUs of its own (``rollout_processes``) and pauses only while it gets new weights."""
    steps: int | None = 1000
    """Optimisation steps; null runs ``epochs`` to their end."""
    epochs: int = 1
    """Passes over the data, at most (also where ``steps`` is given)."""
    prompts_per_step: int = 16
    """Prompts of one step over all processes; times rollout.group_size are its rollouts (64 in the paper)."""
    mini_batch_prompts: int = 16
    """Prompts of one optimiser update; unless given, all of a step (exactly on-policy)."""
    micro_batch: int = 1
    """Sequences that a process holds in one forward pass, with ``policy.packing: none``."""
    actor_processes: int = 4
    """FSDP processes, over all nodes; on a GPU machine one GPU each."""
    rollout_processes: int = 0
    """vLLM processes on GPUs of their own, over all nodes; ``separate_async`` alone has them."""
    nodes: int = 1
    """Machines."""
    gpus_per_node: int = 8
    """GPUs of one machine, for actor, ``rollout_processes`` and pool together; 0 on a CPU."""
    loader_workers: int = 4
    """Processes that prepare data beside each training process."""
    shuffle: bool = True
    """Draw prompts in random (seeded) order."""
    save_every: int = 50
    """Steps between checkpoints; 0 saves only the last."""
    eval_every: int = 50
    """Steps between evaluations on ``val``; 0 never evaluates."""
    eval_samples: int | None = None
    """Held-out expressions, a fixed draw by seed; null takes all."""
    eval_draws: int = 4
    """Sampled dialogues of a held-out expression, averaged: less noise in the mean reward than one."""
    eval_greedy: bool = True
    """One more, greedy, whose masks are propagated over the whole clip: J&F by step, for about a third of the time."""
    grad_every: int = 10
    """Steps between measurements of the gradients that text, calibration and auxiliary losses send into each module
    (``actor/grad/...``), on one micro-batch; 0 never measures."""
    keep_checkpoints: int = 2
    """The newest so many are kept."""
    resume: Literal["auto", "never"] = "never"
    """``auto`` continues from the newest checkpoint in output_dir."""
    keep_rollouts: KeepRolloutsRecipe = field(default_factory=KeepRolloutsRecipe)
    ahead: AheadRecipe = field(default_factory=AheadRecipe)
    loggers: list[Logger] = field(default_factory=lambda: ["console", "jsonl"])
    """Where metrics go beside output_dir/metrics.jsonl (``jsonl``), which is always written."""
