"""The quickstart's stages; each is skipped if its result is there already."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_construction.atomic import new_folder, write_whole
from data_construction.cot.segmentation import FILE, write_segmentation_file
from rollout.errors import VideosegError
from verl_ext.quickstart import boxes
from verl_ext.quickstart.evaluation import all_predicted, forget_evaluation
from verl_ext.quickstart.settings import Layout, QuickstartSettings, stage_recipe
from verl_ext.run.run_files import run_finished

if TYPE_CHECKING:
    import torch
    from transformers import ProcessorMixin

    from rewards.segmenter import Segmenter
    from verl_ext.packing.dialogue import Dialogue
    from verl_ext.supervised.dataset import SFTDataset
    from verl_ext.tiny.warm_up_reading import Pointing

OTHER_CLIPS = 6
"""Of a further layout."""
START_SEEDS = 1000
"""From one start of SAM 2 to the next."""
Progress = Callable[[int, int, str], None]


class StoppedError(VideosegError):
    """The user asked to stop; what is done is kept."""

    exit_code = 130


def what_is_there(layout: Layout) -> dict[str, bool]:
    """Which stages have their result in the folder already."""
    return {
        "data": any((layout.data / name).exists() for name in (FILE, boxes.TRACES)),
        "policy": (layout.untrained / "config.json").exists(),
        "segmentation": run_finished(layout.segmentation),
        "cold_start": run_finished(layout.cold_start),
        "rl": run_finished(layout.grpo),
        "evaluation": all(all_predicted(layout.evaluation(stage)) for stage in ("untrained", "cold_start", "rl")),
    }


def make_data(layout: Layout, settings: QuickstartSettings, seed: int, progress: Progress) -> None:
    """Synthetic clips in ReVOS layout, with traces for the dialogue that the recipes hold."""
    from data_construction.cot import TraceSettings, legible
    from data_construction.readers import open_dataset
    from data_construction.synthetic import make_synthetic

    rollout = stage_recipe(layout, "cold_start.yaml", settings, seed).rollout
    # mostly two: the rewards pay one well-formed turn more, and RL gives up a second look that is not a habit
    turns = (0.1, 0.9) if rollout.max_turns >= 2 else (1.0,)
    traces = TraceSettings(
        temporal_frames=rollout.initial_low_res,
        spatial_frames=rollout.initial_spatial,
        frames_per_turn=rollout.frames_per_turn,
        turns=turns,
        **settings.traces,
    )
    make_synthetic(
        layout.data,
        settings.clips,
        seed=seed,
        frames=settings.frames,
        size=settings.size,
        kinds=settings.kinds,
        traces=traces,
        progress=progress,
        world=settings.world,
    )
    train = open_dataset("revos", layout.data, "train")
    if settings.reading is not None and not (layout.data / legible.FILE).exists():
        legible.write_reading_file(train, layout.data / legible.FILE, seed, progress, settings.reading_frames)
    for name in settings.other_layouts:
        _make_other(layout.other_data(name), name, seed)
    if settings.method == boxes.METHOD:
        boxes.write_box_data(train, layout, settings, seed)
    elif not (layout.data / FILE).exists():
        write_segmentation_file(train, layout.data / FILE, settings.taught_kinds)


def _make_other(root: Path, name: str, seed: int) -> None:
    from data_construction.layouts import write_layout

    if root.exists():
        return
    with new_folder(root) as partial:
        write_layout(name, partial, seed=seed, clips=OTHER_CLIPS)


def build_policy(layout: Layout, settings: QuickstartSettings, seed: int, progress: Progress) -> None:
    """A tiny SAM 2, trained alone as the public one was, inside an untrained policy or, for boxes, beside it."""
    if (layout.untrained / "config.json").exists():
        return
    from data_construction.synthetic import object_words, read_synthetic_objects

    forget_evaluation(layout, "untrained")
    words = {a: object_words(o) for a, o in read_synthetic_objects(layout.data).items()}
    segmenter, prompts, found = _warmed_up(layout, settings, seed, words, progress)
    write_whole(layout.out / "warm_up.json", json.dumps(found, indent=1))
    if settings.method == boxes.METHOD:
        boxes.build_box_policy(layout, settings, segmenter.cpu(), seed)
    else:
        _build_mask_policy(layout, settings, segmenter.cpu(), seed)
        named = {annotation: prompts[said[0]] for annotation, said in words.items() if said[0] in prompts}
        _begin(layout, settings, seed, named, progress)


def _warmed_up(
    layout: Layout, settings: QuickstartSettings, seed: int, words: Mapping[str, Sequence[str]], progress: Progress
) -> tuple[Segmenter, dict[str, torch.Tensor], dict[str, float]]:
    """The first SAM 2 that draws well enough, or the best: one start of six ended far below the others.

    Also returns the prompt that it draws each word from, and its measurements.
    """
    from data_construction.readers import open_dataset
    from rewards.segmenter import Segmenter, SegmenterConfig
    from verl_ext.tiny.warm_up import WarmUpSettings, warm_up_segmenter
    from verl_ext.tiny.warm_up_tasks import TaskSettings

    samples = list(open_dataset("revos", layout.data, "train").samples())[: settings.warm_up_samples]
    how = WarmUpSettings(**{**settings.warm_up, "tasks": TaskSettings(**settings.warm_up.get("tasks", {}))})
    best: tuple[Segmenter, dict[str, torch.Tensor], dict[str, float]] | None = None
    for start in range(settings.warm_up_starts):
        own = seed + START_SEEDS * start
        segmenter = Segmenter(SegmenterConfig(seed=own, propagation_gate=settings.propagation_gate))
        prompts: dict[str, torch.Tensor] = {}
        found = warm_up_segmenter(
            segmenter.to(settings.device), samples, words, settings.warm_up_steps, own, progress, how, prompts
        )
        if best is None or found["frame_iou"] > best[2]["frame_iou"]:
            best = segmenter, prompts, {**found, "start": float(start)}
        if found["frame_iou"] >= settings.warm_up_enough:
            break
    assert best is not None
    return best


def _build_mask_policy(layout: Layout, settings: QuickstartSettings, segmenter: Segmenter, seed: int) -> None:
    from verl_ext.tiny.build import GPU_TINY, TinyPolicy, build_tiny_policy

    traces = json.loads((layout.data / "vts_cot_train.json").read_text())
    texts = [c["value"].replace("<image>", "") for t in traces[:3000] for c in t["conversations"]]
    widths: dict[str, Any] = settings.policy or (GPU_TINY if settings.device == "cuda" else {})
    size = TinyPolicy(**widths) if widths else None
    build_tiny_policy(layout.drawn, texts, segmenter, size, seed=seed)


def _begin(
    layout: Layout, settings: QuickstartSettings, seed: int, prompts: Mapping[str, torch.Tensor], progress: Progress
) -> None:
    """Learn to read, to keep the form of a dialogue and to point, where the world has something to read. Elsewhere the
    projection starts where the decoder can tell states apart (see ``centre_projection``).

    ``prompts``: by annotation, what SAM 2 draws it from.
    """
    from transformers import AutoProcessor

    from verl_ext.policy.checkpoint import load_policy, save_policy
    from verl_ext.tiny.centre import centre_projection
    from verl_ext.tiny.warm_up_reading import ReadingSettings, warm_up_reading

    processor = AutoProcessor.from_pretrained(layout.drawn)
    conversations = _conversations(layout, settings, "segmentation.yaml", seed, processor)
    model = load_policy(layout.drawn)
    if settings.reading is None:
        drawn = np.random.default_rng(seed).permutation(len(conversations))[:32]
        centre_projection(model, [conversations[int(i)] for i in drawn], processor.image_processor)
    else:
        known = json.loads((layout.out / "warm_up.json").read_text())
        reader = load_policy(layout.drawn)  # rows change how its towers attend; the policy is saved from another
        read, at = _shown(conversations, range(len(conversations)), prompts, processor, settings.device)
        dialogues = _conversations(layout, settings, "cold_start.yaml", seed, processor)
        some = np.random.default_rng(seed).permutation(len(dialogues))[: settings.dialogues_shown].tolist()
        talked, last = _shown(dialogues, some, prompts, processor, settings.device)
        kept = int(settings.reading_kept * len(read))
        lessons = {
            "reading": (settings.reading, read, at),
            "dialogues": (settings.dialogues, [*read[:kept], *talked], [*at[:kept], *last]),
        }
        for name, (given, shown, points) in lessons.items():
            if given is None:
                continue
            how = ReadingSettings(**given)
            found = warm_up_reading(reader, shown, how, settings.device, seed, progress, points)
            known |= {key.replace("reading", name): value for key, value in found.items()}
        write_whole(layout.out / "warm_up.json", json.dumps(known, indent=1))
        model.load_state_dict(reader.state_dict())
        del read, talked, lessons, shown, reader
        _give_back()
    save_policy(model, processor, layout.untrained)
    shutil.rmtree(layout.drawn)


def _give_back() -> None:
    """Later stages run beside this process: of 3 GiB of pixels that nobody has any more, glibc keeps all for itself."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _shown(
    conversations: SFTDataset,
    order: Sequence[int],
    prompts: Mapping[str, torch.Tensor],
    processor: ProcessorMixin,
    device: str,
) -> tuple[list[Dialogue], list[Pointing | None]]:
    """Some conversations with their pixels, and where each points."""
    from verl_ext.tiny.warm_up_reading import with_pixels

    points: list[Pointing | None] = []

    def told() -> Iterator[Mapping[str, Any]]:
        for i in order:
            item = conversations[i]
            points.append(_pointing(item, prompts))
            yield item

    return [*with_pixels(told(), processor.image_processor, device)], points


