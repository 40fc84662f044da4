"""Recipes: every shipped one parses, files inherit, overrides win, and nothing heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_construction.layouts import write_layout
from data_construction.readers.stanza import load_stanza
from rewards.compose import VEASON_REWARDS, VIDEOSEG_O3_REWARDS
from rollout.errors import RecipeError
from verl_ext.cli.main import app
from verl_ext.recipe import (
    Recipe,
    check_paths,
    load_recipe,
    load_resolved,
    override,
    plan,
    recipe_from_overrides,
    save_resolved,
)
from verl_ext.recipe.convert import field_types
from verl_ext.run.sources import load_samples

ROOT = Path(__file__).parents[3]
ALL = sorted((ROOT / "recipes").rglob("*.yaml"))
BASES = [p for p in ALL if p.parent.name == "bases"]
SHIPPED = [p for p in ALL if p not in BASES]
GRPO_2B = ROOT / "recipes/videoseg_o3/grpo_2b.yaml"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "recipes"))


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_every_shipped_recipe_parses_and_can_be_planned(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert path.parent.name in (recipe.method, "quickstart", "exploring", "twins")
    assert (recipe.stage == "grpo") == path.stem.startswith("grpo")
    planned = plan(recipe)
    roles = " ".join(p.role for p in planned.processes)
    assert ("vLLM" in roles) == ("segmenter pool" in roles) == (recipe.stage == "grpo")


@pytest.mark.parametrize("path", BASES, ids=name_of)
def test_every_base_needs_only_a_policy_data_and_rewards(path: Path) -> None:
    missing = ["policy.path=models/x", "data=[{dataset: revos, root: data}]", "rewards.weights.mask_iou=1"]
    if "veason" in path.name:
        missing = [*missing[:2], "rewards.weights.veason_format=1"]
    assert load_recipe(path, [*missing, "trainer.eval_every=0"]).policy.path == "models/x"


def test_the_recipe_schema_imports_without_torch_verl_vllm_ray_or_transformers() -> None:
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{"torch", "torchvision", "verl", "vllm", "ray", "transformers", "sam2"}}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
from verl_ext.recipe import load_recipe, plan
for path in {[str(p) for p in SHIPPED]!r}:
    plan(load_recipe(path))
print("parsed")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "parsed", run.stderr


def test_videoseg_o3_recipes_hold_the_published_numbers() -> None:
    r = load_recipe(GRPO_2B)
    assert (r.rollout.group_size, r.rollouts_per_step, r.trainer.steps, r.rollout.max_turns) == (4, 64, 1000, 3)
    assert (r.rollout.prompt_length, r.rollout.turn_length, r.rollout.top_p, r.optim.lr) == (8192, 512, 0.9, 3e-6)
    assert (r.rollout.initial_low_res, r.rollout.initial_spatial, r.rollout.frames_per_turn) == (10, 5, 5)
    budgets, evaluation = r.rollout.budgets, r.rollout.eval
    assert (budgets.low_res, budgets.spatial, budgets.keyframe) == (32, 128, 256)
    assert (evaluation.initial_low_res, evaluation.initial_spatial) == (20, 8)
    assert (evaluation.budgets.low_res, evaluation.budgets.spatial, evaluation.budgets.keyframe) == (32, 256, 512)
    assert (r.objective.kl_coef, r.objective.aux_coef, r.objective.advantage_eps) == (0.04, 0.2, 1e-4)
    assert r.rewards.weights == dict.fromkeys(VIDEOSEG_O3_REWARDS, 1.0)
    assert (r.policy.dtype, r.policy.gradient_checkpointing) == ("bfloat16", True)

    sft = load_recipe(ROOT / "recipes/videoseg_o3/sft_2b.yaml")
    assert (sft.policy.lora.rank, sft.policy.lora.alpha, sft.policy.lora.dropout) == (128, 256, 0.05)
    assert (sft.optim.lr, sft.optim.betas, sft.optim.weight_decay) == (4e-5, [0.9, 0.999], 0.05)
    assert (sft.optim.clip_norm, sft.optim.warmup_ratio, sft.optim.schedule) == (1.0, 0.05, "cosine")
    assert (sft.sft_loss.mask_ce, sft.sft_loss.dice, sft.rollout.engine.max_model_len) == (2.0, 0.5, 8192)
    assert sft.policy.freeze_vision and sft.trainer.epochs == 1 and sft.trainer.steps is None
    assert load_recipe(ROOT / "recipes/videoseg_o3/cold_start_2b.yaml").rollout.initial_low_res == 20


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_veason_recipes_hold_the_published_numbers(size: str) -> None:
    r = load_recipe(ROOT / f"recipes/veason_r1/grpo_{size}.yaml")
    assert (r.method, r.rollout.group_size, r.trainer.prompts_per_step) == ("veason_r1", 8, 16)
    assert (r.optim.lr, r.optim.weight_decay, r.optim.clip_norm, r.objective.kl_coef) == (1e-6, 1e-2, 1.0, 5e-3)
    assert (r.rollout.prompt_length, r.rollout.response_length, r.rollout.temperature) == (7100, 1024, 1.0)
    assert (r.rollout.engine.tensor_parallel, r.rollout.engine.gpu_memory_utilization) == (2, 0.25)
    assert (r.rollout.box_frames, r.rollout.box_side, r.trainer.epochs) == (6, 560, 1)
    assert r.rewards.weights == dict.fromkeys(VEASON_REWARDS, 1.0)


def test_veason_trains_on_the_sample_that_the_command_in_its_comment_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDEOSEG_DATA", str(tmp_path))
    text = (ROOT / "recipes/bases/veason_r1_grpo.yaml").read_text()
    command = next(line.strip(" #") for line in text.splitlines() if "videoseg data sample" in line).split()
    write_layout("revos", tmp_path / "ReVOS")
    command[command.index("data/ReVOS")], command[command.index("10000")] = str(tmp_path / "ReVOS"), "2"
    assert CliRunner().invoke(app, command[1:]).exit_code == 0
    recipe = load_recipe(ROOT / "recipes/veason_r1/grpo_3b.yaml")
    assert "data" not in " ".join(check_paths(recipe))
    assert len(load_samples(recipe)) == 2


def test_supervised_stages_name_the_papers_data() -> None:
    sft, cold = (load_recipe(ROOT / f"recipes/videoseg_o3/{n}_2b.yaml") for n in ("sft", "cold_start"))
    videos, images = {"ref_ytvos", "revos", "mevis", "ref_sav", "long_rvos"}, {"reasonseg", "gcg"}
    assert {s.dataset for s in sft.data} == videos | images | {"refcoco", "refcoco_plus", "refcocog"}
    assert {s.dataset for s in cold.data} == {"revos", "mevis", "long_rvos"}
    assert all(s.annotations for s in [*sft.data, *cold.data])
    for source in sft.data:
        assert source.split in load_stanza(source.dataset).splits


def test_quickstart_runs_on_a_cpu_and_starts_from_the_cold_start() -> None:
    cold, rl = (load_recipe(ROOT / f"recipes/quickstart/{n}.yaml") for n in ("cold_start", "grpo"))
    assert cold.device == rl.device == "cpu" and cold.policy.dtype == "float32"
    assert rl.policy.path.startswith(cold.output_dir)
    assert rl.rollout.eval == cold.rollout.eval


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


MINIMAL = """
policy: {path: models/x}
data: [{dataset: revos, root: data/a}]
rewards: {weights: {mask_iou: 1, interval: 2}}
trainer: {eval_every: 0}
"""


def test_later_bases_win_sections_merge_and_lists_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", MINIMAL + "optim: {lr: 1.0e-5, weight_decay: 0.5}\nseed: 1\n")
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", "b.yaml", "base: ../a.yaml\noptim: {lr: 2.0e-5}\nseed: 2\n")
    write(tmp_path, "c.yaml", "seed: 3\n")
    path = write(tmp_path, "d.yaml", "base: [sub/b.yaml, c.yaml]\ndata: [{dataset: mevis, root: m}]\n")
    r = load_recipe(path)
    assert (r.optim.lr, r.optim.weight_decay, r.seed, r.name) == (2e-5, 0.5, 3, "d")
    assert [s.dataset for s in r.data] == ["mevis"]


def test_references_are_resolved_and_derived_settings_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOSEG_DATA", "/somewhere")
    assert load_recipe(GRPO_2B).data[0].root == "/somewhere/ReVOS"
    r = load_recipe(GRPO_2B, ["trainer.prompts_per_step=32", "name=mine", "rollout.engine.max_model_len=20000"])
    assert (r.trainer.mini_batch_prompts, r.output_dir) == (32, "runs/mine")
    assert r.rollout.engine.max_num_batched_tokens == 20000
    assert load_recipe(GRPO_2B, ["output_dir=/tmp/${name}-${seed}"]).output_dir == "/tmp/grpo_2b-0"


def test_overrides_reach_lists_maps_and_null() -> None:
    r = load_recipe(
        GRPO_2B,
        [
            "data.0.root=/x",
            "data.1.kinds=[a, b]",
            "trainer.loggers=[wandb]",
            "rewards.weights.interval=0",
            "rewards.weights.temporal_iou=0.5",
            "trainer.eval_samples=null",
            "optim.decoder_lr=1e-4",
            "optim.lr=1",
        ],
    )
    assert (r.data[0].root, r.data[1].kinds, r.trainer.loggers) == ("/x", ["a", "b"], ["wandb"])
    assert "interval" not in r.rewards.weights and r.rewards.weights["temporal_iou"] == 0.5
    assert r.trainer.eval_samples is None and r.optim.decoder_lr == 1e-4
    assert type(r.optim.lr) is float


@pytest.mark.parametrize("path", ["/home/me/run #1", "a: b", "it's {x}", 'say "no"', "~", "a=b", "naïve 🎬", "12"])
def test_any_path_survives_as_an_override(path: str) -> None:
    r = load_recipe(GRPO_2B, [override("output_dir", path), override("data.0.root", path), override("seed", 3)])
    assert (r.output_dir, r.data[0].root, r.seed) == (path, path, 3)


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_a_resolved_recipe_reads_back_equal(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    save_resolved(recipe, tmp_path / "new" / "resolved.yaml")
    assert load_resolved(tmp_path / "new" / "resolved.yaml") == recipe


def test_a_recipe_can_be_made_without_a_file() -> None:
    r = recipe_from_overrides("eval", ["stage=sft", "policy.path=p", "data=[{dataset: revos, root: d}]"])
    assert (r.name, r.output_dir, r.data[0].split) == ("eval", "runs/eval", "train")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: nowhere.yaml", "nowhere.yaml: no such recipe file (the base of"),
        ("base: r.yaml", "is its own base"),
        ("base: 3", "expected a path relative to this file"),
        ("a: [1", "is not readable as YAML"),
        ("- a", "a recipe is a mapping"),
        ("data: {a: 1}", "data: found a mapping, expected a list"),
        ("trainer: {loggers: {a: 1}}", "trainer.loggers: found a mapping, expected a list"),
        ("rollout: [1]", "rollout: found a list, expected a mapping"),
        ("rollout: 5", "rollout: found 5 (int), expected mapping"),
        ("output_dir: ${nope}", "cannot be resolved"),
    ],
)
def test_a_broken_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, "r.yaml", text)
    with pytest.raises(RecipeError) as e:
        load_recipe(path)
    assert said in str(e.value) and "r.yaml" in str(e.value)


def test_every_setting_is_documented() -> None:
    import ast
    import inspect

    def undocumented(cls: type) -> list[str]:
        body = ast.parse(inspect.getsource(cls).lstrip()).body[0].body  # type: ignore[attr-defined]
        bare = [
            a.target.id
            for a, b in zip(body, [*body[1:], None], strict=True)
            if isinstance(a, ast.AnnAssign) and not (isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant))
        ]
        kinds = field_types(cls)
        out = [f"{cls.__name__}.{n}" for n in bare if not is_dataclass(kinds[n])]  # sections have their class's text
        for f in fields(cls):
            if is_dataclass(kinds[f.name]):
                out += undocumented(kinds[f.name])
        return out

    assert undocumented(Recipe) == []
