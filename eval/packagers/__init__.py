"""One file a submission format, under ``@register_packager``; found by itself.

May import `metrics` and `results`.
"""

from eval.packagers.base import Answer, Packager
from eval.packagers.registry import get_packager, packager_names, register_packager

__all__ = ["Answer", "Packager", "get_packager", "packager_names", "register_packager"]
