"""What ``--dry-run`` says about processes, devices and memory."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from rollout.errors import DataError
from verl_ext.recipe import PlannedProcess, load_recipe, plan
from verl_ext.recipe.memory import CACHE_GIB, GIB, LAYER_FACTOR, PYTHON_GIB
from verl_ext.recipe.model_size import model_size

RECIPES = Path(__file__).parents[3] / "recipes"
O3 = RECIPES / "videoseg_o3/grpo_2b.yaml"
WITHOUT_SAM2 = ["pool.checkpoint=null", "rewards.weights.veason_consistency=0"]


def write_safetensors(path: Path, shapes: dict[str, list[int]]) -> None:
    """A header without its data: only the header is read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"__metadata__": {}, **{n: {"dtype": "F32", "shape": s} for n, s in shapes.items()}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    write_safetensors(folder / "model-1.safetensors", {"a": [1000, 1000], "b": [24]})
    write_safetensors(folder / "model-2.safetensors", {"c": [1000, 1000], "scalar": []})
    write_safetensors(folder / "segmentation_head" / "model.safetensors", {"h": [500, 1000]})
    text = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 300}
    (folder / "config.json").write_text(json.dumps({"text_config": text}))
    return folder


def by_role(processes: list[PlannedProcess], word: str) -> PlannedProcess:
    return next(p for p in processes if word in p.role)


def test_parameters_are_counted_from_headers(policy: Path) -> None:
    size = model_size(policy)
    assert (size.parameters, size.head_parameters) == (2_000_025, 500_000)
    assert (size.hidden, size.layers, size.vocabulary, size.source) == (64, 2, 300, "counted in its files")


@pytest.mark.parametrize(
    ("path", "count"),
    [("m/Qwen3-VL-2B", 2e9), ("runs/grpo_0.5b/policy", 5e8), ("runs/abc", None), ("m/v2beta", None), ("x/7B-I", 7e9)],
)
def test_a_size_can_be_guessed_from_the_name(path: str, count: float | None) -> None:
    assert model_size(path).parameters == count


