"""The page, by Gradio. Everything that it shows is made by `job`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from verl_ext.demo import job
from verl_ext.demo.engine import Engine
from verl_ext.demo.examples import Example
from verl_ext.demo.limits import Limits
from verl_ext.demo.visits import Visits

TITLE = "videoseg demo"
PICTURE = 420
"""Height of the pictures to click on, in pixels of the page."""
WAITING = 20
"""Visitors in line, at most."""
KEPT_S, LOOK_S = 7200, 600
"""Uploads that nobody asked about go after two hours; looked for every ten minutes."""


def build(engine: Engine, visits: Visits, examples: Sequence[Example], limits: Limits, name: str) -> gr.Blocks:
    """The page about one policy, called ``name``."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(LOOK_S, KEPT_S), fill_width=True) as page:
        gr.Markdown(f"# What does `{name}` see?\nAt most {limits.words}. One clip at a time; files go when you leave.")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                clip = gr.Video(label="Clip", sources=["upload"], buttons=[], elem_id="clip", height=300)
                text = gr.Textbox(label="What to look for: one sentence a line", lines=3, elem_id="sentences")
                ask = gr.Button("Ask", variant="primary", elem_id="ask")
                gr.Examples([[str(e.clip), "\n".join(e.sentences)] for e in examples], [clip, text], label="Examples")
            with gr.Column(scale=3, min_width=420):
                said = gr.HTML(elem_id="said")
                film = gr.Video(label="Masks", interactive=False, autoplay=True, loop=True, elem_id="film", height=360)
                files = gr.File(label="Take home", file_count="multiple", interactive=False, elem_id="files")
        turns = gr.HTML(elem_id="turns")
        with gr.Group(visible=False) as panel:
            frame = gr.Slider(0, 1, step=1, label="Frame", elem_id="frame")
            with gr.Row():
                seen = gr.Image(
                    label="The policy's masks: click an object",
                    interactive=False,
                    buttons=[],
                    format="jpeg",
                    elem_id="seen",
                )
                own = gr.Image(
                    label="SAM 2 alone, from your click",
                    interactive=False,
                    buttons=[],
                    format="jpeg",
                    elem_id="own",
                    height=PICTURE,
                )
            verdict = gr.HTML(elem_id="verdict")

        def answer(upload: str | None, words: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
            session = _session(request)
            for now in job.answer(engine, visits, session, upload, words):
                there = now.frames > 0
                yield (
                    now.said,
                    now.turns,
                    now.film,
                    list(now.files) or None,
                    gr.Slider(value=now.frame, maximum=max(1, now.frames - 1)),
                    gr.Group(visible=there),
                    job.picture(visits.of(session), now.frame) if there else None,
                    None,
                    "",
                )

        def look(at: float, request: gr.Request) -> tuple[Any, ...]:
            return job.picture(visits.of(_session(request)), int(at)), None, ""

        def point(at: float, request: gr.Request, event: gr.SelectData) -> tuple[Any, ...]:
            return job.click(engine, visits.of(_session(request)), int(at), *event.index)

        def arrive(request: gr.Request) -> None:
            visits.of(_session(request))

        def leave(request: gr.Request) -> None:
            visits.leave(_session(request))

        everything = [said, turns, film, files, frame, panel, seen, own, verdict]
        ask.click(answer, [clip, text], everything, concurrency_limit=1, show_progress="minimal", api_name="ask")
        frame.release(look, frame, [seen, own, verdict], show_progress="hidden", api_visibility="private")
        seen.select(point, frame, [own, verdict], show_progress="minimal", api_visibility="private")
        page.load(arrive, api_visibility="private", show_progress="hidden")
        page.unload(leave)
    page.queue(max_size=WAITING)
    return page


def _session(request: gr.Request) -> str:
    return str(request.session_hash)
