"""``videoseg data sample``, ``verify``, ``export`` and ``view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

EXIT_SET_ASIDE = 1
Roots = Annotated[
    list[str], typer.Option("--root", help="The data set's folder; NAME=PATH, repeated, for traces of several.")
]
DatasetOf = Annotated[str, typer.Option("--dataset", help="For VTS-CoT records, which do not say it themselves.")]
SplitOf = Annotated[str, typer.Option("--split", help="For VTS-CoT records, which do not say it themselves.")]
Side = Annotated[
    int | None, typer.Option(help="Of Veason-R1's square frames, for traces that do not say; else 560.", min=1)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there from other settings.")]


def sample(
    name: Annotated[str, typer.Argument(help="A data set's name (revos, mevis, ...) or its YAML file.")],
    root: Annotated[Path, typer.Argument(help="Its folder.")],
    size: Annotated[int, typer.Option(help="Expressions to draw, exactly.", min=1)],
    split: Annotated[str, typer.Option(help="The split to draw from.")] = "train",
    strata: Annotated[
        str,
        typer.Option(
            help="What to keep the joint shares of: type, objects, single_multi, kind, clip_length, "
            "mask_size, with commas between."
        ),
    ] = "type,objects",
    bins: Annotated[int, typer.Option(help="Quantile bins of a stratum that is a number.", min=1)] = 3,
    per_clip: Annotated[int | None, typer.Option(help="At most so many expressions of one clip.", min=1)] = None,
    relax: Annotated[bool, typer.Option("--relax", help="If --per-clip costs shares: nearest draw.")] = False,
    targets_only: Annotated[bool, typer.Option("--targets-only", help="Leave out expressions without target.")] = False,
    seed: Annotated[int, typer.Option(help="The same seed draws the same sample.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Annotation file; default: the split's own, ..._select.")] = None,
    ids: Annotated[Path | None, typer.Option(help="Also write ids as JSON lines, for `cot --only`.")] = None,
    no_annotations: Annotated[bool, typer.Option("--no-annotations", help="Write --ids only.")] = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="Faster: do not look at frames and masks.")] = False,
    overwrite: Overwrite = False,
    min_ceiling: Annotated[
        float | None, typer.Option(help="Only where the segmenter reaches this J&F (percent) from true prompts.")
    ] = None,
    ceiling: Annotated[
        Path | None,
        typer.Option(help="With --min-ceiling: a file of `data check --ceiling`; default ROOT/ceiling_SPLIT.jsonl."),
    ] = None,
    ceiling_of: Annotated[str, typer.Option(help="With --min-ceiling: from boxes, or from seg.")] = "boxes",
) -> None:
    """Draw a stratified sample: the joint shares of all strata are kept within one expression, the size is exact.

    Writes the data set's annotation file with the drawn expressions alone, and a stanza beside it by which every
    command opens it as split SPLIT_select. Drawn is what can be used; exits with 1 if expressions had to be set aside
    for a missing frame, masks that do not fit or text that cannot be read. Examples:

      videoseg data sample revos data/ReVOS --size 10000

      videoseg data sample revos data/ReVOS --size 2000 --strata type,objects,clip_length,mask_size --per-clip 10

      videoseg data sample mevis data/MeViS --size 500 --ids runs/ids.jsonl --no-annotations

      videoseg data sample revos data/ReVOS --size 2000 --min-ceiling 60
    """
    from verl_ext.cli.sample_job import SampleRequest, run_sample

    names = tuple(part.strip() for part in strata.split(",") if part.strip())
    request = SampleRequest(
        name,
        root,
        split,
        size,
        names,
        bins,
        per_clip,
        relax,
        targets_only,
        seed,
        out,
        ids,
        no_annotations,
        overwrite,
        no_check,
        min_ceiling,
        ceiling,
        ceiling_of,
    )
    if not run_sample(request):
        raise typer.Exit(EXIT_SET_ASIDE)


def verify(
    traces: Annotated[Path, typer.Argument(help="traces.jsonl, its folder, or a .json of VTS-CoT records.")],
    out: Annotated[Path, typer.Argument(help="Folder for verified.jsonl and rejected.jsonl.")],
    root: Roots,
    dataset: DatasetOf = "",
    split: SplitOf = "",
    min_words: Annotated[int, typer.Option(help="Of the thinking of one turn.", min=0)] = 8,
    max_words: Annotated[int, typer.Option(help="Of the thinking of one turn.", min=1)] = 350,
    precision: Annotated[float, typer.Option(help="Least share of the answered interval that shows a target.")] = 0.5,
    box_iou: Annotated[float, typer.Option(help="Least IoU of each box with its object.")] = 0.5,
    duplicate: Annotated[
        float, typer.Option(help="Share of 5-word runs in common that makes two traces the same; above 1: keep both.")
    ] = 0.9,
    vocabulary: Annotated[
        str, typer.Option(help="Things that thinking may name: auto; strict (colours as well); off.")
    ] = "auto",
    fps: Annotated[float | None, typer.Option(help="Frames a second, for traces that do not say.")] = None,
    side: Side = None,
    skip: Annotated[list[str] | None, typer.Option(help="Leave out this check; may be repeated.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="A second model that judges what passed the checks.")] = None,
    base_url: Annotated[str | None, typer.Option(help="The judge's endpoint, as http://host:8000/v1.")] = None,
    api_key_env: Annotated[str, typer.Option(help="Environment variable with the judge's key.")] = "OPENAI_API_KEY",
    workers: Annotated[int, typer.Option(help="Questions to the judge in flight.", min=1)] = 32,
    prices: Annotated[tuple[float, float], typer.Option(help="The judge's, a million prompt and reply tokens.")] = (
        0,
        0,
    ),
    max_cost: Annotated[
        float | None, typer.Option(help="Stop before the judge costs more than this, earlier runs included.")
    ] = None,
    min_share: Annotated[float, typer.Option(help="Fail if a smaller share survives.", min=0, max=1)] = 0.0,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Check every trace before it counts; rejected ones go to OUT/rejected.jsonl with check and reason.

    The same command goes on where it stopped, takes in traces that were added, and asks again where the judge could not
    be asked. To have what was rejected made and verified again, run `videoseg data cot ... --again OUT`. Exit code: 0
    when every trace has its verdict, however many were rejected; 1 if lines could not be read, clips are missing, the
    judge did not come to all, or fewer than --min-share survive; 2 on errors. Examples:

      videoseg data verify runs/vts runs/vts/verified --root data/ReVOS

      videoseg data verify runs/seed runs/seed/verified --root data/ReVOS --judge-model gpt-5 --min-share 0.6

      videoseg data verify vts_cot.json runs/v --root data/ReVOS --dataset revos --split train --skip steps
    """
    from data_construction.verify import VerifySettings
    from verl_ext.cli.verify_job import JudgeRequest, VerifyRequest, run_verify

    settings = VerifySettings(
        min_words, max_words, precision, box_iou, duplicate, vocabulary, side, fps, tuple(skip or ())
    )
    judge = None if judge_model is None else JudgeRequest(judge_model, base_url, api_key_env, workers, prices, max_cost)
    request = VerifyRequest(traces, out, tuple(root), dataset, split, settings, judge, min_share, overwrite, as_json)
    if not run_verify(request):
        raise typer.Exit(EXIT_SET_ASIDE)


