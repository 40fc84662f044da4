"""Long jobs over a data set: items streamed in, results on disk one by one, nothing lost when the job dies.

Results are appended in the order in which they come and put into the data set's order when the job ends; so one slow
request holds up no other, a killed job loses only what was in flight (and the response cache has most of that), and
the final files do not depend on what happened on the way.
"""

from data_construction.generate.folder import JobFolder
from data_construction.generate.items import Again, Item, SetAside, Source
from data_construction.generate.launch import Estimate, Job, estimate_job, run_job
from data_construction.generate.runner import Method, Runner, Work
from data_construction.generate.summary import Summary

__all__ = [
    "Again",
    "Estimate",
    "Item",
    "Job",
    "JobFolder",
    "Method",
    "Runner",
    "SetAside",
    "Source",
    "Summary",
    "Work",
    "estimate_job",
    "run_job",
]
