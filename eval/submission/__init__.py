"""Results packed as the benchmarks' servers and tools want them: one file a packager under ``@register_packager``."""

from eval.submission.base import Answer, Packager
from eval.submission.check import check_submission
from eval.submission.registry import get_packager, packager_names, register_packager
from eval.submission.write import Packed, write_submission

__all__ = [
    "Answer",
    "Packager",
    "Packed",
    "check_submission",
    "get_packager",
    "packager_names",
    "register_packager",
    "write_submission",
]
