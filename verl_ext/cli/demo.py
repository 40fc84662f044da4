"""``videoseg demo``: a policy on one's own clip, in a page of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rollout.errors import DataError
from verl_ext.cli.evaluate import Device, ready_policy


def demo(
    policy: Annotated[Path | None, typer.Argument(help="Policy folder, or --model.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="Policy folder in Hugging Face layout, or a released VideoSEG-O3 checkpoint.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Recipe whose dialogue and engine are used; default: that of the run which the policy is of."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Recipe setting to change, as key=value; may be repeated.")
    ] = None,
    device: Annotated[Device | None, typer.Option(help="Default: the recipe's, or what there is.")] = None,
    gpus: Annotated[int, typer.Option(help="GPUs to use, one engine each.", min=1)] = 1,
    base: Annotated[
        Path | None, typer.Option(help="Qwen3-VL folder for a released checkpoint without tokenizer and config.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Default 8765, or a free one; 0: any free one.", min=0, max=65535)
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than loopback lets the network in.")
    ] = "127.0.0.1",
    max_frames: Annotated[int, typer.Option(help="Longest clip that is taken, in frames.", min=1)] = 600,
    max_mb: Annotated[int, typer.Option(help="Largest upload that is taken, in MB.", min=1)] = 200,
) -> None:
    """Try a policy on your own clip: upload it, say what to look for, watch the turns, take the masks home.

    Serves one local page until Ctrl-C. Dialogues and masks are those of ``videoseg eval``. A click on an object shows
    what SAM 2 alone draws from that point, beside the policy's mask: did it name the wrong thing, or draw the right one
    badly? Needs the extra ``demo`` (Gradio). Examples:

      videoseg demo runs/quickstart/grpo/policy

      videoseg demo --model models/VideoSEG-O3-2B --device cuda --max-frames 2000
    """
    from verl_ext.demo.limits import Limits
    from verl_ext.demo.serve import check_gradio, request_for, serve
    from verl_ext.evaluation.job import check_policy
    from verl_ext.run.prepare import recipe_of_policy

    if (policy is None) == (model is None):
        raise DataError("give the policy's folder once: --model FOLDER, or as the first argument")
    check_gradio()
    folder = ready_policy(policy or model or Path(), Path("runs/demo"), base)
    check_policy(folder)
    if recipe is None and (recipe := recipe_of_policy(folder)) is not None:
        typer.echo(f"Asking as {recipe} does, the run of this policy; --recipe takes another.", err=True)
    typer.echo("Starting the engine: half a minute for a small policy, minutes for a large one ...", err=True)
    serve(
        request_for(folder, recipe, tuple(overrides or ()), device, gpus),
        folder.name if folder.name != "policy" else f"{folder.parent.name}/policy",
        host,
        port,
        Limits(max_mb, max_frames),
        lambda address: typer.echo(f"{address}  (Ctrl-C ends)"),
    )