def _pointing(item: Mapping[str, Any], prompts: Mapping[str, torch.Tensor]) -> Pointing | None:
    """Of a conversation about one object: its last ``[SEG]``, as an earlier one may not know yet which object it is."""
    from verl_ext.tiny.warm_up_reading import Pointing

    asked = [prompts[a] for a in item["sample"]["expression"]["anno_ids"] if a in prompts]
    said = [at for turn in item["episode"]["turns"] for at in turn["seg_positions"]]
    return Pointing(said[-1], asked[0]) if said and len(asked) == 1 else None


def _conversations(
    layout: Layout, settings: QuickstartSettings, name: str, seed: int, processor: ProcessorMixin
) -> SFTDataset:
    """What a supervised stage trains on, before there is a policy that it starts from."""
    from verl_ext.recipe import save_resolved
    from verl_ext.recipe.context import RECIPE_ENV
    from verl_ext.supervised.dataset import SFTDataset

    resolved = layout.out / f"{Path(name).stem}.resolved.yaml"
    save_resolved(stage_recipe(layout, name, settings, seed), resolved)
    os.environ[RECIPE_ENV] = str(resolved)
    return SFTDataset(tokenizer=processor.tokenizer, processor=processor)


def segmentation(layout: Layout, settings: QuickstartSettings, seed: int, progress: Progress) -> Path:
    """The first supervised stage: what a ``[SEG]`` state must say; returns the policy's folder."""
    return _supervised(layout, layout.segmentation, "segmentation.yaml", settings, seed, progress)


