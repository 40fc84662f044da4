"""``videoseg convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    released: Annotated[Path, typer.Argument(help="Folder of a released checkpoint, or its weights file.")],
    out: Annotated[Path, typer.Argument(help="Policy folder to write; must not exist.")],
    base: Annotated[
        Path | None, typer.Option(help="Qwen3-VL folder: configuration and tokenizer where the release has none.")
    ] = None,
) -> None:
    """Turn a released VideoSEG-O3 checkpoint into a policy folder (``videoseg eval`` does so by itself).

    Tensors are moved shard by shard and never changed; names, shapes and added tokens are checked. Example:

      videoseg convert downloads/VideoSEG-O3-2B models/videoseg_o3_2b --base models/Qwen3-VL-2B-Instruct
    """
    from rich.console import Console

    from rollout.errors import DataError
    from verl_ext.policy.convert import convert_released
    from verl_ext.policy.released import is_released
    from verl_ext.run.progress import progress_bar

    if not is_released(released):
        raise DataError(
            f"{released}: no weights under a release's names there (grounding_encoder.*, text_hidden_fcs.*); a policy "
            "of ours or a plain Qwen-VL needs no conversion"
        )
    with progress_bar(Console(stderr=True)) as progress:
        typer.echo(f"policy: {convert_released(released, out, base, progress=progress)}")
