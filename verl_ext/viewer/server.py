"""The site on a port of this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from rollout.errors import DataError
from verl_ext.viewer.site import Site

if TYPE_CHECKING:
    from starlette.applications import Starlette

PORT = 8765
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def application(site: Site, host: str = "127.0.0.1") -> Starlette:
    """The ASGI application. On loopback it answers only to loopback's names: a page of the network cannot read it."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    def answer(request: Request) -> Response:
        found = site.respond(request.path_params["name"])
        cached = "private, max-age=3600" if found.keeps else "no-store"
        headers = {"cache-control": cached, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
        return Response(found.body, found.status, headers, found.kind)

    middleware = [
        Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(host)),
        Middleware(GZipMiddleware, minimum_size=4096, compresslevel=1),
    ]
    return Starlette(routes=[Route("/{name:path}", answer)], middleware=middleware)


def serve(site: Site, host: str, port: int | None, ready: Callable[[str], None]) -> None:
    """Serve until interrupted. ``ready`` is called with the address.

    ``port``: None takes `PORT`, or a free one where that is taken; 0 any free one.

    Raises:
        DataError: the port is taken, or the host is no address of this machine.
    """
    listening = bind(host, port)
    threading.Thread(target=site.warm_up, daemon=True).start()
    import uvicorn

    shown = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(application(site, host), log_level="warning", access_log=False)
    ready(f"http://{shown}:{listening.getsockname()[1]}/")
    uvicorn.Server(config).run(sockets=[listening])


def allowed_hosts(host: str) -> list[str]:
    """Names by which a server on ``host`` may be asked for: on loopback, loopback's alone."""
    return [*LOOPBACK[:2], "[::1]"] if host in LOOPBACK else ["*"]


def bind(host: str, port: int | None) -> socket.socket:
    """A listening socket; ``port`` and errors as in `serve`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in (PORT, 0) if port is None else (port,):
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, wanted))
            listening.listen(128)  # whoever opens the address at once waits, and is not refused
            return listening
        except OSError as e:
            listening.close()
            problem = e
    raise DataError(f"--host {host} --port {port}: {problem.strerror}; give another --port, or 0 for any that is free")
