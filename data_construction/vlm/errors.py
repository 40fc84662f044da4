"""How a request can end other than with a reply."""

from __future__ import annotations

from data_construction.vlm.usage import Usage
from rollout.errors import VideosegError


class EndpointError(VideosegError, RuntimeError):
    """The endpoint will not serve any request of this job: a wrong key, no such model, no credit, nobody there."""


class BadReplyError(ValueError):
    """A reply that is not what was asked for; raised by a prompt's ``check``. ``reason`` is a short stable word."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


class GaveUpError(VideosegError, RuntimeError):
    """One request that failed for good. ``reason`` is a short stable word for counting."""

    def __init__(self, reason: str, what: str, server_down: bool = False, wasted: Usage | None = None) -> None:
        super().__init__(what)
        self.reason = reason
        self.server_down = server_down
        """The last attempt never reached a working server, so the item itself may be sound."""
        self.wasted = wasted or Usage()
        """What its rejected replies took."""


class BudgetReachedError(VideosegError, RuntimeError):
    """The next request could cross the spend cap; nothing was sent."""


class StoppedError(VideosegError, RuntimeError):
    """The job was told to stop before this request was sent."""
