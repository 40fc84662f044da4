"""Evaluate a policy: roll out, propagate, write each finished expression, score.

Each clip is on disk the moment it is finished; the same call goes on where an earlier one stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.result_record import ResultRecord, TurnRecord
from eval.results import ResultsFile, read_results
from eval.score import score_results
from eval.score_files import write_scores
from rollout.types import Sample

if TYPE_CHECKING:
    from eval.inference import Dialogue, InferenceSettings
    from eval.score_types import Scores
    from verl_ext.scoring import Scoring

RESULTS_FILE = "results.jsonl"
Progress = Callable[[int, int, str], None]


@dataclass
class Cluster:
    """The Ray actors of an evaluation: policy workers and the segmenter pool."""

    workers: list[Any]
    pool: Any
    scoring: Scoring
    """Says which masks to ask the pool for."""
    started_ray: bool = False
    folder: str = ""

    def close(self) -> None:
        import ray

        self.pool.close()
        for worker in self.workers:
            ray.kill(worker)
        if self.started_ray:
            ray.shutdown()


def start_cluster(folder: Path, settings: InferenceSettings, device: str = "cpu", gpus: int = 1) -> Cluster:
    """Start Ray if need be, one policy worker a GPU (one in all on a CPU) and the pool with the policy's SAM 2.

    Raises:
        RecipeError: the policy has no SAM 2 of its own and the settings name none.
    """
    import ray

    from eval.inference import PolicyWorker, cpu_environment
    from verl_ext.pool import pool_of_policy
    from verl_ext.scoring import scoring_of

    environment = cpu_environment() if device == "cpu" else {}
    started = not ray.is_initialized()
    if started:
        limits: dict[str, Any] = {"num_cpus": 16, "_node_ip_address": "127.0.0.1"} if device == "cpu" else {}
        ray.init(include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": environment}, **limits)
    share = {"num_gpus": 0.8} if device == "cuda" else {}
    actor = ray.remote(PolicyWorker).options(max_concurrency=4 * settings.concurrency, **share)
    workers = [actor.remote(str(folder), settings, device, environment) for _ in range(gpus if device == "cuda" else 1)]
    pool = pool_of_policy(
        folder,
        workers=len(workers),
        gpus=0.2 if device == "cuda" else 0.0,
        preset=settings.sam2_preset,
        checkpoint=settings.sam2_checkpoint,
    )
    ray.get([w.start.remote() for w in workers])
    scoring = scoring_of(settings.environment, settings.environment_settings, {})
    return Cluster(workers, pool, scoring, started, str(folder))


def use_policy(cluster: Cluster, folder: Path) -> None:
    """Switch a running cluster to another policy of the same architecture."""
    import ray

    from verl_ext.policy.checkpoint import has_head, load_head_state
    from verl_ext.policy.head import decoder_items

    if cluster.folder == str(folder):
        return
    ray.get([w.use_policy.remote(str(folder)) for w in cluster.workers])
    if has_head(folder):
        cluster.pool.load_decoder(dict(decoder_items(iter(load_head_state(folder).items()))))
    cluster.folder = str(folder)


def evaluate(
    cluster: Cluster,
    samples: Iterable[Sample],
    out: Path,
    progress: Progress | None = None,
    protocol: Mapping[str, Any] | None = None,
    seed: int | None = None,
    rewards: Scoring | None = None,
) -> Scores:
    """Run every sample that ``out`` does not hold yet, then score all of them.

    Args:
        out: folder of ``results.jsonl``, ``scores.json`` and ``scores.csv``.
        rewards: a recipe's scoring, whose rewards are to be recorded as well.
    """
    wanted = list(samples)
    report = progress or (lambda done, total, what: None)
    with ResultsFile(out / RESULTS_FILE) as results:
        todo = [s for s in wanted if (s.clip.name, s.expression.id) not in results]
        done = len(wanted) - len(todo)
        report(done, len(wanted), "dialogues and masks")
        for group in _finished_groups(cluster, todo):
            for record in _records(cluster, group, rewards):
                results.append(record)
                done += 1
            report(done, len(wanted), "dialogues and masks")
    scores = score_results(read_results(out / RESULTS_FILE), wanted, protocol=protocol, seed=seed)
    write_scores(scores, out)
    return scores


def _finished_groups(
    cluster: Cluster, todo: Sequence[Sample], size: int = 16
) -> Iterable[list[tuple[Sample, Dialogue]]]:
    """Dialogues as they finish, up to ``size`` at a time, so that propagation of some overlaps decoding of others."""
    import ray

    waiting = {}
    for i, sample in enumerate(todo):
        worker = cluster.workers[i % len(cluster.workers)]
        waiting[worker.run.remote(sample.to_dict())] = sample
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=min(size, len(waiting)), timeout=2.0)
        if ready:
            yield [(waiting.pop(ref), ray.get(ref)) for ref in ready]


def _records(
    cluster: Cluster, group: Sequence[tuple[Sample, Dialogue]], rewards: Scoring | None
) -> Iterable[ResultRecord]:
    from verl_ext.scoring import Rollout, predict_masks, score_rollouts

    rollouts = [Rollout(sample, d.episode, d.states) for sample, d in group]
    masks = predict_masks(cluster.scoring, cluster.pool, rollouts)
    if rewards is not None:
        given = zip(*((r.sample, r.episode, r.states) for r in rollouts), strict=True)
        rollouts = score_rollouts(rewards, cluster.pool, *given)
    for rollout, (sample, dialogue), predicted in zip(rollouts, group, masks, strict=True):
        yield record_of(sample, dialogue, list(predicted), rollout.rewards or None)


def record_of(sample: Sample, dialogue: Dialogue, masks: list[Any], rewards: dict[str, float] | None) -> ResultRecord:
    """What is written for one expression."""
    episode = dialogue.episode
    turns = tuple(
        TurnRecord(t.text, t.action, t.grounding, t.keyframe, tuple(t.shown), len(t.shown)) for t in episode.turns
    )
    return ResultRecord(
        clip=sample.clip.name,
        expression_id=sample.expression.id,
        text=sample.expression.text,
        type_id=sample.expression.type_id,
        kind=sample.expression.kind,
        num_frames=sample.clip.num_frames,
        height=sample.clip.height,
        width=sample.clip.width,
        spatial_frames=tuple(episode.spatial_frames),
        stop=episode.stop,
        turns=turns,
        prediction=tuple(masks),
        rewards=rewards,
        tokens=dialogue.tokens,
    )

