"""The quickstart's stages; each is skipped if its result is there already."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rollout.errors import VideosegError
from rollout.types import Sample
from verl_ext.quickstart.settings import Layout, QuickstartSettings, recipe_file

Progress = Callable[[int, int, str], None]


class StoppedError(VideosegError):
    """The user asked to stop; what is done is kept."""


def make_data(layout: Layout, settings: QuickstartSettings, seed: int, progress: Progress) -> None:
    """Synthetic clips in ReVOS layout, with traces for the dialogue that the recipes hold."""
    from data_construction.cot import TraceSettings
    from data_construction.cot.segmentation import FILE, write_segmentation_file
    from data_construction.readers import open_dataset
    from data_construction.synthetic import make_synthetic

    rollout = _recipe(layout, "cold_start.yaml", settings.cold_start, seed).rollout
    turns = (0.3, 0.7) if rollout.max_turns >= 2 else (1.0,)
    traces = TraceSettings(
        temporal_frames=rollout.initial_low_res,
        spatial_frames=rollout.initial_spatial,
        frames_per_turn=rollout.frames_per_turn,
        turns=turns,
    )
    make_synthetic(
        layout.data,
        settings.clips,
        seed=seed,
        frames=settings.frames,
        kinds=settings.kinds,
        traces=traces,
        progress=progress,
    )
    if not (layout.data / FILE).exists():
        train = open_dataset("revos", layout.data, "train")
        write_segmentation_file(train, layout.data, settings.taught_kinds)


def build_policy(layout: Layout, settings: QuickstartSettings, seed: int, progress: Progress) -> None:
    """A tiny SAM 2, trained alone as the public one was, inside an untrained policy."""
    if (layout.untrained / "config.json").exists():
        return
    from data_construction.readers import open_dataset
    from data_construction.synthetic import read_synthetic_objects
    from rewards.segmenter import Segmenter, SegmenterConfig
    from verl_ext.tiny.build import build_tiny_policy
    from verl_ext.tiny.warm_up import WarmUpSettings, warm_up_segmenter

    samples = list(open_dataset("revos", layout.data, "train").samples())
    words = {a: (str(o["color"]), str(o["shape"])) for a, o in read_synthetic_objects(layout.data).items()}
    segmenter = Segmenter(SegmenterConfig(seed=seed))
    # decoding single frames is enough: a state that is injected in every frame propagates as well without (J 0.88
    # against 0.72 after as many seconds of training half on propagation)
    only_frames = WarmUpSettings(single_frame_share=1.0, transformer_lr_factor=0.1)
    found = warm_up_segmenter(
        segmenter, samples[: settings.warm_up_samples], words, settings.warm_up_steps, seed, progress, only_frames
    )
    (layout.out / "warm_up.json").write_text(json.dumps(found, indent=1))
    traces = json.loads((layout.data / "vts_cot_train.json").read_text())
    texts = [c["value"].replace("<image>", "") for t in traces[:3000] for c in t["conversations"]]
    build_tiny_policy(layout.drawn, texts, segmenter, seed=seed)
    _centre(layout, settings, seed)


def _centre(layout: Layout, settings: QuickstartSettings, seed: int) -> None:
    """Start the projection where the decoder can tell states apart (see ``centre_projection``)."""
    from transformers import AutoProcessor

    from verl_ext.context import RECIPE_ENV
    from verl_ext.policy.checkpoint import load_policy, save_policy
    from verl_ext.recipe import save_resolved
    from verl_ext.sft_dataset import SFTDataset
    from verl_ext.tiny.centre import centre_projection

    recipe = _recipe(layout, "segmentation.yaml", settings.segmentation, seed)
    resolved = layout.out / "segmentation.resolved.yaml"
    save_resolved(recipe, resolved)
    os.environ[RECIPE_ENV] = str(resolved)
    processor = AutoProcessor.from_pretrained(layout.drawn)
    conversations = SFTDataset(tokenizer=processor.tokenizer, processor=processor)
    model = load_policy(layout.drawn)
    drawn = np.random.default_rng(seed).permutation(len(conversations))[:32]
    centre_projection(model, [conversations[int(i)] for i in drawn])
    save_policy(model, processor, layout.untrained)
    shutil.rmtree(layout.drawn)


def segmentation(layout: Layout, settings: QuickstartSettings, seed: int, progress: Progress) -> Path:
    """The first supervised stage: what a ``[SEG]`` state must say; returns the policy's folder."""
    return _supervised(layout, layout.segmentation, "segmentation.yaml", settings.segmentation, seed, progress)


