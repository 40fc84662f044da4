"""Results packed as the benchmarks' servers and tools want them, and checked. The formats are in `eval.packagers`.

May import `packagers`, `results`, `scores`, `benchmarks`.
"""

from eval.submission.check import check_submission
from eval.submission.write import Packed, write_submission

__all__ = ["Packed", "check_submission", "write_submission"]
