"""Wrong settings stop with the key's path, the values seen and the remedy, all of them at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rollout.errors import RecipeError
from verl_ext.recipe import check, check_paths, check_ready, load_recipe

RECIPES = Path(__file__).parents[3] / "recipes"
O3, VEASON = RECIPES / "videoseg_o3/grpo_2b.yaml", RECIPES / "veason_r1/grpo_3b.yaml"
SFT, CPU = RECIPES / "videoseg_o3/sft_2b.yaml", RECIPES / "quickstart/grpo.yaml"


def problems(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as e:
        load_recipe(path, overrides)
    return str(e.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rollout.gruop_size=3", ["rollout.gruop_size: unknown key", "did you mean 'group_size'?", "command line"]),
        ("data.0.splitt=x", ["data[0].splitt: unknown key", "did you mean 'split'?"]),
        ("zzz=1", ["zzz: unknown key; known keys: cluster, data, device"]),
        ("rollout.group_size=four", ["rollout.group_size: found 'four' (str), expected int"]),
        ("rollout.group_size=4.0", ["found 4.0 (float), expected int"]),
        ("trainer.steps=true", ["trainer.steps: found True (bool), expected int"]),
        ("optim.lr=null", ["optim.lr: found null, expected float"]),
        ("policy.attn=spda", ["one of sdpa, flash_attention_2; did you mean 'sdpa'?"]),
        ("trainer.loggers=[console,foo]", ["trainer.loggers[1]: found 'foo'"]),
        ("rewards.weights.mask_iou=big", ["rewards.weights.mask_iou: found 'big'"]),
        ("data=[{dataset: revos}]", ["data[0].root: is not set"]),
        ("nonsense", ["expected key=value"]),
        ("=3", ["expected key=value"]),
        ("data.7.root=x", ["data.7.root=x", "out of range"]),
        ("data.0.kinds=[a", ["cannot be set"]),
        ("optim.lr=.inf", ["optim.lr: inf is not a finite number"]),
        ("optim.lr=-1", ["optim.lr: -1.0 is too small; the least is 0"]),
        ("rollout.top_p=1.5", ["rollout.top_p: 1.5 is too large; the most is 1"]),
        ("rollout.budgets.spatial=3", ["rollout.budgets.spatial: 3 is too small; the least is 4"]),
        ("val.0.max_samples=-1", ["val[0].max_samples: -1 is too small; the least is 1"]),
        ("policy.lora.alpha=0", ["policy.lora.alpha: 0 is too small"]),
        ("policy.lora.dropout=-0.1", ["policy.lora.dropout: -0.1 is too small"]),
        ("policy.lora.dropout=1.0", ["policy.lora.dropout: 1.0 is too large"]),
        ("objective.calibration.topk=-0.5", ["objective.calibration.topk: -0.5 is too small"]),
        ("rollout.engine.gpu_memory_utilization=0", ["gpu_memory_utilization: 0.0 is too small"]),
        ("rollout.engine.kv_cache_gib=0", ["kv_cache_gib: 0 is too small; the least is 1"]),
        ("rollout.engine.kv_cache_gib=1.5", ["kv_cache_gib: found 1.5 (float), expected int"]),
        ("trainer.nodes=0", ["trainer.nodes: 0 is too small; the least is 1"]),
    ],
)
def test_a_wrong_key_type_or_number(override: str, said: list[str]) -> None:
    text = problems(O3, override)
    assert all(s in text for s in said), text


@pytest.mark.parametrize(
    ("path", "overrides", "said"),
    [
        (O3, ["trainer.actor_processes=8"], "12 GPUs = 8 trainer.actor_processes + 4 pool.workers x 1"),
        (O3, ["trainer.actor_processes=16", "trainer.nodes=2", "trainer.gpus_per_node=4"], "16 / trainer.nodes 2 = 8"),
        (O3, ["trainer.actor_processes=3", "trainer.prompts_per_step=12"], None),
        (O3, ["trainer.nodes=3"], "trainer.actor_processes 4 is not a multiple of trainer.nodes 3"),
        (O3, ["rollout.engine.tensor_parallel=3"], "tensor_parallel 3"),
        (
            O3,
            ["trainer.micro_batch=3", "policy.packing=none"],
            "64 rollouts do not divide over trainer.micro_batch 3 x",
        ),
        (O3, ["trainer.micro_batch=3"], None),
        (O3, ["trainer.mini_batch_prompts=5"], "prompts_per_step 16 is not a multiple of trainer.mini_batch_prompts 5"),
        (SFT, ["trainer.prompts_per_step=60"], "60 conversations do not divide over trainer.actor_processes 8"),
        (O3, ["rollout.engine.max_model_len=10000"], "8192 + rollout.response_length 3072 = 11264 exceed"),
        (O3, ["rollout.turn_length=1025"], "1025 x rollout.max_turns 3 = 3075 exceed rollout.response_length 3072"),
        (O3, ["rollout.group_size=1"], "a group of one has no advantage"),
        (O3, ["rollout.temperature=0"], "rollout.temperature: 0"),
        (SFT, ["trainer.mode=colocate_async"], "trainer.mode: colocate_async with stage: sft"),
        (O3, ["trainer.mode=colocate_async"], None),
        (O3, ["trainer.mode=colocate_async", "rollout.engine.tensor_parallel=3"], "tensor_parallel 3"),
        (O3, ["trainer.ahead.batches=2"], "trainer.ahead: batches 2.0 with trainer.mode: sync"),
        (O3, ["trainer.rollout_processes=2"], "trainer.rollout_processes: 2 with trainer.mode: sync"),
        (O3, ["trainer.mode=colocate_async", "trainer.rollout_processes=2"], "with trainer.mode: colocate_async"),
        (
            O3,
            ["trainer.mode=colocate_async", "trainer.ahead.batches=1.5"],
            "trainer.ahead.max_staleness: 1 with trainer.ahead.batches: 1.5: a prompt waits 2 step(s)",
        ),
        (
            O3,
            ["trainer.mode=colocate_async", "rollout.environment=verified_masks"],
            "trainer.mode: colocate_async with rollout.environment: verified_masks: dialogues are under",
        ),
        (O3, ["trainer.mode=separate_async"], "trainer.rollout_processes: 0 with trainer.mode: separate_async"),
        (
            O3,
            ["trainer.mode=separate_async", "trainer.rollout_processes=2"],
            "10 GPUs = 4 trainer.actor_processes + 2 trainer.rollout_processes + 4 pool.workers x 1",
        ),
        (
            O3,
            ["trainer.mode=separate_async", "trainer.rollout_processes=2", "trainer.actor_processes=2"],
            None,
        ),
        (
            O3,
            [
                "trainer.mode=separate_async",
                "trainer.rollout_processes=3",
                "trainer.actor_processes=1",
                "rollout.engine.tensor_parallel=2",
            ],
            "trainer.rollout_processes 3 is not a multiple of rollout.engine.tensor_parallel 2",
        ),
        (
            O3,
            [
                "trainer.mode=separate_async",
                "trainer.rollout_processes=2",
                "trainer.actor_processes=2",
                "cluster.gpus_per_node=4",
                "cluster.kind=slurm",
            ],
            "cluster.gpus_per_node: 4 GPUs a machine are asked for, but the run uses trainer.gpus_per_node 8",
        ),
        (
            O3,
            ["objective.rollout_correction.level=token", "rollout.temperature=0.7"],
            "objective.rollout_correction.level: token with rollout.temperature: 0.7",
        ),
        (O3, ["objective.rollout_correction.level=token"], None),
        (O3, ["objective.rollout_correction.threshold=0.5"], "threshold: 0.5 is too small; the least is 1"),
        (O3, ["policy.remove_padding=true"], "packing needs flash_attention_2"),
        (O3, ["policy.remove_padding=true", "policy.attn=flash_attention_2", "policy.packing=none"], None),
        (O3, ["policy.attn=flash_attention_2"], "policy.attn: flash_attention_2 with policy.packing: group"),
        (O3, ["policy.dtype=float32"], "CUDA's kernels need bfloat16"),
        (O3, ["policy.compile=true", "policy.packing=none"], "policy.compile: true with policy.packing: none"),
        (O3, ["policy.row_tokens=4096"], "policy.row_tokens: 4096 is less than the 11264 tokens"),
        (SFT, ["policy.row_tokens=4096"], "policy.row_tokens: 4096 is less than"),
        (CPU, ["policy.attn=flash_attention_2"], "flash_attention_2 with device: cpu"),
        (CPU, ["policy.dtype=bfloat16"], "bfloat16 with device: cpu"),
        (CPU, ["rollout.engine.vision_attention=triton"], "vision_attention: triton with device: cpu"),
        (CPU, ["pool.gpus_per_worker=1"], "pool.gpus_per_worker: 1 with device: cpu"),
        (O3, ["rewards.weights.veason_format=1"], "rewards.weights.veason_format: scores box answers"),
        (VEASON, ["rewards.weights.mask_iou=1"], "rewards.weights.mask_iou: scores [SEG] dialogues"),
        (O3, ["rewards.weights.mask_io=1"], "did you mean 'mask_iou'?"),
        (VEASON, ["pool.checkpoint=null"], "needs SAM 2 and a box policy has none"),
        (VEASON, ["pool.checkpoint=null", "rewards.weights.veason_consistency=0"], None),
        (VEASON, ["optim.decoder_lr=1e-4"], "optim.decoder_lr: 0.0001 with method: veason_r1"),
        (VEASON, ["objective.aux_coef=0.2"], "objective.aux_coef: 0.2 with method: veason_r1"),
        (
            O3,
            ["objective.aux_coef=0", "objective.aux_min_iou=0.5"],
            "objective.aux_min_iou: 0.5 with objective.aux_coef: 0",
        ),
        (VEASON, ["objective.calibration.enabled=true"], "objective.calibration.enabled: true"),
        (VEASON, ["rollout.max_turns=2"], "answers in one turn"),
        (O3, ["objective.calibration={reduction: topk, topk: 0}"], "sums no pixel"),
        (O3, ["pool.preset=sam9"], "'sam9' is no segmenter of ours"),
        (O3, ["pool.preset=sam3"], "pool.preset: sam3 without pool.checkpoint is not read"),
        (O3, ["data.0.dataset=revoz"], "no data set is called 'revoz'; did you mean 'revos'?"),
        (O3, ["data=[]"], "data: is empty"),
        (O3, ["val=[]"], "trainer.eval_every: 100, but val is empty"),
        (O3, ["optim.betas=[0.9]"], "AdamW has two"),
        (O3, ["optim.lr=0"], "trains nothing"),
        (O3, ["rollout.initial_low_res=0", "rollout.initial_spatial=0"], "rollout: initial_low_res and"),
        (SFT, ["rollout.eval={initial_low_res: 0, initial_spatial: 0}"], "rollout.eval: initial_low_res and"),
        (O3, ["rollout.initial_spatial=0"], "rollout.initial_spatial: 0 with stage: grpo"),
        (SFT, ["rollout.initial_spatial=0"], None),
        (VEASON, ["rollout.box_side=550"], "rollout.box_side: 550 is not a multiple of 28"),
        (O3, ["rollout.box_no_target=true"], "rollout.box_no_target: true is read by answers with boxes alone"),
        (VEASON, ["rollout.box_no_target=true"], None),
        (O3, ["pool.share_gpu=true"], "pool.share_gpu: true with pool.gpus_per_worker: 1"),
        (O3, ["pool.share_gpu=true", "pool.gpus_per_worker=0"], None),
        (CPU, ["pool.share_gpu=true"], "pool.share_gpu: true with device: cpu"),
        (VEASON, ["pool.checkpoint=null", "rewards.weights.veason_consistency=0", "trainer.actor_processes=8"], None),
        (O3, ["rollout.environment=no_such"], "rollout.environment: no environment 'no_such'; there are"),
        (O3, ["rollout.environment=single_turn_boxes"], "hold boxes, but method videoseg_o3 scores masks"),
        (VEASON, ["rollout.environment=single_turn_boxes"], None),
        (O3, ["data.0.annotations=x.json"], "data[0].annotations: x.json with stage: grpo"),
        (O3, ["val.0.annotations=x.json"], "val[0].annotations: x.json with stage: grpo"),
    ],
)
def test_settings_that_contradict(path: Path, overrides: list[str], said: str | None) -> None:
    if said is None:
        assert load_recipe(path, overrides)
    else:
        assert said in problems(path, *overrides)


def test_all_problems_are_told_at_once_with_their_files(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("rollout: {temprature: 1.0}\noptim: {lr: fast}\n")
    (tmp_path / "top.yaml").write_text("base: base.yaml\ntrainer: {steps: x}\n")
    text = problems(tmp_path / "top.yaml", "seed=a")
    assert "5 settings are wrong" in text
    lines = {line.split(":")[0].strip(" -"): line for line in text.splitlines()[1:]}
    assert set(lines) == {"rollout.temprature", "optim.lr", "trainer.steps", "seed", "policy.path"}
    assert "base.yaml]" in lines["rollout.temprature"] and "base.yaml]" in lines["optim.lr"]
    assert "top.yaml]" in lines["trainer.steps"] and "[command line]" in lines["seed"]


def test_check_is_silent_on_a_good_recipe_and_pure() -> None:
    recipe = load_recipe(O3)
    assert check(recipe) == []
    assert len(check(replace(recipe, rollout=replace(recipe.rollout, group_size=1)))) == 1


def test_missing_files_are_named_with_the_override_that_helps(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    where = {"policy.path": "policy", "data.0.root": "nowhere", "val.0.root": "."}
    recipe = load_recipe(O3, [f"{key}={tmp_path}/{name}" for key, name in where.items()])
    text = "\n".join(check_paths(recipe))
    assert "policy.path" not in text and "val" not in text
    assert f"data[0].root: {tmp_path}/nowhere does not exist; put it there or give data.0.root=..." in text


@pytest.fixture
def ready(tmp_path: Path) -> list[str]:
    """Overrides of a supervised recipe that can start."""
    head = tmp_path / "policy" / "segmentation_head"
    head.mkdir(parents=True)
    (head / "config.json").write_text("{}")
    (tmp_path / "policy" / "tokenizer.json").write_text('{"added_tokens": [{"id": 7, "content": "[SEG]"}]}')
    for name in ("file.json", "meta_expressions_train_.json", "meta_expressions_valid_.json", "mask_dict.json"):
        (tmp_path / name).touch()
    source = f"{{dataset: revos, root: {tmp_path}, annotations: {tmp_path}/file.json}}"
    return [f"policy.path={tmp_path}/policy", f"data=[{source}]"]


def test_training_needs_a_seg_policy(ready: list[str], tmp_path: Path) -> None:
    assert check_ready(load_recipe(SFT, ready)) == []
    (tmp_path / "policy" / "tokenizer.json").write_text('{"template": "say \\"[SEG]\\" now"}')
    (problem,) = check_ready(load_recipe(SFT, ready))
    assert "has no [SEG] token" in problem and "videoseg policy new" in problem
    (tmp_path / "policy" / "segmentation_head" / "config.json").unlink()
    (problem,) = check_ready(load_recipe(SFT, ready))
    assert f"{tmp_path}/policy has no segmentation_head/config.json" in problem
    boxes = RECIPES / "veason_r1/sft_3b.yaml"
    assert check_ready(load_recipe(boxes, ready)) == []  # a box policy has no head


def test_a_data_set_without_its_files_is_refused_before_anything_starts(ready: list[str], tmp_path: Path) -> None:
    (tmp_path / "meta_expressions_train_.json").unlink()
    (tmp_path / "mask_dict.json").unlink()
    annotations, masks = check_ready(load_recipe(SFT, ready))
    assert annotations.startswith(f"data[0].root: {tmp_path}/meta_expressions_train_.json does not exist; split train")
    assert f"{tmp_path}/mask_dict.json does not exist" in masks and "data.0.root=..." in masks
    (problem,) = check_ready(load_recipe(SFT, [*ready, "data.0.split=tset"]))
    assert "data[0]: data set revos has no split 'tset'; it has train, valid, test" in problem


def test_recorded_conversations_have_their_own_environment(ready: list[str]) -> None:
    (problem,) = check_ready(load_recipe(SFT, [*ready, "rollout.environment=keyframe_exploration"]))
    assert "rollout.environment: keyframe_exploration with stage: sft" in problem


def test_a_supervised_source_without_conversations_is_named(ready: list[str], tmp_path: Path) -> None:
    more = f"val=[{{dataset: revos, root: {tmp_path}}}]"
    assert check_ready(load_recipe(SFT, [*ready, more])) == []  # never evaluated
    (problem,) = check_ready(load_recipe(SFT, [*ready, more, "trainer.eval_every=5"]))
    assert "val[0].annotations: null with stage: sft" in problem and "videoseg data segmentation" in problem
    (problem,) = check_ready(load_recipe(SFT, [*ready, "data.0.annotations=null"]))
    assert "data[0].annotations: null" in problem