def cold_start(layout: Layout, settings: QuickstartSettings, seed: int, progress: Progress) -> Path:
    """The second: the dialogue, from traces; returns the policy's folder."""
    return _supervised(layout, layout.cold_start, "cold_start.yaml", settings.cold_start, seed, progress)


def _supervised(
    layout: Layout, folder: Path, name: str, overrides: tuple[str, ...], seed: int, progress: Progress
) -> Path:
    from verl_ext.sft import POLICY_FOLDER, train_sft

    policy = folder / POLICY_FOLDER
    if (policy / "config.json").exists():
        return policy
    return _finished(train_sft(_recipe(layout, name, overrides, seed), resume=True, progress=progress), folder)


def reinforce(layout: Layout, settings: QuickstartSettings, seed: int, progress: Progress) -> Path:
    """GRPO from the cold start; returns the newest policy's folder."""
    from verl_ext.grpo import newest_policy, train_grpo

    recipe = _recipe(layout, "grpo.yaml", settings.grpo, seed)
    last = layout.grpo / "checkpoints" / f"global_step_{recipe.trainer.steps}" / "policy"
    if (last / "config.json").exists():
        return newest_policy(layout.grpo)
    return _finished(train_grpo(recipe, resume=True, progress=progress), layout.grpo)


def test_samples(layout: Layout, settings: QuickstartSettings, seed: int) -> list[Sample]:
    """The evaluated expressions: a fixed draw from the test split."""
    from data_construction.readers import open_dataset

    samples = list(open_dataset("revos", layout.data, "test").samples())
    order = np.random.default_rng(seed).permutation(len(samples))[: settings.test_samples]
    return [samples[i] for i in sorted(order)]


def evaluate_stages(
    layout: Layout, settings: QuickstartSettings, seed: int, policies: dict[str, Path], progress: Progress
) -> dict[str, Any]:
    """Every policy on the same held-out expressions, one engine for all; returns scores by stage."""
    from eval.run import evaluate, start_cluster, use_policy
    from eval.score_files import read_scores
    from verl_ext.cli.evaluation import inference_settings

    recipe = _recipe(layout, "grpo.yaml", settings.grpo, seed)
    samples = test_samples(layout, settings, seed)
    todo = [s for s in policies if not (layout.evaluation(s) / "scores.json").exists()]
    if todo:
        cluster = start_cluster(policies[todo[0]], inference_settings(recipe), recipe.device)
        try:
            for stage in todo:
                use_policy(cluster, policies[stage])
                words = stage.replace("_", " ")
                evaluate(
                    cluster,
                    samples,
                    layout.evaluation(stage),
                    progress=lambda done, total, what, w=words: progress(done, total, f"{w}: {what}"),  # type: ignore[misc]
                    protocol={"policy": str(policies[stage]), "split": "test", "samples": len(samples)},
                    seed=seed,
                )
        finally:
            cluster.close()
    return {stage: read_scores(layout.evaluation(stage) / "scores.json") for stage in policies}


def _recipe(layout: Layout, name: str, overrides: tuple[str, ...], seed: int) -> Any:
    from verl_ext.recipe import load_recipe

    data = layout.data
    start, folder, annotations, sources = {
        "segmentation.yaml": (layout.untrained, layout.segmentation, data / "segmentation_train.json", 1),
        "cold_start.yaml": (layout.segmentation / "policy", layout.cold_start, data / "vts_cot_train.json", 2),
        "grpo.yaml": (layout.cold_start / "policy", layout.grpo, None, 1),
    }[name]
    places = [f"policy.path={start}", f"output_dir={folder}", f"seed={seed}"]
    places += [f"data.{i}.root={data}" for i in range(sources)]
    if annotations is None:
        places.append(f"val.0.root={data}")
    else:
        places += [f"data.{i}.annotations={annotations}" for i in range(sources)]
    return load_recipe(recipe_file(name), [*places, *overrides])


def _finished(policy: Path | None, folder: Path) -> Path:
    if policy is None:
        raise StoppedError(f"stopped; what is done lies in {folder}. The same command goes on from there.")
    return policy
