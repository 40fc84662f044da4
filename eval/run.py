"""Evaluate a policy: roll out, propagate, write each finished expression, score.

Each clip is on disk the moment it is finished; the same call goes on where an earlier one stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.result_record import ResultRecord, TurnRecord
from eval.results import ResultsFile, read_results
from eval.score import score_results
from eval.score_files import write_scores
from rollout.episode import final_keyframe
from rollout.types import Sample

if TYPE_CHECKING:
    from eval.inference import Dialogue, InferenceSettings
    from eval.score_types import Scores

RESULTS_FILE = "results.jsonl"
Progress = Callable[[int, int, str], None]


@dataclass
class Cluster:
    """The Ray actors of an evaluation: policy workers and the segmenter pool."""

    workers: list[Any]
    pool: Any
    started_ray: bool = False
    folder: str = field(default="")

    def close(self) -> None:
        import ray

        self.pool.close()
        for worker in self.workers:
            ray.kill(worker)
        if self.started_ray:
            ray.shutdown()


def start_cluster(folder: Path, settings: InferenceSettings, device: str = "cpu", gpus: int = 1) -> Cluster:
    """Start Ray if need be, one policy worker a GPU (one in all on a CPU) and the pool with the policy's SAM 2."""
    import ray

    from eval.inference import PolicyWorker, cpu_environment
    from verl_ext.pool import pool_of_policy

    environment = cpu_environment() if device == "cpu" else {}
    started = not ray.is_initialized()
    if started:
        limits: dict[str, Any] = {"num_cpus": 16, "_node_ip_address": "127.0.0.1"} if device == "cpu" else {}
        ray.init(include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": environment}, **limits)
    share = {"num_gpus": 0.8} if device == "cuda" else {}
    actor = ray.remote(PolicyWorker).options(max_concurrency=4 * settings.concurrency, **share)
    workers = [actor.remote(str(folder), settings, device, environment) for _ in range(gpus if device == "cuda" else 1)]
    pool = pool_of_policy(folder, workers=len(workers), gpus=0.2 if device == "cuda" else 0.0, device=device)
    ray.get([w.start.remote() for w in workers])
    return Cluster(workers, pool, started, str(folder))


def use_policy(cluster: Cluster, folder: Path) -> None:
    """Switch a running cluster to another policy of the same architecture."""
    import ray

    from verl_ext.policy.checkpoint import load_head_state
    from verl_ext.policy.head import decoder_items

    if cluster.folder == str(folder):
        return
    ray.get([w.use_policy.remote(str(folder)) for w in cluster.workers])
    cluster.pool.load_decoder(dict(decoder_items(iter(load_head_state(folder).items()))))
    cluster.folder = str(folder)


def evaluate(
    cluster: Cluster,
    samples: Iterable[Sample],
    out: Path,
    progress: Progress | None = None,
    protocol: Mapping[str, Any] | None = None,
    seed: int | None = None,
    rewards: Callable[[Sample, Any, Any], dict[str, float]] | None = None,
) -> Scores:
    """Run every sample that ``out`` does not hold yet, then score all of them.

    Args:
        out: folder of ``results.jsonl``, ``scores.json`` and ``scores.csv``.
        rewards: (sample, episode, mask scores) -> rewards, to be recorded as well.
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
    cluster: Cluster, group: Sequence[tuple[Sample, Dialogue]], rewards: Callable[..., dict[str, float]] | None
) -> Iterable[ResultRecord]:
    from verl_ext.scoring import propagate_request, seg_request

    requests: list[Any] = [propagate_request(s, d.episode, d.states) for s, d in group]
    scored = [i for i, (_, d) in enumerate(group) if rewards is not None and d.episode.turns]
    requests += [seg_request(group[i][0], group[i][1].episode, group[i][1].states) for i in scored]
    answers = cluster.pool.score(requests)
    mask_scores = dict(zip(scored, answers[len(group) :], strict=True))
    for i, ((sample, dialogue), masks) in enumerate(zip(group, answers, strict=False)):
        values = rewards(sample, dialogue.episode, mask_scores.get(i)) if rewards is not None else None
        yield record_of(sample, dialogue, list(masks.rles), values)


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


__all__ = ["Cluster", "evaluate", "final_keyframe", "record_of", "start_cluster", "use_policy"]
