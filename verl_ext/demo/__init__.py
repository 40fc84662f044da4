"""``videoseg demo``: a policy on one's own clip, in a page of this machine.

May import `viewer`, `evaluation`. Dialogues and masks are evaluation's own (`engine.Engine`); `job` makes of them what
a visitor sees and takes home, and knows nothing of Gradio; `app` is the page, `serve` shows it on loopback.
"""
