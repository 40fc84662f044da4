"""What a run of inference leaves on disk: records, the results file and its index, failures, ``run.json``.

May import nothing of ``eval``.
"""

from eval.results.failures import FAILED_FILE, FailuresFile, read_failures
from eval.results.index import ResultsIndex
from eval.results.record import ResultRecord
from eval.results.results_file import RESULTS_FILE, ResultsFile, iterate_results, read_results
from eval.results.run_info import RUN_FILE, read_run_info

__all__ = [
    "FAILED_FILE",
    "RESULTS_FILE",
    "RUN_FILE",
    "FailuresFile",
    "ResultRecord",
    "ResultsFile",
    "ResultsIndex",
    "iterate_results",
    "read_failures",
    "read_results",
    "read_run_info",
]
