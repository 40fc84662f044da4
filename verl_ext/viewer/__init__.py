"""``videoseg view``: a local page about a run, an evaluation or traces, made as it is asked for.

May import `rollout_log`, `run`. ``open_source`` reads a folder, `Site` makes pages of it, `serve` shows them on
loopback and `write_static` puts them into a folder.
"""

from verl_ext.viewer.server import serve
from verl_ext.viewer.site import Site
from verl_ext.viewer.sources import open_source
from verl_ext.viewer.static_site import write_static

__all__ = ["Site", "open_source", "serve", "write_static"]
