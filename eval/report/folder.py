"""From the folder of an evaluation (``results.jsonl`` and ``scores.json``) to its page."""

from __future__ import annotations

from pathlib import Path

from eval.benchmarks import Benchmark, benchmark_names, load_benchmark
from eval.report.ceiling import with_ceilings
from eval.report.choice import choose
from eval.report.evaluation import Dialogues, EvaluationPage, build_evaluation_report
from eval.report.inputs import ReportStage
from eval.results.index import Key, Place, index_results, read_record
from eval.results.record import ResultRecord
from eval.results.results_file import RESULTS_FILE, iterate_results
from eval.results.spoilt import spoilt_folders
from eval.scorers.types import Scores
from eval.scores.files import SCORES_FILE, read_scores
from rollout.errors import DataError
from rollout.types import Sample


def evaluation_folders(folder: Path) -> list[Path]:
    """``folder`` itself if it holds results, else those below it that do: an evaluation of several benchmarks."""
    if (folder / RESULTS_FILE).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{RESULTS_FILE}")) if folder.is_dir() else []


def report_folder(
    folder: Path,
    out: Path,
    root: Path | None = None,
    shown: int = 3,
    title: str = "",
    ceiling: Path | None = None,
) -> Path:
    """Write the page of an evaluation to ``out``.

    Args:
        root: the data set's folder; None: no frames are drawn, and the page says so.
        shown: so many best and so many worst expressions are drawn.
        ceiling: a file of ``videoseg data check --ceiling``, whose figures stand beside J&F.

    Raises:
        DataError: a file is missing or of another evaluation, frames or masks that cannot be read.
    """
    results, scores_file = folder / RESULTS_FILE, folder / SCORES_FILE
    if not scores_file.is_file():
        raise DataError(f"{scores_file}: missing; score the results first: videoseg score {results} ... --out {folder}")
    scores, places = read_scores(scores_file), index_results(results)
    notes = _check(scores, places, results)
    if ceiling is not None:
        benchmark = scored_benchmark(scores, scores_file)
        scores = with_ceilings(scores, ceiling, split=benchmark.split)
    chosen = choose(scores.expressions, ends=shown)
    samples: list[Sample] = []
    if root is None:
        notes.append("No frames are drawn: the page was made without --root, the data set's folder.")
    else:
        benchmark = scored_benchmark(scores, scores_file)
        dataset = benchmark.dataset_at(root)
        samples = [benchmark.sample(dataset, row.clip, row.expression_id, by_rule=True) for row, _ in chosen]
    with results.open("rb") as file:
        keys = [(row.clip, row.expression_id) for row, _ in chosen]
        records = [read_record(file, results, key, places[key]) for key in keys]
    _refuse_other_frames(records, samples, results)
    stage = ReportStage("evaluation", "prediction", scores, records, samples)
    name = scores.info.get("benchmark") or folder.name
    spoilt = {way: read_scores(path / SCORES_FILE) for way, path in spoilt_folders(folder).items()}
    page = EvaluationPage(title or f"Evaluation: {name}", stage, chosen, _dialogues(results), notes, spoilt)
    return build_evaluation_report(page, out)


def _check(scores: Scores, places: dict[Key, Place], results: Path) -> list[str]:
    """Scores and results must be of the same evaluation; what was evaluated since is a note."""
    rows = {(row.clip, row.expression_id): row for row in scores.expressions}
    for key in places:
        if key not in rows:
            raise DataError(
                f"{results.parent / SCORES_FILE}: does not know {'/'.join(key)} of {results.name}; score again"
            )
    for key, row in rows.items():
        if not row.missing and key not in places:
            raise DataError(f"{results}: lacks {row.name}, which {SCORES_FILE} has scored; score again")
    newer = sum(rows[key].missing for key in places)
    return [f"{newer} results are newer than the scores: score again to count them."] if newer else []


def scored_benchmark(scores: Scores, path: Path) -> Benchmark:
    """The one that was scored; for ``--dataset`` its split with J and F alone."""
    info = scores.info if scores.info.get("benchmark") else scores.info.get("protocol", {})
    name, dataset, split = (info.get(key) for key in ("benchmark", "dataset", "split"))
    if not (dataset and split):
        raise DataError(f"{path}: names no benchmark, so its data cannot be found; score with --benchmark")
    if name in benchmark_names():
        known = load_benchmark(name)
        if (known.dataset, known.split) == (dataset, split):  # a split of --dataset may be called like a benchmark
            return known
    frames = info.get("scored_frames")  # --dataset, or a YAML file of the user's own
    return Benchmark(name or Path(dataset).stem, dataset, split, frames=frames if isinstance(frames, int) else None)


def _refuse_other_frames(records: list[ResultRecord], samples: list[Sample], results: Path) -> None:
    """Masks must be drawn over the frames that they were predicted for."""
    frames = {(sample.clip.name, sample.expression.id): sample.clip.num_frames for sample in samples}
    for record in records:
        there = frames.get(record.key, record.num_frames)
        if there != record.num_frames:
            raise DataError(
                f"{results}: {record.name} was predicted on {record.num_frames} frames, the data under --root have "
                f"{there}; give the root of the data that were evaluated"
            )


def _dialogues(results: Path) -> Dialogues:
    stops: dict[str, list[str]] = {}
    turns: dict[int, list[str]] = {}
    tokens = count = 0
    for record in iterate_results(results):
        stops.setdefault(record.stop.value, []).append(record.name)
        turns.setdefault(len(record.turns), []).append(record.name)
        tokens, count = tokens + record.tokens, count + 1
    return Dialogues(stops, turns, tokens / count if count else 0.0)
