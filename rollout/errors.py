"""One exception tree; each class is also the standard error a caller would expect."""

from __future__ import annotations


class VideosegError(Exception):
    """Base of everything this project raises on purpose."""


class DataError(VideosegError, ValueError):
    """A data set on disk is not what its layout promises. Names file, clip and frame or annotation."""


class RecipeError(VideosegError, ValueError):
    """A recipe is wrong: unknown key, wrong type, or settings that contradict each other."""


class ProtocolError(VideosegError, ValueError):
    """Our own side broke the dialogue protocol (never raised for a malformed model reply)."""


class EnvironmentMismatchError(VideosegError, RuntimeError):
    """Installed packages or devices do not fit together."""


class WorkerError(VideosegError, RuntimeError):
    """A remote worker failed for good; names the request that it was working on."""
