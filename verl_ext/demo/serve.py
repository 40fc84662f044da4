"""The demo on a port of this machine, from its first file to its last."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.errors import EnvironmentMismatchError
from verl_ext.demo.engine import Engine, target_at
from verl_ext.demo.examples import draw_examples
from verl_ext.demo.limits import MIB, Limits
from verl_ext.demo.turns import css
from verl_ext.demo.visits import GUESTS, SHOWN, Visits, scratch
from verl_ext.viewer.server import allowed_hosts, bind

if TYPE_CHECKING:
    from fastapi import FastAPI

    from verl_ext.evaluation.request import Request

PATIENCE_S = 3
"""For connections that are open when it ends."""


def check_gradio() -> None:
    """Raises EnvironmentMismatchError, with the remedy, where the extra is not installed."""
    if find_spec("gradio") is None:
        raise EnvironmentMismatchError(
            "the demo's page needs Gradio, which is not installed: `make install` brings it, or "
            "pip install -c constraints/cpu.txt 'videoseg-rl[demo]' (gpu.txt on CUDA machines)"
        )


def serve(
    request_at: Callable[[Path], Request],
    name: str,
    host: str,
    port: int | None,
    limits: Limits,
    ready: Callable[[str], None],
) -> None:
    """Serve until Ctrl-C or TERM; engine and temporary files are gone afterwards.

    Args:
        request_at: what evaluation is asked for, given a folder of ours.
        ready: called with the address.
    Raises:
        DataError, RecipeError, WorkerError: see `Engine`; the port is taken.
        EnvironmentMismatchError: no Gradio.
    """
    check_gradio()
    import uvicorn

    listening = bind(host, port)
    with _interrupted_by_term(), scratch() as folder, _engine(request_at(folder / GUESTS)) as engine:
        app = application(engine, folder, name, host, limits)
        shown = f"[{host}]" if ":" in host else host
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=PATIENCE_S)
        ready(f"http://{shown}:{listening.getsockname()[1]}/")
        uvicorn.Server(config).run(sockets=[listening])


def application(engine: Engine, folder: Path, name: str, host: str, limits: Limits) -> FastAPI:
    """The ASGI application; its files are in ``folder``, as `scratch` made it.

    Fonts are this machine's, and nothing is told to anybody: no analytics, no link to share, no version check.
    """
    os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from verl_ext.demo.app import build

    examples = draw_examples(folder / SHOWN)
    page = build(engine, Visits(folder, limits), examples, limits, name)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(host))
    return gr.mount_gradio_app(  # type: ignore[no-any-return]
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        max_file_size=limits.megabytes * MIB,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        css=css(),
    )


def request_for(
    policy: Path, recipe: Path | None, overrides: tuple[str, ...], device: str | None, gpus: int
) -> Callable[[Path], Request]:
    """What `serve` asks the engine to be, on a folder of its own."""
    from verl_ext.evaluation.request import Request as Asked

    return lambda folder: Asked(policy, (target_at(folder),), recipe, overrides, device, gpus)


@contextmanager
def _engine(request: Request) -> Iterator[Engine]:
    engine = Engine.start(request)
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def _interrupted_by_term() -> Iterator[None]:
    """TERM ends this process as Ctrl-C does, so that nothing stays behind."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