@pytest.mark.parametrize("content", [b"", b"abc", struct.pack("<Q", 5) + b"{{{{{"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        model_size(tmp_path)


@pytest.mark.parametrize(("packing", "tokens", "logit"), [("none", 8192 + 3072, 10), ("group", 12000, 2)])
def test_actor_memory_follows_the_formula(policy: Path, packing: str, tokens: int, logit: int) -> None:
    settings = ["policy.gradient_checkpointing=false", f"policy.packing={packing}", "policy.row_tokens=12000"]
    recipe = load_recipe(O3, [f"policy.path={policy}", *settings])
    parts = by_role(plan(recipe).processes, "actor").parts
    assert parts["weights"] == pytest.approx(2_500_025 * 4 / 4 / GIB)
    assert parts["Adam"] == pytest.approx(2 * parts["gradients"])
    assert parts["reference"] == pytest.approx(2_000_025 * 4 / 4 / GIB)
    assert parts["activations"] == pytest.approx(LAYER_FACTOR * tokens * 64 * 2 * 2 / GIB)
    assert parts["logits"] == pytest.approx(tokens * 300 * logit / GIB)


def test_what_saves_memory_is_seen(policy: Path) -> None:
    def actor(*overrides: str) -> PlannedProcess:
        return by_role(plan(load_recipe(O3, [f"policy.path={policy}", *overrides])).processes, "actor")

    whole = actor("policy.gradient_checkpointing=false")
    assert actor().gib < whole.gib  # type: ignore[operator]
    assert "reference" not in actor("objective.kl_coef=0").parts
    lora = actor("policy.lora.rank=4", "policy.lora.dropout=0")
    assert lora.parts["gradients"] < whole.parts["gradients"] and "reference" not in lora.parts
    moved = actor("policy.offload_reference=true")
    assert "reference" not in moved.parts
    assert moved.host_gib - actor().host_gib == pytest.approx(actor().parts["reference"])


def test_host_memory_counts_frames_and_the_copy_that_is_saved_once(policy: Path) -> None:
    o3, boxes = (
        plan(load_recipe(file, [f"policy.path={policy}", *more]))
        for file, more in ((O3, []), (RECIPES / "veason_r1/grpo_3b.yaml", WITHOUT_SAM2))
    )
    actor = by_role(o3.processes, "actor")
    assert "copy while saving" not in actor.parts  # those are of the GPU
    assert 4 * actor.host_gib == pytest.approx(4 * (PYTHON_GIB + CACHE_GIB / 8) + 2_500_025 * 4 / GIB)
    assert any("saving a policy holds all of it" in note for note in boxes.notes)


def test_only_new_tokens_train_embeddings_beside_adapters(policy: Path) -> None:
    def gradients(method: str) -> float:
        recipe = load_recipe(RECIPES / method, [f"policy.path={policy}", "policy.lora.rank=4"])
        return by_role(plan(recipe).processes, "actor").parts["gradients"] * recipe.trainer.actor_processes

    o3, boxes = gradients("videoseg_o3/sft_2b.yaml"), gradients("veason_r1/sft_3b.yaml")
    assert o3 - boxes == pytest.approx(64 * 300 * 4 / GIB)


def test_processes_and_gpus_of_the_shipped_recipe() -> None:
    planned = plan(load_recipe(O3))
    actor, engine, pool = (by_role(planned.processes, w) for w in ("actor", "vLLM", "pool"))
    assert (actor.count, actor.devices) == (4, "GPU 0-3")
    assert engine.devices == "GPU 0-3, 50% of each while awake" and "4 replicas" in engine.role
    assert (pool.count, pool.devices) == (4, "GPU 4-7")
    assert planned.rollouts_per_step == 64 and planned.nodes == 1


def test_a_pool_can_share_one_gpu_or_lie_on_the_cpu() -> None:
    shared = plan(load_recipe(O3, ["pool.gpus_per_worker=0.25"]))
    assert by_role(shared.processes, "pool").devices == "GPU 4"
    slow = plan(load_recipe(O3, ["pool.gpus_per_worker=0"]))
    assert by_role(slow.processes, "pool").devices == "CPU" and any("slow" in n for n in slow.notes)


def test_a_pool_beside_the_actor_on_one_gpu() -> None:
    one = ["trainer.actor_processes=1", "trainer.gpus_per_node=1", "pool.workers=1"]
    shared = plan(load_recipe(O3, [*one, "pool.gpus_per_worker=0", "pool.share_gpu=true"]))
    assert by_role(shared.processes, "pool").devices == "GPU 0, beside an actor"
    assert not any("slow" in n for n in shared.notes)
    spread = plan(load_recipe(O3, ["pool.workers=5", "pool.gpus_per_worker=0.25", "rollout.top_p=0.9"]))
    assert by_role(spread.processes, "pool").devices == "GPU 4-5"


def test_rollout_on_gpus_of_its_own() -> None:
    apart = ["trainer.mode=separate_async", "trainer.actor_processes=2", "trainer.rollout_processes=3"]
    planned = plan(load_recipe(O3, [*apart, "pool.workers=2"]))
    actor, engine, pool = (by_role(planned.processes, w) for w in ("actor", "vLLM", "pool"))
    assert (actor.devices, engine.devices, pool.devices) == ("GPU 0-1", "GPU 2-4, its own", "GPU 5-6")
    assert (engine.count, by_role(planned.processes, "dialogue").count) == (3, 3)
    actors, engines, *_ = planned.gpus
    assert [g.gpus for g in planned.gpus] == ["GPU 0-1", "GPU 2-4", "GPU 5-6", "GPU 7"]
    assert set(actors.rolling_out) == {"actor"} and not actors.kv_cache
    assert set(engines.updating) == set(engines.rolling_out) == {"vLLM"} and "50%" in engines.kv_cache
    assert any("1 step(s) ahead" in note for note in planned.notes)


def test_what_every_gpu_holds(policy: Path) -> None:
    """Its parts are those of the processes that stand on it, and no GPU is left out of the picture."""
    two = [f"policy.path={policy}", "trainer.nodes=2", "trainer.actor_processes=8", "pool.workers=4"]
    planned = plan(load_recipe(O3, [*two, "pool.gpus_per_worker=0.5"]))
    actors, pool, unused = planned.gpus
    assert (actors.gpus, pool.gpus, unused.gpus) == ("GPU 0-3", "GPU 4", "GPU 5-7")
    actor, vllm, worker = (by_role(planned.processes, word) for word in ("actor", "vLLM", "pool"))
    assert actors.updating == {"actor": pytest.approx(actor.gib)}
    passing = sum(actor.parts[name] for name in ("activations", "logits", "gradients"))
    assert actor.gib is not None and worker.gib is not None
    assert actors.rolling_out == {"actor": pytest.approx(actor.gib - passing), "vLLM": pytest.approx(vllm.gib)}
    assert pool.updating == {"pool x 2": pytest.approx(2 * worker.gib)} and not unused.updating
    one = ["trainer.actor_processes=1", "trainer.gpus_per_node=1", "pool.workers=1", "pool.gpus_per_worker=0"]
    (shared,) = plan(load_recipe(O3, [f"policy.path={policy}", *one, "pool.share_gpu=true"])).gpus
    assert shared.gpus == "GPU 0" and list(shared.updating) == ["actor", "pool"]
    (alone,) = plan(load_recipe(RECIPES / "videoseg_o3/sft_2b.yaml", ["trainer.actor_processes=8"])).gpus
    assert alone.gpus == "GPU 0-7" and not alone.rolling_out
    assert plan(load_recipe(RECIPES / "quickstart/grpo.yaml")).gpus == []
    assert plan(load_recipe(O3, ["policy.path=nowhere"])).gpus[0].updating == {"actor": None}


def test_what_does_not_start_is_not_planned() -> None:
    boxes = plan(load_recipe(RECIPES / "veason_r1/grpo_3b.yaml", WITHOUT_SAM2))
    assert not any("pool" in p.role for p in boxes.processes)
    assert any("no segmenter pool" in n for n in boxes.notes)
    supervised = plan(load_recipe(RECIPES / "videoseg_o3/sft_2b.yaml"))
    assert [p.role for p in supervised.processes] == ["supervisor", "actor (FSDP)"]


def test_on_a_cpu_all_memory_is_on_the_host(policy: Path) -> None:
    planned = plan(load_recipe(RECIPES / "quickstart/grpo.yaml", [f"policy.path={policy}"]))
    assert all(p.devices == "CPU" for p in planned.processes)
    assert planned.host_gib == pytest.approx(sum(p.count * (p.gib or 0) for p in planned.processes))
    assert by_role(planned.processes, "vLLM").parts["KV cache"] == 1.0
    assert planned.host_gib < 12  # the quickstart's promise


def test_a_plan_is_plain_json_and_says_what_it_does_not_know() -> None:
    planned = plan(load_recipe(RECIPES / "quickstart/grpo.yaml", ["policy.path=nowhere"]))
    assert by_role(planned.processes, "actor").gib is None
    assert any("not known until policy.path exists" in n for n in planned.notes)
    assert json.loads(json.dumps(planned.to_dict()))["stage"] == "grpo"


def test_frame_features_are_counted_up_to_their_budget(policy: Path) -> None:
    """4 prompts a process, each with 5 spatial frames, the middle frame and 2 keyframes of 4 rollouts; a tiny SAM 2."""

    def features(*more: str) -> float | None:
        return by_role(plan(load_recipe(O3, [f"policy.path={policy}", *more])).processes, "actor").parts.get(
            "frame features"
        )

    assert features() == pytest.approx(4 * 14 * 44 / 64 / 1024)
    assert features("policy.frame_features_gib=0.01") == 0.01
    assert features("policy.frame_features_gib=0") == 0
