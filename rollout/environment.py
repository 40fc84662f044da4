"""The protocol of an environment, and the registry by which recipes name one.

A new environment is one file in ``rollout/environments/``: a class with these three methods, decorated with
`register_environment`. Nothing else is edited: the folder is searched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from rollout.errors import RecipeError
from rollout.messages import Message
from rollout.plugins import import_files_of
from rollout.types import Episode, Sample, StopReason
from rollout.verification import MasksWanted


class Environment(Protocol):
    """One episode on one sample. It sees text only; tokens and images are the conversation's."""

    def begin(self) -> list[Message] | StopReason:
        """The opening messages (system, first user), or why there will be no dialogue."""
        ...

    def step(self, reply: str) -> list[Message] | StopReason | MasksWanted:
        """Records a reply; the next user message, or why the episode ended. Never raises for a bad reply.

        An environment that shows the policy its own masks may say `MasksWanted`, and gets them by ``see(masks)``, which
        returns what ``step`` would have (`rollout.environments.verified`).
        """
        ...

    def episode(self, stop: StopReason) -> Episode:
        """What happened, given why it ended (the caller may have ended it: context_full, length)."""
        ...


class EnvironmentClass(Protocol):
    """What is registered: builds itself from a sample and a recipe's plain settings.

    It may say what its replies hold, and so which method's settings, rewards and masks are theirs: ``answers`` is
    ``"masks"`` (``[SEG]``, videoseg_o3; so without a word), ``"boxes"`` (veason_r1), or ``"both"`` in one answer, which
    takes the settings of boxes and the policy of ``[SEG]``.
    """

    @classmethod
    def build(cls, sample: Sample, settings: Mapping[str, Any], factor: int) -> Environment: ...


C = TypeVar("C", bound=type)
_ENVIRONMENTS: dict[str, Any] = {}


def register_environment(name: str) -> Callable[[C], C]:
    """Class decorator: makes an environment available to recipes by ``name``."""

    def register(cls: C) -> C:
        if _ENVIRONMENTS.setdefault(name, cls) is not cls:
            raise RecipeError(f"an environment named {name!r} is already registered")
        return cls

    return register


def _discover() -> None:
    import_files_of("rollout.environments")


def environment_names() -> list[str]:
    """Every registered name."""
    _discover()
    return sorted(_ENVIRONMENTS)


def get_environment(name: str) -> type[EnvironmentClass]:
    """The class of that name; raises `RecipeError` listing those there are."""
    names = environment_names()
    if name not in names:
        raise RecipeError(f"no environment {name!r}; there are {', '.join(names)}")
    return _ENVIRONMENTS[name]  # type: ignore[no-any-return]


def answers_of(name: str) -> str:
    """``masks``, ``boxes`` or ``both``: what replies in the environment ``name`` hold. Raises as `get_environment`."""
    return getattr(get_environment(name), "answers", "masks")


def verifies(name: str) -> bool:
    """Whether the environment ``name`` shows the policy its own masks. Raises as `get_environment`."""
    return bool(getattr(get_environment(name), "verifies", False))


def make_environment(name: str, sample: Sample, settings: Mapping[str, Any], factor: int) -> Environment:
    """The environment ``name`` on a sample; ``factor`` = patch * merge of the policy's vision tower."""
    return get_environment(name).build(sample, settings, factor)
