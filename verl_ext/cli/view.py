"""``videoseg view``: look at a run while it goes on, at an evaluation, or at traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rollout.errors import DataError


def view(
    run: Annotated[Path, typer.Argument(help="Folder of a training run, of an evaluation, or of traces.")],
    beside: Annotated[
        Path | None, typer.Option("--with", help="A second one, side by side on the same prompts.")
    ] = None,
    root: Annotated[
        list[str] | None,
        typer.Option(help="The data set's folder, for pictures of an evaluation or of traces; NAME=PATH, repeated."),
    ] = None,
    moved: Annotated[
        list[str] | None, typer.Option(help="OLD=NEW: frames that a run saw under OLD now lie under NEW; repeated.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Default 8765, or a free one; 0: any free one.", min=0, max=65535)
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than loopback lets the network in.")
    ] = "127.0.0.1",
    static: Annotated[
        Path | None, typer.Option(help="Write files into this new folder instead, that open from disk.")
    ] = None,
    limit: Annotated[int, typer.Option(help="With --static: groups at most, about half a megabyte each.", min=1)] = 50,
) -> None:
    """Look at what the policy does: curves, and each group's dialogues side by side with frames, masks and rewards.

    Serves one local page until Ctrl-C, and follows a run that goes on. Of a run it shows the rollouts that
    trainer.keep_rollouts kept; of an evaluation every expression; of traces what was verified and why not. Press ? on
    the page for its keys. Examples:

      videoseg view runs/quickstart/grpo

      videoseg view runs/rl --with runs/rl_other_reward --port 9000

      videoseg view runs/eval/revos --root data/ReVOS

      videoseg view runs/rl --static rl_pages --limit 100
    """
    from verl_ext.viewer import Site, open_source, serve, write_static

    sources = [open_source(folder, tuple(root or ())) for folder in (run, beside) if folder is not None]
    prefixes = _prefixes(moved or ())
    if static is not None:
        from rich.console import Console

        from verl_ext.run.progress import progress_bar

        with progress_bar(Console(stderr=True)) as progress:
            groups = write_static(sources, static, limit, prefixes, progress)
        typer.echo(f"{static / 'index.html'}: {groups} groups")
        return
    serve(Site(sources, moved=prefixes), host, port, lambda address: typer.echo(f"{address}  (Ctrl-C ends)"))


def _prefixes(moved: tuple[str, ...] | list[str]) -> dict[str, str]:
    """Raises DataError for one that is not OLD=NEW."""
    pairs = [item.partition("=") for item in moved]
    for item, (old, mark, new) in zip(moved, pairs, strict=True):
        if not (old and mark and Path(new).is_dir()):
            raise DataError(f"--moved {item}: wants OLD=NEW, and NEW must be a folder that is there")
    return {old.rstrip("/"): new.rstrip("/") for old, _, new in pairs}
