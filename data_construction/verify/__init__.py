"""Every trace is checked before it counts: one check a file in ``checks``, then near-duplicates, then a judge."""

from data_construction.verify.case import Case, VerifySettings
from data_construction.verify.judge import Judge, ask_judge
from data_construction.verify.registry import check_names, register_check, run_checks
from data_construction.verify.report import VerifyReport
from data_construction.verify.run import verify

__all__ = [
    "Case",
    "Judge",
    "VerifyReport",
    "VerifySettings",
    "ask_judge",
    "check_names",
    "register_check",
    "run_checks",
    "verify",
]