def cold_start(layout: Layout, settings: QuickstartSettings, seed: int, progress: Progress) -> Path:
    """The second: the dialogue, from traces; returns the policy's folder."""
    if not run_finished(layout.cold_start):
        forget_evaluation(layout, "cold_start")
    return _supervised(layout, layout.cold_start, "cold_start.yaml", settings, seed, progress)


def _supervised(
    layout: Layout, folder: Path, name: str, settings: QuickstartSettings, seed: int, progress: Progress
) -> Path:
    from verl_ext.supervised.run import POLICY_FOLDER, train_sft

    policy = folder / POLICY_FOLDER
    if run_finished(folder) and (policy / "config.json").exists():
        return policy
    return finished(train_sft(stage_recipe(layout, name, settings, seed), resume=True, progress=progress), folder)


def reinforce(layout: Layout, settings: QuickstartSettings, seed: int, progress: Progress) -> Path:
    """GRPO from the cold start; returns the newest policy's folder."""
    from verl_ext.reinforce.run import newest_policy, train_grpo

    recipe = stage_recipe(layout, "grpo.yaml", settings, seed)
    last = layout.grpo / "checkpoints" / f"global_step_{recipe.trainer.steps}" / "policy"
    if run_finished(layout.grpo) and (last / "config.json").exists():  # its last evaluation included
        return newest_policy(layout.grpo)
    forget_evaluation(layout, "rl")
    return finished(train_grpo(recipe, resume=True, progress=progress), layout.grpo)


def finished(policy: Path | None, folder: Path) -> Path:
    """The policy of a run; raises StoppedError where it was asked to stop, which the same command continues."""
    from verl_ext.run.supervise import asked_to_stop

    if policy is None or asked_to_stop(folder):
        raise StoppedError(f"what is done lies in {folder}; the same command goes on from there")
    return policy