def export(
    source: Annotated[Path, typer.Argument(help="verified.jsonl or its folder; for --to traces an exported file.")],
    out: Annotated[Path, typer.Argument(help="Folder to write to; for --to traces a .jsonl file.")],
    to: Annotated[str, typer.Option(help="verl (parquet), sharegpt (LLaMA-Factory), vts_cot, or traces: back again.")],
    root: Annotated[
        list[str] | None, typer.Option(help="The data set's folder; NAME=PATH, repeated, for traces of several.")
    ] = None,
    dataset: DatasetOf = "",
    split: SplitOf = "",
    name: Annotated[str, typer.Option(help="Name of the file, and of the data set in dataset_info.json.")] = "train",
    images: Annotated[
        Literal["link", "copy", "embed"] | None,
        typer.Option(help="link: the frames on disk; copy: JPEGs at the size shown; embed: inside the parquet."),
    ] = None,
    factor: Annotated[int, typer.Option(help="Patch times merge of the policy: 32 Qwen3-VL, 28 Qwen2.5-VL.")] = 32,
    side: Side = None,
    unverified: Annotated[bool, typer.Option("--unverified", help="Export traces that nobody verified.")] = False,
) -> None:
    """Write verified traces as trainers want them, and back from there without loss.

    Rejected traces are left out; a trace whose clip or frames are missing is named and set aside (exit code 1, as for a
    torn last line). Of a folder of traces the ones in its `verified` are taken.
    Examples:

      videoseg data export runs/vts/verified runs/export --to verl --root data/ReVOS

      videoseg data export runs/seed/verified runs/factory --to sharegpt --name veason_seed --root data/ReVOS

      videoseg data export runs/vts/verified runs/released --to vts_cot --root data/ReVOS

      videoseg data export runs/export/train.parquet runs/back.jsonl --to traces
    """
    from verl_ext.cli.trace_jobs import ExportRequest, run_export, run_import

    if to == "traces":
        run_import(source, out)
        return
    request = ExportRequest(source, out, to, tuple(root or ()), dataset, split, name, images, factor, side, unverified)
    if not run_export(request):
        raise typer.Exit(EXIT_SET_ASIDE)


def view(
    traces: Annotated[Path, typer.Argument(help="Folder of `verify`, a trace file, or VTS-CoT records.")],
    out: Annotated[Path, typer.Argument(help="HTML file to write.")],
    root: Roots,
    dataset: DatasetOf = "",
    split: SplitOf = "",
    limit: Annotated[int, typer.Option(help="Traces on the page; about 80 kB each.", min=1)] = 60,
    verdict: Annotated[str, typer.Option(help="Only verified, rejected or unchecked ones.")] = "",
    kind: Annotated[str, typer.Option(help="Only this kind of expression.")] = "",
    seed: Annotated[int, typer.Option(help="Another seed shows other traces.")] = 0,
    side: Side = None,
) -> None:
    """Look at traces: one HTML page with frames, masks or boxes, turns, thinking and verdicts, that needs no network.

    The page filters by verdict, type, check and text, and is driven by keys (press ? on it). With more traces than
    --limit, they are drawn in turn from every verdict, check and type, and the page says so. Exits with 1 if a line
    could not be read or a trace has no pictures. Examples:

      videoseg data view runs/vts/verified runs/vts/traces.html --root data/ReVOS

      videoseg data view runs/vts/verified bad.html --root data/ReVOS --verdict rejected --limit 200
    """
    from verl_ext.cli.trace_jobs import ViewRequest, run_view

    request = ViewRequest(traces, out, tuple(root), dataset, split, limit, verdict, kind, seed, side)
    if not run_view(request):
        raise typer.Exit(EXIT_SET_ASIDE)


COMMANDS = (sample, verify, export, view)
