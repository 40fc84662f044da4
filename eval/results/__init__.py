"""What a run of inference leaves on disk: records, the results file and its index, failures, ``run.json``.

May import nothing of ``eval``.
"""

from eval.results.failures import FAILED_FILE, Failure, FailuresFile, read_failures
from eval.results.index import index_results
from eval.results.record import ResultRecord
from eval.results.results_file import RESULTS_FILE, ResultsFile, iterate_results, read_results
from eval.results.run_info import RUN_FILE, read_run_file, read_run_info

__all__ = [
    "FAILED_FILE",
    "RESULTS_FILE",
    "RUN_FILE",
    "Failure",
    "FailuresFile",
    "ResultRecord",
    "ResultsFile",
    "index_results",
    "iterate_results",
    "read_failures",
    "read_results",
    "read_run_file",
    "read_run_info",
]
